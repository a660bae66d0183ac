"""Divide a network's parameters into groups, with an lr and a weight decay of their own."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch

from lrlab.config import targets
from lrlab.config.schema import flat
from lrlab.errors import UserError, must_be
from lrlab.process.plain import is_number

KEY = "groups"  # of an optimizer's config: pattern to settings
_EXAMPLE = "optimizer.groups={head:{lr:10}}"
_SETTINGS = {"lr": 10, "weight_decay": 0, "adamw": "true"}  # with an example each
_SHOWN = 8  # names of parameters in a line


@dataclass(frozen=True)
class Group:
    """Some parameters of a network, by their places in its order.

    Attributes:
        settings: lr, a factor on the run's, and weight_decay, where they are not the optimizer's;
            and whether matrices are AdamW's, too, of an optimizer that has others for them.
    """

    places: tuple[int, ...]
    settings: dict[str, float] = field(default_factory=dict)

    @property
    def factor(self) -> float:
        return self.settings.get("lr", 1.0)


def of(optimizer: Mapping[str, Any]) -> Any:
    """Return the groups in an optimizer's config; None if its class takes ``groups`` itself."""
    return None if are_its_own(optimizer) else optimizer.get(KEY)


def are_its_own(optimizer: Mapping[str, Any]) -> bool:
    """Return whether an optimizer's config has ``groups``, and its class an argument of the name.

    Raises:
        UserError: there is no such class.
    """
    path = optimizer.get("_target_")
    if KEY not in optimizer or not isinstance(path, str):
        return False
    call = targets.locate(f"optimizer._target_={path}", path, torch.optim.Optimizer)
    return KEY in (targets.taken(call) or ())


def structure(groups: Any) -> list[str]:
    """Return what lanes of a stack must have in common: patterns and settings, not their values.

    Raises:
        UserError: they are no patterns with settings.
    """
    return sorted(
        f"{pattern}.{setting}" + (f"={value}" if isinstance(value, bool) else "")
        for pattern, setting, value in _read(groups)
    )


def divided(groups: Any, names: Sequence[str]) -> list[Group]:
    """Return the groups of the parameters with these names: first that of no pattern, if any.

    A pattern is a name with wildcards as in a shell, or the name of a module, for all within it.

    Raises:
        UserError: a pattern matches no parameter, or two give one the same setting.
    """
    found: list[dict[str, float]] = [{} for _ in names]
    patterns: list[dict[str, str]] = [{} for _ in names]  # setting to the pattern that gives it
    for pattern, setting, value in _read(groups):
        places = [i for i, name in enumerate(names) if _matches(name, pattern)]
        if not places:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            raise UserError(
                f"optimizer.groups.{pattern}: matches no parameter that is trained; "
                f"these are {shown}"
            )
        for place in places:
            other = patterns[place].setdefault(setting, pattern)
            if other != pattern:
                raise UserError(
                    f"optimizer.groups: {other} and {pattern} both set {setting} of "
                    f"{names[place]}; use patterns that share no parameter"
                )
            found[place][setting] = value
    # By patterns, not by values: lanes of a stack have the same groups, whatever their values.
    places_of: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place in sorted(range(len(names)), key=lambda place: bool(patterns[place])):
        places_of.setdefault(tuple(sorted(patterns[place].items())), []).append(place)
    return [Group(tuple(places), found[places[0]]) for places in places_of.values()]


def grouped(target: targets.Target, groups: Sequence[Group]) -> targets.Target:
    """Return the optimizer's class as a function that divides the parameters that it is given."""

    @functools.wraps(target.call)
    def made(leaves: Sequence[torch.nn.Parameter], lr: float, **arguments: Any) -> Any:
        parts = [
            {"params": [leaves[i] for i in group.places], **group.settings, "lr": lr * group.factor}
            for group in groups
        ]
        return target.call(parts, lr=lr, **arguments)

    return replace(target, call=made)


def check(groups: Any, target: targets.Target) -> None:
    """Check the settings of groups; see ``divided`` for their patterns.

    Raises:
        UserError: a value cannot work, or the optimizer has no such setting.
    """
    for pattern, setting, value in _read(groups):
        typed = f"optimizer.groups.{pattern}.{setting}"
        takes = [name for name in _SETTINGS if name != "adamw" or "adamw_lr" in target.arguments]
        if setting not in takes:
            raise UserError(
                f"{typed}={value}: a group has no such setting; it takes {', '.join(takes)}"
            )
        if setting == "adamw":
            if not isinstance(value, bool):
                raise must_be(typed, value, "true or false", "true")
            continue
        if not is_number(value) or value < 0:
            raise must_be(typed, value, "a number of at least 0", _SETTINGS[setting])
        if setting == "weight_decay" and setting not in target.arguments:
            raise UserError(f"{typed}={value}: {target.name} has no weight decay")


def _read(groups: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield pattern, setting and value; a pattern with dots may have been read as nested keys."""
    if groups is None:
        return
    if isinstance(groups, Mapping):
        for key, value in flat(groups).items():
            pattern, dot, setting = key.rpartition(".")
            if not dot or isinstance(value, Mapping):
                break
            yield pattern, setting, value
        else:
            return
    raise UserError(
        f"optimizer.groups={groups}: must give settings to patterns of parameters' names, "
        f"for example {_EXAMPLE}"
    )


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
