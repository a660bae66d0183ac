"""Find the differences between sweeps: settings, versions, device, data."""

import re
from collections.abc import Sequence

import pandas as pd

from lrlab.comparison.by_lr import distinct
from lrlab.comparison.reading import Side
from lrlab.tables import sweep_settings


def differences(sides: Sequence[Side]) -> pd.DataFrame:
    """Return everything that is not the same in all sweeps.

    Returns:
        One row a difference: setting, kind ("setting" or "environment"), and a column for each
        sweep's letter with the value or values there, as text; "-" if there is none.
    """
    rows = [{"setting": "swept", "kind": "setting", **{s.letter: _swept(s) for s in sides}}]
    keys = dict.fromkeys(key for side in sides for each in side.settings for key in each)
    for key in keys:
        values = {side.letter: _values(side, key) for side in sides}
        if len(set(values.values())) > 1 and (key == "lr" or _differs(sides, key)):
            told = {letter: _listed(each) for letter, each in values.items()}
            rows.append({"setting": key, "kind": "setting", **told})
    for key in dict.fromkeys(key for side in sides for key in side.environment):
        values = {side.letter: side.environment.get(key, ()) for side in sides}
        if len(set(values.values())) > 1:
            told = {letter: _listed(each) for letter, each in values.items()}
            rows.append({"setting": key, "kind": "environment", **told})
    if len({rows[0][side.letter] for side in sides}) == 1:
        rows = rows[1:]
    return pd.DataFrame(rows, columns=["setting", "kind", *(side.letter for side in sides)])


def _values(side: Side, key: str, choice: str | None = None) -> tuple[str, ...]:
    """Return a setting's different values in a sweep, among runs with that choice of its group."""
    group = key.partition(".")[0]
    found = {
        each[key]
        for each in side.settings
        if key in each and (choice is None or each.get(group) == choice)
    }
    order = sorted(found, key=lambda value: (isinstance(value, str), value is None, value or 0))
    return tuple(dict.fromkeys(map(sweep_settings.shown, order)))


def _differs(sides: Sequence[Side], key: str) -> bool:
    """Return whether a setting differs by itself, not just because another choice lacks it."""
    if "." not in key:
        return True
    choices = {each.get(key.partition(".")[0]) for side in sides for each in side.settings}
    values = [{_values(side, key, choice) for side in sides} - {()} for choice in choices]
    return any(len(each) > 1 for each in values)


def _swept(side: Side) -> str:
    keys = dict.fromkeys(key for each in side.settings for key in each)
    own = [key for key in keys if len(_values(side, key)) > 1]
    of_group = {key: {each.get(key.partition(".")[0]) for each in side.settings} for key in own}
    kept = [
        key
        for key in own
        if "." not in key or any(len(_values(side, key, choice)) > 1 for choice in of_group[key])
    ]
    if not side.settings:
        kept = [name for name in ("lr", "seed") if distinct(side.verdicts, name) > 1]
    return ", ".join(kept) or "-"


def _listed(values: Sequence[str]) -> str:
    if not values:
        return "-"
    if len(values) <= 4 or not all(map(_is_number, values)):
        return ", ".join(values)
    return f"{values[0]} to {values[-1]} ({len(values)})"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text) is not None
