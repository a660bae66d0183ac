"""Verdicts as text: the sentence of each run, the table of a terminal, the JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from lrlab.errors import in_a_line
from lrlab.process import fitting
from lrlab.process.plain import to_json
from lrlab.tables import frames, tidy
from lrlab.verdicts import answer
from lrlab.verdicts.evidence import Numbers
from lrlab.verdicts.outcomes import UNFINISHED

_HOW_IT_STANDS = {
    "pruned": "pruned",
    "interrupted": "interrupted",
    "failed": "failed with an error",
    "running": "still running",
    "training": "still running",
    "waiting": "not begun",
}


def fell(n: Numbers) -> str:
    """How the loss went, from its start to its end."""
    name = "val loss" if n.judged_by == "val_loss" else "loss"
    start, end = n.initial_loss, n.end_loss
    change = (end - start) / abs(start) if start else math.copysign(math.inf, end - start)
    if math.isnan(change) or end == start:
        return f"{name} ended at {loss(end)}, where it began"
    if abs(change) < 0.02:
        return f"{name} stayed at {end:.4g} ({start:.4g} before training)"
    return f"{name} {'fell' if change < 0 else 'rose'} from {loss(start)} to {loss(end)}"


def nonfinite(n: Numbers) -> str:
    """Where the loss stopped being finite."""
    where = f" at {n.unit} {n.first_nonfinite:.6g}" if math.isfinite(n.first_nonfinite) else ""
    if not n.losses:
        return f"the loss was not finite from the first record on{where}"
    return f"the loss became non-finite{where}, after {loss(n.peak_loss)} at its highest"


def above(end: float, best_end: float, best: str) -> str:
    """How far an end loss is above the best, in words."""
    if not math.isfinite(end):
        return f"worse than the best, {best}"
    if best_end > 0 and end > 2 * best_end:
        return f"{end / best_end:.3g} times the best, {best}"
    if end == best_end:
        return f"as low as the best, {best}"
    over = (end - best_end) / abs(best_end) if best_end else math.inf
    if math.isinf(over):
        return f"above the best, {best}"
    if over <= -0.0005:
        return f"below {best}"
    return f"as low as the best, {best}" if over < 0.0005 else f"{over:.1%} above the best, {best}"


def sentence(n: Numbers, outcome: str, why: str, word: str, told: str, how: str) -> str:
    """The evidence of a verdict.

    Args:
        why: what the outcome rests on.
        word, told: how the run stood at its end, and what says so; "" where nothing does.
        how: what the step mode rests on.
    """
    before = ""
    if n.state in _HOW_IT_STANDS:
        where = f" at {n.unit} {n.last:g}" if math.isfinite(n.last) else ""
        before = f"{_HOW_IT_STANDS[n.state]}{where}: "
    unknown = math.isnan(n.chance_loss) and outcome not in ("diverged", "pruned") and n.losses
    if unknown and n.end_loss > 0.5 * n.initial_loss:
        why += "; without num_classes or chance_loss, it was not compared with guessing"
    at_end = f"; at the end {word}" + (f", {told}" if told else "") if word else ""
    return f"{before}{why}: {outcome}{at_end} ({how})"


def loss(value: float) -> str:
    """A loss with three digits."""
    return f"{value:.3g}"


def in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Sorted by run, "name/2" before "name/10"."""

    def key(row: int) -> tuple[tuple[int, int, str], ...]:
        parts = re.findall(r"\d+|\D+", str(runs[row]))
        return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)

    runs = found["run"].tolist()
    return found.iloc[sorted(range(len(runs)), key=key)].reset_index(drop=True)


def verdict_table(found: pd.DataFrame, width: int | None = None) -> str:
    """One line a run: run, lr, what else varies, outcome, at the end, step mode, end loss.

    found: as from `verdicts`. Sorted as it is. Ends without a newline.
    width: columns of the terminal; None: a table of any width.
    """
    begun = found.loc[found["lr"].notna()]
    varying = ["seed"] if len(set(map(str, begun["seed"]))) > 1 else []
    varying += tidy.varying(found)
    columns = {
        "run": _names(found),
        "lr": [_cell(lr) for lr in found["lr"]],
        **{name: [_cell(value) for value in found[name]] for name in varying},
        "outcome": found["outcome"].tolist(),
        **_at_end(found),
        "steps": found["step_mode"].tolist(),
        **_states(found),
        "end loss": ["non-finite" if x == math.inf else _cell(x, ".4g") for x in found["end_loss"]],
        "decay": [_gain(gain) for gain in found["decay_gain"]],
    }
    if not bool(found["decay_gain"].notna().to_numpy().any()):  # no branch test
        del columns["decay"]
    left = {name for name in ("run", *varying) if not pd.api.types.is_numeric_dtype(found[name])}
    left |= {"outcome", "at the end", "steps", "state"}
    least = ["decay", "steps", "at the end", "state", *reversed(varying)]
    return "\n".join(fitting.fitted(columns, left, width, least, "--output FILE writes"))


def _at_end(found: pd.DataFrame) -> dict[str, list[str]]:
    """A column of how the runs stood at their end, where anything tells."""
    words = [str(word) or "-" for word in found["at_end"]]
    return {"at the end": words} if set(words) != {"-"} else {}


def _states(found: pd.DataFrame) -> dict[str, list[str]]:
    """A column of the states where some runs have not had their whole budget."""
    states = [str(state) for state in found["state"]]
    return {"state": states} if set(states) & set(UNFINISHED) else {}


def evidence_lines(found: pd.DataFrame, width: int | None = None) -> str:
    """The evidence of each run in words, after its run and lr.

    found: as from `verdicts`. width: columns of the terminal; None: each run on one line.
    """
    runs, lrs = _names(found), [f"lr {_cell(lr)}" for lr in found["lr"]]
    of_run, of_lr = max(map(len, runs), default=0), max(map(len, lrs), default=0)
    is_number = pd.api.types.is_numeric_dtype(found["run"])
    heads = [
        f"{run.rjust(of_run) if is_number else run.ljust(of_run)}  {lr.ljust(of_lr)}  "
        for run, lr in zip(runs, lrs, strict=True)
    ]
    lines = zip(heads, found["evidence"], strict=True)
    return "\n".join(fitting.wrapped(head, text, width) for head, text in lines)


def _names(found: pd.DataFrame) -> list[str]:
    return [in_a_line(str(run)) for run in found["run"].tolist()]


def _cell(value: Any, spec: str = "g") -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:{spec}}" if isinstance(value, float) else in_a_line(str(value))


def _gain(gain: float) -> str:
    if math.isnan(gain):
        return "-"
    return "non-finite" if gain == -math.inf else f"{round(gain, 2) + 0.0:.2f}"


def as_json(found: pd.DataFrame, answers: Sequence[answer.Answer], notes: Sequence[str]) -> str:
    """Verdicts, answers and notes as one JSON object; what is not finite is null."""
    shown = found.drop(columns=frames.PARTS, errors="ignore")
    rows = json.loads(shown.to_json(orient="records", double_precision=15) or "[]")
    whole = {"verdicts": rows, "answers": [asdict(each) for each in answers], "notes": list(notes)}
    return to_json(whole, default=_plain)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
