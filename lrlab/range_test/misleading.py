"""Find where the ramp misleads, compared with constant lrs, and what a sweep should try."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lrlab.range_test.constants import Constants
from lrlab.range_test.ramp import Ramp
from lrlab.range_test.rates import plain, times

MISLED = 0.02  # of the best lr's gain; a suggestion that loses less does not mislead


def overfits(constants: Constants, train: Constants | None) -> bool:
    """Return whether the lrs that fail by the held-out loss still lower the training loss.

    Args:
        train: the constant lrs read by their training losses; None: ``constants`` already are.
    """
    fails = constants.fails_from
    if train is None or fails is None:
        return False
    return train.fails_from is None or train.fails_from > fails


def where_the_ramp_misleads(ramp: Ramp, constants: Constants, overfit: bool = False) -> list[str]:
    """Return where the ramp and the constant learning rates disagree, a sentence each.

    The ramp reaches an lr with the progress of all smaller ones. And an lr that is too large needs
    some steps to blow up, during which the ramp goes on. Losses below MISLED do not matter.

    Args:
        overfit: see ``overfits``.
    """
    fail, blows_up = ("overfit", "rises again") if overfit else ("fail", "blows up")
    whose = "'s loss" if overfit else ""
    best, fails, blow_up = constants.best, constants.fails_from, ramp.blow_up
    if best is None:
        named = [f"{each.rule}, lr {plain(each.lr)}" for each in ramp.suggestions if each.lr]
        said = f"{' and '.join(named)}: no constant lr learned anything, so the ramp says nothing"
        return [said] if named else []
    lowest = float(np.min(constants.end))
    gain = constants.start - lowest

    def loses(lr: float) -> bool:
        return constants.loss_at(lr) - lowest > MISLED * gain

    found = []
    for suggestion in ramp.suggestions:
        lr = suggestion.lr
        if lr is None or not loses(lr):
            continue
        does = "fails"
        if math.isfinite(constants.loss_at(lr)):
            does = f"ends at {constants.ends_at(lr)}, the best at {lowest:.3g}"
        far = f"is {times(lr, best)} the best constant lr"
        found.append(f"{suggestion.rule}, lr {plain(lr)}, {far}: held constant, it {does}")
    if ramp.minimum is not None and ramp.minimum > best and loses(ramp.minimum):
        what = f"the best constant lr is {plain(best)}"
        if fails is not None and ramp.minimum >= fails:
            what = f"constant lrs {fail} from {plain(fails)} on"
        found.append(
            f"the ramp's loss is lowest at lr {plain(ramp.minimum)}, but {what}: "
            "the ramp arrives there with the progress made at smaller lrs"
        )
    if blow_up is not None and fails is not None and blow_up > fails:
        found.append(
            f"the ramp{whose} {blows_up} at lr {plain(blow_up)}, but constant lrs {fail} from "
            f"{plain(fails)} on: {'that' if overfit else 'a blow-up'} takes some steps, while the "
            "ramp's lr goes on rising"
        )
    elif blow_up is not None and constants.loss_at(blow_up) < lowest + gain / 2:
        found.append(
            f"the ramp{whose} {blows_up} at lr {plain(blow_up)}, where a constant lr still trains "
            f"(it ends at {constants.ends_at(blow_up)}): the ramp got there too early in training"
        )
    return found


def sweep_range(constants: Constants) -> tuple[float, float] | None:
    """Return the lrs for the next sweep, from a third to three times those that do as well.

    A sweep trains longer, and its best lr is rarely far from here. It may fail at the upper end,
    which is worth seeing once. None if nothing was learned.
    """
    if constants.as_good is None:
        return None
    low, high = constants.as_good
    upper = 3 * high
    if constants.fails_from is not None:
        upper = max(min(upper, constants.fails_from), high)
    return _rounded(low / 3, math.floor), _rounded(upper, math.ceil)


def _rounded(value: float, to: Callable[[float], int]) -> float:
    """Round to one digit, down or up."""
    exponent = math.floor(math.log10(value))
    return float(f"{to(round(value / 10.0**exponent, 6))}e{exponent}")
