# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""Write the answer of the range test in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrlab.range_test.found import Found


def sweep_command(found: Found, typed: Sequence[str] = ()) -> str | None:
    """Return the sweep to run next, as one would type it; None: nothing was learned.

    Args:
        typed: the settings of the test; the sweep has the same ones.
    """
    import shlex

    if found.sweep is None:
        return None
    # It sweeps a grid, which has no number of trials.
    kept = [word for word in typed if word.partition("=")[0] not in ("name", "n_trials", "budget")]
    low, high = found.sweep
    return shlex.join(["python", "-m", "lrlab.sweep", *kept, f"lr={low:g}..{high:g}", "points=7"])


def with_left_out(found: Found, left_out: Sequence[str]) -> Found:
    """Return the same result, whose answer says what a budget left out."""
    from dataclasses import replace

    found = replace(found, left_out=tuple(left_out))
    return replace(found, answer=tuple(words(found)))


def words(found: Found) -> list[str]:
    """Return the answer, a line each."""
    from lrlab.range_test.rates import plain

    constants, steps = found.constants, found.options.steps
    lines = [_judged(found)]
    if constants.best is None:
        lines.append(f"find: no learning rate to suggest: {constants.why_none}")
    elif constants.as_good is not None:
        low, high = constants.as_good
        line = f"find: constant lr {plain(constants.best)} did best in {steps} steps"
        line += f" (loss {min(constants.end):.3g}, from {constants.start:.3g})"
        lines.append(line + (f"; {plain(low)} to {plain(high)} did as well" if low < high else ""))
        if constants.edge == "low":
            lines.append(f"find: lr {plain(low)} is the smallest one tried; begin the range lower")
        elif constants.edge:
            lines.append(f"find: lr {plain(high)} is the largest one tried; end the range higher")
    lines += [*_of_training(found), *_fails(found)]
    for suggestion in found.ramp.suggestions:
        what = f"lr {plain(suggestion.lr)}" if suggestion.lr else f"none, {suggestion.why_not}"
        lines.append(f"find: the ramp's {suggestion.rule:10} {what}")
    lines += [f"find: misleading: {sentence}" for sentence in found.misleads]
    if not found.misleads:
        if found.ramp.minimum is None and not any(each.lr for each in found.ramp.suggestions):
            lines.append("find: the ramp suggests no learning rate")
        elif constants.best is not None:
            lines.append("find: the ramp does not mislead here")
    if found.left_out:
        lines.append(f"find: left out for the budget: {' and '.join(found.left_out)}")
    return lines


def _judged(found: Found) -> str:
    if found.val_samples is None:
        why = f": {found.no_val}" if found.no_val else ""
        return f"find: the training loss judges the learning rates{why}"
    samples = "sample" if found.val_samples == 1 else "samples"
    return f"find: the loss of {found.val_samples:,} held-out {samples} judges the learning rates"


def _of_training(found: Found) -> list[str]:
    """Return a line if the training loss puts its best lr more than a step of the grid away."""
    import numpy as np

    from lrlab.range_test.rates import plain, times

    train, judged = found.train_constants, found.constants
    if train is None or train.best == judged.best:
        return []
    if train.best is None:
        return ["find: by the training loss, no learning rate learned anything"]
    at, ends = train.best, judged.ends_at(train.best)
    said = f"find: the training loss would choose lr {plain(at)}"
    if judged.best is None or judged.as_good is None:
        return [f"{said}, but its held-out loss goes from {judged.start:.3g} to {ends}"]
    if abs(int(np.subtract(*np.searchsorted(judged.lr, [at, judged.best])))) <= 1:
        return []
    if judged.as_good[0] <= at <= judged.as_good[1]:
        return [f"{said}, which does as well by the held-out loss"]
    end = f"its held-out loss ends at {ends}, that of the best at {min(judged.end):.3g}"
    return [f"{said}, {times(at, judged.best)} the best; {end}"]


def _fails(found: Found) -> list[str]:
    """Return from where on constant lrs fail, or fail only by the held-out loss."""
    from lrlab.range_test.misleading import overfits
    from lrlab.range_test.rates import plain

    fails, train = found.constants.fails_from, found.train_constants
    if fails is None:
        return []
    if train is None or not overfits(found.constants, train):
        return [f"find: constant lrs fail from {plain(fails)} on"]
    line = f"find: constant lrs overfit from {plain(fails)} on: only their training loss falls"
    line += "" if train.fails_from is None else f"; from {plain(train.fails_from)} on they fail"
    return [line]


def told(
    found: Found, command: str | None, folder: Path | None = None, width: int | None = None
) -> str:
    """Return the answer in a few lines.

    width: columns of the terminal; None: each sentence in one line.
    """
    from lrlab.process import fitting
    from lrlab.process.paths import display_path

    lines = fitting.sentences(words(found), width, len("find: "))
    if command is not None:
        lines.append(f"next   {command}")
    if folder is not None:
        lines.append(f"find   {display_path(folder)}")
        lines += [f"plot   {display_path(path)}" for path in sorted(folder.glob("*.png"))]
    return "\n".join(lines)
