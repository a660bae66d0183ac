"""Write verdicts as text: the sentence of each run, the table for a terminal, the JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from lrlab.errors import in_a_line
from lrlab.process import fitting, only_json
from lrlab.tables import frames, tidy
from lrlab.verdicts import answer
from lrlab.verdicts.outcomes import UNFINISHED
from lrlab.verdicts.printed import answer_json


def in_order(found: pd.DataFrame) -> pd.DataFrame:
    """Sort by run, "name/2" before "name/10"."""

    def key(row: int) -> tuple[tuple[int, int, str], ...]:
        parts = re.findall(r"\d+|\D+", str(runs[row]))
        return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)

    runs = found["run"].tolist()
    return found.iloc[sorted(range(len(runs)), key=key)].reset_index(drop=True)


def verdict_table(found: pd.DataFrame, width: int | None = None) -> str:
    """Return one line a run: run, lr, what else varies, outcome, at the end, step mode, end loss.

    found: as from `verdicts`. width: columns of the terminal; None: a table of any width.
    """
    begun = found.loc[found["lr"].notna()]
    varying = ["seed"] if len(set(map(str, begun["seed"]))) > 1 else []
    varying += tidy.varying(found)
    columns = {
        "run": _names(found),
        "lr": [cell(lr) for lr in found["lr"]],
        **{name: [cell(value) for value in found[name]] for name in varying},
        "outcome": found["outcome"].tolist(),
        "at the end": [str(word) or "-" for word in found["at_end"]],
        "steps": found["step_mode"].tolist(),
        "state": [str(state) for state in found["state"]],
        "end loss": ["non-finite" if x == math.inf else cell(x, ".4g") for x in found["end_loss"]],
        "decay": [_gain(gain) for gain in found["decay_gain"]],
    }
    for name in ("at the end", "decay"):
        if set(columns[name]) <= {"-"}:  # nothing shows it, or no branch test was made
            del columns[name]
    if not set(columns["state"]) & set(UNFINISHED):
        del columns["state"]
    left = {name for name in ("run", *varying) if not pd.api.types.is_numeric_dtype(found[name])}
    left |= {"outcome", "at the end", "steps", "state"}
    least = ["decay", "steps", "at the end", "state", *reversed(varying)]
    return "\n".join(fitting.fitted(columns, left, width, least, "--output FILE writes"))


def evidence_lines(found: pd.DataFrame, width: int | None = None) -> str:
    """Return each run and lr with the evidence in words.

    found: as from `verdicts`. width: columns of the terminal; None: each run on one line.
    """
    runs, lrs = _names(found), [f"lr {cell(lr)}" for lr in found["lr"]]
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


def cell(value: Any, spec: str = "g") -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:{spec}}" if isinstance(value, float) else in_a_line(str(value))


def _gain(gain: float) -> str:
    if math.isnan(gain):
        return "-"
    return "non-finite" if gain == -math.inf else f"{round(gain, 2) + 0.0:.2f}"


def as_object(
    found: pd.DataFrame,
    answers: Sequence[answer.Answer],
    notes: Sequence[str],
    sweep: Path | None = None,
) -> dict[str, Any]:
    """Return verdicts, answers and notes as the object that ``analysis --json`` prints.

    Args:
        sweep: the folder, where one sweep alone was judged.
    """
    return {
        **only_json.head("analysis"),
        "verdicts": frames.rows(found.drop(columns=frames.PARTS, errors="ignore")),
        "answers": [asdict(each) for each in answers],
        "answer": answer_json.of_sweep(answers, sweep),
        "notes": list(notes),
    }
