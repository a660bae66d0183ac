"""What a run tells by itself: how its steps behave, and how it stood at its end."""

import math
from typing import Literal

from lrlab.records.thresholds import Thresholds
from lrlab.verdicts.evidence import Numbers, StepMode

AtEnd = Literal["overfitting", "would anneal", "still falling", "settled", "too noisy to tell", ""]
Steps = Literal["far too short", "about right", "unstable", ""]

# --- at the end -----------------------------------------------------------------------------------


def at_end(n: Numbers, t: Thresholds) -> tuple[AtEnd, str]:
    """How the run stood at its end, and what says so; "" where nothing can tell.

    The branch test is of train losses, so it says nothing of a run that overfits. A gain or a slope
    that is no larger than its noise says nothing either.
    """
    if n.overfits:
        return "overfitting", f"val loss was lowest {lowest_where(n)}, at {n.lowest_loss:.3g}"
    if not math.isnan(n.gain_low):
        noise = 0.0 if math.isnan(n.gain_noise) else t.noise * n.gain_noise
        if n.gain_low > t.gain and n.gain_low <= noise:
            told = f"lr/10 gains {n.gain_low:.2f} ± {noise:.2f} in log train loss"
            return "too noisy to tell", told
        if n.gain_low > t.gain:
            return "would anneal", f"lr/10 would cut the train loss by {less(n.gain_low)}"
    if n.annealed:
        return "settled", "its schedule took the lr to next to nothing"
    if math.isnan(n.slope):
        if not n.has_branches:
            return "", ""
        falls = n.gain_high > t.gain
        told = _branches(n)
        return ("still falling", told) if falls else ("settled", told)
    room = t.noise * n.slope_noise
    told = f"slope {n.slope:.2f}"
    if n.slope + room < 0 and n.slope <= t.slope:
        return "still falling", told
    if n.slope - room <= t.slope and n.slope + room >= 0:
        return "too noisy to tell", f"{told} ± {room:.2f}"
    if n.gain_high > t.gain:
        return "still falling", f"3·lr gains {n.gain_high:.2f} in log train loss"
    if abs(n.end_loss - n.initial_loss) < t.moved * abs(n.initial_loss):
        return "", ""  # a loss that has hardly moved is flat, and has not settled
    return "settled", told


def lowest_where(n: Numbers) -> str:
    if math.isnan(n.lowest_epoch):
        return f"at {n.unit} {n.lowest_at:.6g}"
    return f"after epoch {n.lowest_epoch:.6g}"


def less(gain: float) -> str:
    """By how much a loss is smaller that gains so much in its logarithm."""
    return f"{-math.expm1(-gain):.0%}"


def _branches(n: Numbers) -> str:
    low, high = (
        "explodes" if gain == -math.inf else f"gains {round(gain, 2) + 0.0:.2f}"
        for gain in (n.gain_low, n.gain_high)
    )
    return f"in log train loss lr/10 {low}, 3·lr {high}"


# --- steps ----------------------------------------------------------------------------------------


def steps(n: Numbers, t: Thresholds, failed: bool = False) -> Steps:
    """Return whether the steps are far too short, about right or unstable; "" where nothing tells.

    Far too short: each covers less than `thresholds.short` of the way to the minimum along it
    (alpha), and could be ten times as long before it were unstable (stability ratio). Alpha alone
    does not tell, for it misses a ravine whose walls the steps have just come down. With momentum a
    ratio alone does not: one step goes on for many. Of a run that did not fail, fewer than
    `thresholds.measured` steps tell nothing.
    """
    ratio, way = n.stability_ratio, n.alpha + 1
    if math.isnan(ratio) and math.isnan(way):
        return ""
    if failed:
        return "unstable"
    if n.measured < t.measured:
        return ""
    if ratio > t.unstable:
        return "unstable" if n.ratios >= t.measured else ""
    if way / 2 > t.unstable and _is_plain(n, t):
        return "unstable"
    if math.isnan(way) and not _is_plain(n, t):
        return ""
    if ratio >= t.short or way >= t.short:
        return "about right"
    return "" if math.isnan(ratio) else "far too short"


def step_mode(n: Numbers, failed: bool, is_slower: bool, t: Thresholds) -> tuple[StepMode, str]:
    """How the steps behaved, and what says so.

    On a quadratic of curvature λ, the recurrence of the steps has real positive roots (monotone),
    complex or negative ones (oscillating), or one outside the unit circle (unstable). The stability
    ratio says which. Without it, an alpha at or above 0 shows that steps cross the valley; one
    below 0 shows nothing, for alpha misses a swing across a ravine. A run that failed is judged by
    its largest ratio, for after an explosion the loss can be flat. An alpha of fewer than
    `thresholds.measured` steps shows nothing: of one mini-batch a good step may cross the valley.

    Args:
        is_slower: whether a smaller lr, with a loss as smooth, ended lower.
    """
    ratio = n.stability_ratio_max if failed else n.stability_ratio
    if math.isnan(ratio) and math.isnan(n.alpha):
        return _by_curve(n, failed, is_slower)
    told = _measured(n, ratio, failed, t)
    if math.isnan(ratio):
        crosses = n.alpha >= 0 and n.measured >= t.measured
        mode: StepMode = "oscillating" if crosses else "unknown"
    else:
        mode = _by_ratio(ratio, n.swings_from, t)
    if failed and mode != "unstable":
        few = n.measured < t.measured  # and then it is said where
        told.append("before it failed" if few else "where it was measured, before it failed")
        mode = "unstable"
    return mode, f"steps by {', '.join(told)}"


def _measured(n: Numbers, ratio: float, failed: bool, t: Thresholds) -> list[str]:
    """The ratio and the alpha in words, and at how many steps they were measured where at few."""
    told: list[str] = []
    if not math.isnan(ratio):
        few = _few(n.ratios, t)
        kind = "at most " if failed else "" if n.ratios == 1 else "median "
        told.append(f"stability ratio {kind}{_short(ratio)}{few}")
    if not math.isnan(n.alpha):
        kind = "" if n.measured == 1 else "median "
        told.append(f"{kind}alpha {n.alpha:.2f}{_few(n.measured, t)}")
    return told


def _few(count: int, t: Thresholds) -> str:
    if count >= t.measured:
        return ""
    return " at the one step measured" if count == 1 else f" of {count} steps"


def _by_ratio(ratio: float, swings_from: float, t: Thresholds) -> StepMode:
    if ratio >= t.edge:
        return "unstable" if ratio > t.unstable else "edge"
    if math.isnan(swings_from):  # with an unknown momentum, steps swing earlier
        return "oscillating" if ratio >= t.oscillating else "unknown"
    return "oscillating" if ratio >= swings_from else "monotone"


def _is_plain(n: Numbers, t: Thresholds) -> bool:
    """Return whether its optimizer has no momentum."""
    return n.swings_from == t.oscillating


def _by_curve(n: Numbers, failed: bool, is_slower: bool) -> tuple[StepMode, str]:
    if failed:
        return "unstable", "steps by the curve alone"
    if n.curve_mode == "monotone" and is_slower:
        # On a quadratic the loss falls at every step up to the border of stability, but beyond
        # lr·λ = 1, where each step crosses the valley, it falls the slower the longer the step.
        return "oscillating", "steps by the curve alone: smooth, but a smaller lr fell faster"
    if n.curve_mode == "monotone":
        return "monotone", "steps by the curve alone: the loss fell at every step"
    if n.curve_mode == "unknown":
        return "unknown", "steps not measured"
    return n.curve_mode, "steps by the curve alone"


def _short(ratio: float) -> str:
    if 0 < ratio < 0.01:  # as 0.00 it would not tell monotone steps from those of momentum
        return f"{ratio:.1g}"
    return f"{ratio:.2f}" if ratio < 1000 else f"{ratio:.3g}"
