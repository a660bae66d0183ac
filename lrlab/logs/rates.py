"""Find the learning rate of each run: from an option, from the log, or from a name."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lrlab.errors import UserError, in_a_line
from lrlab.logs import wandb
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log
from lrlab.process.plain import A_RATE, is_rate
from lrlab.tables.tidy import SETTINGS

_NUMBER = r"[+]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FRACTION = r"(?:\d+\.\d+|\.\d+|\d+\.?\d*[eE][+-]?\d+)"
_IN_A_NAME = re.compile(
    r"(?<![A-Za-z])(?:lr|learning[ _-]?rate)"
    rf"(?:(?:=|: ?)(?P<lr>{_NUMBER})|[ _-]?(?P<lr2>{_FRACTION}))"
    r"(?![\d.]*\d)",
    re.IGNORECASE,
)
# In a name by itself: lr=1, lr_0.1, lr3e-4. A plain lr1 may be the second of lr0, lr1, lr2.
_OR_COLUMN = ", or --lr-column NAME where a column or parameter has it"
_FIELDS = ("lr", "seed", *SETTINGS)
OURS = ("run", "step", "epoch", "train_loss", "val_loss", "grad_norm", "seed", "lr_at_step")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about logs of other programs."""
    group = parser.add_argument_group("logs of other programs")
    group.add_argument(
        "--lr",
        action="append",
        default=[],
        metavar="LR",
        help="the learning rate of the only run, or NAME=LR of one of several",
    )
    group.add_argument(
        "--lr-column", default="", metavar="NAME", help="the column or parameter that holds it"
    )
    group.add_argument(
        "--lr-from",
        default="",
        metavar="PATTERN",
        help="where it stands in the names of runs, files or folders: lr{lr}, or a regular "
        "expression with a group (?P<lr>...)",
    )
    group.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="the column to take for one of lrlab's: val_loss=eval/nll",
    )


def wanted(options: argparse.Namespace) -> Wanted:
    """Return what the options ask for.

    Raises:
        UserError: a value of one cannot work.
    """
    pairs: list[tuple[str, str]] = []
    for text in options.column:
        ours, _, theirs = text.partition("=")
        if ours not in OURS or not theirs:
            raise UserError(
                f"--column={text}: must be OURS=THEIRS, with one of {', '.join(OURS)} on the left"
            )
        pairs.append((ours, theirs))
    lrs = tuple(part for text in options.lr for part in text.split(","))
    for part in lrs:
        _number(part.rpartition("=")[2], f"--lr={part}")
    if options.lr_from:
        _pattern(options.lr_from)
    return Wanted(lrs, options.lr_column, options.lr_from, tuple(pairs))


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_rate(value):
        raise UserError(f"{where}: must be {A_RATE}, like --lr 0.1")
    return value


def _pattern(text: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern.

    Raises:
        UserError: it names no lr, or is no regular expression.
    """
    if "{lr}" in text:
        parts = re.split(r"\{(\w+)\}", text)
        for name in parts[1::2]:
            if name not in _FIELDS:
                raise UserError(
                    f"--lr-from={text}: {{{name}}} is unknown; choose from {', '.join(_FIELDS)}"
                )
        made = [re.escape(part) for part in parts]
        for i in range(1, len(parts), 2):
            value = _NUMBER if parts[i] == "lr" else r"[A-Za-z0-9.]+?"
            made[i] = f"(?P<{parts[i]}>{value})"
        end = r"(?![\d.]*\d)" if text.endswith("{lr}") else r"(?![A-Za-z0-9])"
        text = "".join(made) + (end if parts[-1] == "" else "")
    try:
        found = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"--lr-from={text}: is no regular expression ({error})") from None
    if "lr" not in found.groupindex:
        raise UserError(f"--lr-from={text}: needs {{lr}} or a group (?P<lr>...), like 'lr{{lr}}'")
    return found


def resolved(log: Log, names: Sequence[tuple[str, ...]], wanted: Wanted) -> Log:
    """Return the log with the lr of each of its runs, as far as that can be found.

    Args:
        names: for each run the texts to look in, the nearest first: its name, the file, folders.
    """
    rows: Any = log.rows
    runs = log.runs
    if wanted.lr_from:
        return _by_pattern(log, names, _pattern(wanted.lr_from), f"--lr-from {wanted.lr_from}")
    named = {part.rpartition("=")[0]: part for part in wanted.lr if "=" in part}
    alone = [part for part in wanted.lr if "=" not in part]
    found: dict[Any, float] = {}
    for run, texts in zip(runs, names, strict=True):
        keys = [text for text in texts if text in named]
        if keys:
            found[run] = _number(named[keys[0]].rpartition("=")[2], "--lr")
        elif alone:
            found[run] = _number(alone[0], "--lr")
    if found:
        filled = rows["run"].map(found).astype(float).fillna(rows["lr"])
        whence = "--lr" if len(found) == len(runs) or not log.lr_from else f"--lr or {log.lr_from}"
        return replace(log, rows=rows.assign(lr=filled), lr_from=whence)
    if not wanted.lr_column and rows["lr"].isna().all():
        return _by_pattern(log, names, _IN_A_NAME, "its name", quiet=True)
    return log


def _by_pattern(
    log: Log,
    names: Sequence[tuple[str, ...]],
    pattern: re.Pattern[str],
    what: str,
    quiet: bool = False,
) -> Log:
    found: dict[Any, float] = {}
    others: dict[Any, dict[str, str]] = {}
    for run, texts in zip(log.runs, names, strict=True):
        for text in texts:
            matches = [m for m in pattern.finditer(text) if _is_number(_rate_of(m))]
            values = {float(_rate_of(m)) for m in matches}
            if len(values) == 1:
                match = matches[0]
                found[run] = values.pop()
                others[run] = {k: v for k, v in match.groupdict().items() if k in _FIELDS[1:] and v}
                break
            if len(values) > 1 and not quiet:
                raise UserError(f"{what}: finds {len(values)} rates in {in_a_line(text)}")
        else:
            if quiet:
                return log
            raise UserError(
                f"{what}: finds no rate in the name {in_a_line(texts[0])}; write the text "
                "around it, like 'lr{lr}'"
            )
    rows: Any = log.rows
    rows = rows.assign(lr=rows["run"].map(found))
    for field in dict.fromkeys(name for each in others.values() for name in each):
        from lrlab.logs.log import plain_values

        values = [others[run].get(field, "") for run in rows["run"]]
        rows = rows.assign(**{field: plain_values(values)})
    where = what if len(log.runs) == 1 else what.replace("its name", "their names")
    return replace(log, rows=rows, lr_from=where)


def _rate_of(match: re.Match[str]) -> str:
    told = match.groupdict()
    return told["lr"] or told.get("lr2") or ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check(logs: Sequence[Log], names: Sequence[str], wanted: Wanted) -> None:
    """Check that each run has an lr, and that each --lr was for one of them.

    Raises:
        UserError: says which option to type.
    """
    runs = [name for name in names]
    alone = [part for part in wanted.lr if "=" not in part]
    if alone and (len(runs) > 1 or len(wanted.lr) > 1):
        raise UserError(
            f"--lr={alone[0]}: is the rate of one run, and there are {len(runs)} ({_some(runs)}); "
            f"give each its own, --lr {shlex.quote(f'{runs[0]}=0.1')}, or --lr-from PATTERN"
        )
    for part in wanted.lr:
        name = part.rpartition("=")[0]
        if "=" in part and name not in runs:
            from lrlab.config.schema import nearest

            raise UserError(
                f"--lr={part}: there is no run {name}{nearest(name, runs)}; the runs are "
                f"{_some(runs)}"
            )
    place = 0
    lacking: list[str] = []
    for log in logs:
        of_log = runs[place : place + len(log.runs)]
        place += len(log.runs)
        has = set(log.rows.loc[log.rows["lr"].notna(), "run"].unique().tolist())
        lacking += [name for run, name in zip(log.runs, of_log, strict=True) if run not in has]
    if lacking:
        raise UserError(_missing(logs, lacking, len(runs)))


def schedules(rows: Any) -> list[str]:
    """Return a line if the rates of some runs stay, and those of others fall to less than half.

    Args:
        rows: run, lr, and where there lr_at_step, the rate of each step; of all runs.
    """
    if "lr_at_step" not in rows:
        return []
    by_run = rows.groupby("run", sort=False)
    last = by_run["lr_at_step"].last() / by_run["lr"].first()
    ends = by_run["step" if "step" in rows else "epoch"].max()
    last = last[ends > 0.9 * ends.max()]  # a run that ended early had no time to fall
    stays = [str(run) for run in last.index[last.isna() | (last > 0.99)]]
    falls = [str(run) for run in last.index[last < 0.5]]
    if not stays or not falls:
        return []
    return [
        f"the rate stays in {_some(stays)}, and falls in {_some(falls)}: these may differ in more "
        "than their lr"
    ]


def _missing(logs: Sequence[Log], lacking: Sequence[str], count: int) -> str:
    """Return the line about a missing lr, with the option to type."""
    log = logs[0]
    where = f"{log.place}: read as {log.program}, " if len(logs) == 1 else "the logs: "
    if count == 1:
        why = next((f" ({note})" for note in log.notes if note.startswith("hparams.yaml")), "")
        told = f"{where}the learning rate is not in it{why}; add it, for example --lr 0.1"
        return told + (f", or --lr-column {shlex.quote(log.like_lr[0])}" if log.like_lr else "")
    name = lacking[0]
    told = f"{where}the learning rate of {len(lacking)} of {count} runs is not in "
    told += f"{'it' if len(logs) == 1 else 'them'} ({_some(lacking)}); "
    each = f"--lr {shlex.quote(f'{name}=0.1')} for each run"
    if (pattern := _pattern_of(lacking)) is None:
        return f"{told}add {each}{'' if log.program == wandb.CHART else _OR_COLUMN}"
    return f"{told}if their names say it, add --lr-from {shlex.quote(pattern)}, else {each}"


def _pattern_of(names: Sequence[str]) -> str | None:
    """Return a pattern for the first number in names, if it may be a rate: not an index at the end.

    It is none if it is the same in all of several names.
    """
    numbers = [re.search(_NUMBER, name) for name in names]
    name, first = names[0], numbers[0]
    if first is None or (first.end() == len(name) and first[0].isdecimal()):
        return None
    if len(names) > 1 and len({number and number[0] for number in numbers}) == 1:
        return None
    return f"{name[: first.start()]}{{lr}}{name[first.end() :]}"


def _some(names: Sequence[str]) -> str:
    return in_a_line(", ".join(names[:5]) + (", ..." if len(names) > 5 else ""))
