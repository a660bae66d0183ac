"""Compare the records of a run, apart from its curve, with those of the run trained again.

``lrlab.reproduce`` compares the curves step by step. This file compares everything else that a
table, a report or best.yaml shows: summary, measured steps, branch test, model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrlab.errors import UserError
from lrlab.process.plain import is_real

if TYPE_CHECKING:
    import pandas as pd

# Keys of summary.json that a run trained again need not repeat: when, where, and next to which
# runs.
MAY_DIFFER = ("timing", "environment", "lanes", "seconds_to_target")
# Measured numbers, which have the tolerance. Everything else must be equal.
RESULTS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
MEASURED = (
    *("initial_loss", "chance_loss", "chance_val_loss", "majority_share"),
    *("target_mean", "target_std"),
    *(*RESULTS, *(f"{name}_ema" for name in RESULTS[2:]), "val_parts", "swings_from"),
)
UNFINISHED = ("pruned", "interrupted", "failed", "running", "training", "waiting")
# Measurements next to other lanes may round differently than alone; this changes no bit of the
# training.
MEASURING = {"diagnostics.csv": 1e-3}
MOST = 8  # differences that are named; the rest are counted
LONGEST = 60  # characters of a value


@dataclass(frozen=True)
class Difference:
    """One difference between the records.

    Attributes:
        name: the key, file or column.
        record, here: both values, as shown.
        size: how far apart they are, compared with a tolerance; inf where none applies.
    """

    name: str
    record: str
    here: str
    size: float = math.inf

    def __str__(self) -> str:
        return f"{self.name}: {self.record} in the record, {self.here} here"


def listed(found: Sequence[Difference]) -> list[str]:
    """Return a line for each difference, and one with the number of those beyond ``MOST``."""
    lines = [str(each) for each in found[:MOST]]
    if len(found) > MOST:
        lines.append(f"and {len(found) - MOST} more differences")
    return lines


# --- the summary ----------------------------------------------------------------------------------


def of_summary(
    record: Mapping[str, Any], again: Mapping[str, Any], folder: Path, metrics: pd.DataFrame
) -> list[Difference]:
    """Return the differences between summaries; keys that the record lacks are ignored.

    Args:
        record, again: as ``records.read_summary`` returns them; the new run went to its end.
        folder: the record's; its number is the run's.
        metrics: the new run's, as far as the record goes.
    """
    expected = _as_far(record, again, metrics)
    # null: not known yet when the run stopped
    early = record.get("state") in UNFINISHED and record.get("state") != "pruned"
    found = []
    if folder.name.isdecimal() and record.get("run", int(folder.name)) != int(folder.name):
        found.append(Difference("run", shown(record["run"]), f"its folder is {folder.name}"))
    for key, old in record.items():
        if key in MAY_DIFFER or key == "run" or (early and old is None):
            continue
        if key not in expected:
            found.append(Difference(key, shown(old), "no such key"))
        elif not same(old, expected[key]):
            found.append(_differing(key, old, expected[key]))
    reached, seconds = record.get("steps_to_target"), record.get("seconds_to_target")
    if "seconds_to_target" in record and (seconds is None) != (reached is None):
        found.append(
            Difference("seconds_to_target", shown(seconds), f"steps_to_target is {shown(reached)}")
        )
    elif seconds is not None and not (is_real(seconds) and 0 <= seconds < math.inf):
        found.append(Difference("seconds_to_target", shown(seconds), "seconds"))
    return found


def _as_far(
    record: Mapping[str, Any], again: Mapping[str, Any], metrics: pd.DataFrame
) -> dict[str, Any]:
    """Return the summary that a run would have if it stopped where the record stops."""
    state = record.get("state")
    if state not in UNFINISHED:
        return dict(again)
    last = max(map(int, metrics["step"].tolist()), default=-1)
    expected = {**again, **dict.fromkeys(RESULTS)}
    expected |= {"state": state, "first_nonfinite_step": None, "pruned_at_epoch": None}
    if "val_parts" in record:
        expected["val_parts"] = None
    if state == "failed" and isinstance(record.get("error"), str):
        expected["error"] = record["error"]
    # the run may already know the evaluation after the last row, whose step is not trained yet
    reached = again.get("steps_to_target")
    if reached is not None and reached > last + 1:
        expected["steps_to_target"] = None
    whole = len(metrics) and last == again.get("steps") and math.isnan(metrics["lr"].iloc[-1])
    if whole and state in ("pruned", "interrupted"):
        return dict(again)  # it was not stopped early
    if state == "pruned" and len(metrics):
        import numpy as np

        ended = metrics.iloc[-1]  # nine digits, which hold a float32
        loss, accuracy = (float(np.float32(ended[name])) for name in ("val_loss", "val_acc"))
        expected["val_loss"] = loss
        expected["val_acc"] = None if math.isnan(accuracy) else accuracy
        expected["pruned_at_epoch"] = last // max(1, int(again.get("steps_per_epoch") or 1))
    return expected


def _differing(key: str, old: Any, new: Any) -> Difference:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        place = next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if not same(a, b))
        sizes = [distance(a, b) for a, b in zip(old, new, strict=True) if not same(a, b)]
        size = max(sizes) if key in MEASURED else math.inf
        return Difference(f"{key}[{place}]", shown(old[place]), shown(new[place]), size)
    size = distance(old, new) if key in MEASURED else math.inf
    return Difference(key, shown(old), shown(new), size)


def same(old: Any, new: Any) -> bool:
    """Return whether two JSON values are equal; a bool is no number, and NaN equals itself."""
    if isinstance(old, bool) or isinstance(new, bool):
        return isinstance(old, bool) and isinstance(new, bool) and old == new
    if is_real(old) and is_real(new):
        return old == new or (old != old and new != new)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same, old, new))
    return type(old) is type(new) and old == new


def distance(old: Any, new: Any) -> float:
    """Return how far apart two numbers are; inf if one is no finite number."""
    if not (is_real(old) and is_real(new)):
        return math.inf
    try:
        apart = abs(float(old) - float(new))
    except OverflowError:
        return math.inf
    return apart if math.isfinite(apart) else math.inf


def shown(value: Any) -> str:
    """Return a value cut to the room in a line; null where it is None."""
    if value is None:
        return "null"
    if isinstance(value, int) and abs(value) >= 10**LONGEST:  # Python refuses to print 5000 digits
        return f"a number of {value.bit_length()} bits"
    try:
        text = str(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


# --- tables ---------------------------------------------------------------------------------------


def of_rows(file: Path, columns: Sequence[str]) -> list[Difference]:
    """Return what is wrong in a table of steps: unknown columns, steps repeated or out of order."""
    with file.open("rb") as stream:
        header = stream.readline(2**16)
        lines = stream.read().split(b"\n")[:-1]  # a torn last line does not count
    names = [name.strip('"') for name in header.decode("utf-8", "replace").strip().split(",")]
    found = []
    others = [name for name in dict.fromkeys(names) if name not in columns]
    others += [f"{name} twice" for name in columns if names.count(name) > 1]
    if others:
        found.append(Difference(f"{file.name}, columns", shown(", ".join(others)), "none such"))
    if "step" not in names:
        return found
    place = names.index("step")
    steps = [cells[place] for line in lines if len(cells := line.split(b",")) > place]
    found += _order(file.name, steps)
    return found


def _order(name: str, cells: Iterable[bytes]) -> Iterator[Difference]:
    """Return a line about steps that occur twice, or that follow a later one."""
    before: float = -math.inf
    seen: set[float] = set()
    twice: list[str] = []
    back: list[str] = []
    for cell in cells:
        try:
            step = float(cell)
        except ValueError:
            continue  # the reader reports it
        if step in seen:
            twice.append(f"{step:g}")
        elif step < before:
            back.append(f"{step:g} after {before:g}")
        seen.add(step)
        before = step
    if twice:
        yield Difference(f"{name}, repeated steps", _some(twice), "none")
    if back:
        yield Difference(f"{name}, steps out of order", _some(back), "none")


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def of_lr(record: pd.DataFrame, again: pd.DataFrame) -> list[Difference]:
    """Return rates and epochs that differ by more than rounding: settings have no tolerance."""
    import numpy as np

    old, new = (each.drop_duplicates("step").set_index("step") for each in (record, again))
    steps = old.index.intersection(new.index)
    found = []
    for name in ("lr", "epoch"):
        a, b = (each.loc[steps, name].to_numpy("float64") for each in (old, new))
        differ = ~(np.isclose(a, b, rtol=1e-6, atol=0) | (np.isnan(a) & np.isnan(b)))
        if differ.any():
            row = int(np.argmax(differ))
            where = f"metrics.csv, {name} at step {steps[row]:g}"
            found.append(Difference(where, f"{a[row]:.9g}", f"{b[row]:.9g}"))
    return found


def of_table(
    name: str,
    record: pd.DataFrame,
    again: pd.DataFrame,
    is_whole: bool = True,
    rounding: float = 0.0,
) -> Difference | None:
    """Return in one line how two tables of steps differ; None if they do not.

    Args:
        name: of the file.
        record, again: with a column ``step`` and others of numbers.
        is_whole: whether the record has all steps; if not, later ones of ``again`` are left out.
        rounding: the largest allowed difference, relative to the larger of 1 and the numbers' size.
    """
    import numpy as np

    if not is_whole:
        again = again.loc[again["step"] <= record["step"].max(), :]
    old, new = (each.drop_duplicates("step").set_index("step") for each in (record, again))
    if len(odd := old.index.symmetric_difference(new.index)):
        step = odd[0]
        here, there = ("there" if step in each.index else "none" for each in (new, old))
        return Difference(f"{name}, step {step:g}", there, here)
    new = new.loc[old.index, old.columns]
    a, b = old.to_numpy("float64"), new.to_numpy("float64")
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(a - b) / np.maximum(1, np.abs(b))
    apart[~np.isfinite(apart)] = np.inf
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (apart <= rounding))
    if not unequal.any():
        return None
    row, column = np.argwhere(unequal)[0]
    more = f" ({int(unequal.sum())} numbers differ)" if unequal.sum() > 1 else ""
    return Difference(
        f"{name}, {old.columns[column]} at step {old.index[row]:g}",
        f"{a[row, column]:.9g}",
        f"{b[row, column]:.9g}{more}",
        float(apart[unequal].max()),
    )


# --- the model ------------------------------------------------------------------------------------


def of_model(record: Path, again: Path, is_whole: bool = True) -> Difference | None:
    """Return in one line how the tensors of two model.pt differ; None if equal or absent.

    Args:
        is_whole: whether the recorded run went to its end; others have no model.
    """
    if not record.is_file():
        return None
    if not is_whole:
        return Difference(record.name, "there", "none, as the run did not finish")
    if not again.is_file():
        return Difference(record.name, "there", "none, its config has save_model=false")
    import torch

    from lrlab.training import checkpoints

    if record.read_bytes() == again.read_bytes():
        return None
    try:
        old, new = checkpoints.tensors(record), checkpoints.tensors(again)
    except UserError as error:
        return Difference(record.name, str(error).rpartition(": ")[2], "tensors")
    if names := sorted(set(map(str, old)) ^ set(map(str, new))):
        here, there = ("there" if names[0] in each else "none" for each in (new, old))
        return Difference(f"{record.name}, {shown(names[0])}", there, here)
    for name, tensor in new.items():
        other = old[name]
        if other.dtype != tensor.dtype or other.shape != tensor.shape:
            old_kind, new_kind = (f"{each.dtype} {tuple(each.shape)}" for each in (other, tensor))
            return Difference(f"{record.name}, {name}", old_kind, new_kind)
        unequal = (other != tensor) & ~(torch.isnan(other) & torch.isnan(tensor))
        if unequal.any():
            a, b = (each[unequal].to(torch.float64) for each in (other, tensor))
            apart = (a - b).abs().nan_to_num(math.inf)
            worst = int(apart.argmax())
            old_value, new_value = (f"{float(each[worst]):.9g}" for each in (a, b))
            size = float(apart[worst])
            return Difference(f"{record.name}, {name}", old_value, new_value, size)
    return None
