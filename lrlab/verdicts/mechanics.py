"""Judge a run without others: how its steps behave, and how it stood at its end."""

import math
from typing import Literal

from lrlab.records.thresholds import Thresholds
from lrlab.verdicts.evidence import Numbers, StepMode

AtEnd = Literal["overfitting", "would anneal", "still falling", "settled", "too noisy to tell", ""]
Steps = Literal["far too short", "about right", "unstable", ""]

# --- at the end -----------------------------------------------------------------------------------


def at_end(n: Numbers, t: Thresholds) -> tuple[AtEnd, str]:
    """Return how the run stood at its end, and the evidence; "" where nothing shows it.

    The branch test measures train losses, so it does not count for a run that overfits. A gain or a
    slope no larger than its noise does not count either.
    """
    if n.overfits:
        where = f"at {n.unit} {n.lowest_at:.6g}"
        if not math.isnan(n.lowest_epoch):
            where = f"after epoch {n.lowest_epoch:.6g}"
        return "overfitting", f"val loss was lowest {where}, at {n.lowest_loss:.3g}"
    if not math.isnan(n.gain_low):
        noise = 0.0 if math.isnan(n.gain_noise) else t.noise * n.gain_noise
        if n.gain_low > t.gain and n.gain_low <= noise:
            told = f"lr/10 gains {n.gain_low:.2f} ± {noise:.2f} in log train loss"
            return "too noisy to tell", told
        if n.gain_low > t.gain:
            return "would anneal", f"lr/10 would cut the train loss by {less(n.gain_low)}"
    if n.annealed:
        return "settled", f"its schedule ended below {t.annealed:.0%} of the lr"
    if math.isnan(n.slope):
        if not n.has_branches:
            return "", ""
        return "still falling" if n.gain_high > t.gain else "settled", _branches(n)
    room = t.noise * n.slope_noise
    told = f"slope {round(n.slope, 2) + 0.0:.2f}"
    if n.slope + room < 0 and n.slope <= t.slope:
        return "still falling", told
    if n.slope - room <= t.slope and n.slope + room >= 0:
        return "too noisy to tell", f"{told} ± {room:.2f}"
    if n.gain_high > t.gain:
        return "still falling", f"3·lr gains {n.gain_high:.2f} in log train loss"
    if abs(n.end_loss - n.initial_loss) < t.moved * abs(n.initial_loss):
        return "", ""  # a loss that has hardly moved is flat, but has not settled
    if n.slope - room > -t.slope:
        return "", ""  # nor has one that rises
    return "settled", told


def less(gain: float) -> str:
    """Return by how much a loss is smaller, from the gain in its logarithm."""
    return f"{-math.expm1(-gain):.0%}"


def _branches(n: Numbers) -> str:
    low, high = (
        "explodes" if gain == -math.inf else f"gains {round(gain, 2) + 0.0:.2f}"
        for gain in (n.gain_low, n.gain_high)
    )
    return f"in log train loss lr/10 {low}, 3·lr {high}"


# --- steps ----------------------------------------------------------------------------------------


def steps(n: Numbers, t: Thresholds, failed: bool = False) -> Steps:
    """Return whether the steps are far too short, about right or unstable; "" if unknown.

    Far too short means two things. Each step covers less than `thresholds.short` of the way to the
    minimum along it (alpha), and could be ten times as long before it were unstable (stability
    ratio). Alpha alone is not enough: it misses a ravine that the steps have just entered. With
    momentum the ratio alone is not enough: one step goes on for many. For a run that did not fail,
    fewer than `thresholds.measured` steps say nothing.
    """
    ratio, way = n.stability_ratio, n.alpha + 1
    has_momentum = n.swings_from != t.oscillating
    if math.isnan(ratio) and math.isnan(way):
        return ""
    if failed:
        return "unstable"
    if n.measured < t.measured:
        return ""
    if ratio > t.unstable:
        return "unstable" if n.ratios >= t.measured else ""
    if way / 2 > t.unstable and not has_momentum:
        return "unstable"
    if math.isnan(way) and has_momentum:
        return ""
    if ratio >= t.short or way >= t.short:
        return "about right"
    return "" if math.isnan(ratio) else "far too short"


def step_mode(n: Numbers, failed: bool, is_slower: bool, t: Thresholds) -> tuple[StepMode, str]:
    """Return how the steps behaved, and the evidence.

    On a quadratic of curvature λ, the recurrence of the steps has one of three kinds of roots. They
    are real and positive (monotone), complex or negative (oscillating), or one lies outside the
    unit circle (unstable). The stability ratio says which. Without it, an alpha at or above 0 shows
    that steps cross the valley. One below 0 shows nothing, because alpha misses a swing across a
    ravine. A run that failed is judged by its largest ratio, because after an explosion the loss
    can be flat. An alpha of fewer than `thresholds.measured` steps shows nothing: on one mini-batch
    a good step may cross the valley.

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
        is_named = n.measured < t.measured  # the text already says where it was measured
        told.append("before it failed" if is_named else "where it was measured, before it failed")
        mode = "unstable"
    return mode, f"steps: {', '.join(told)}"


def _measured(n: Numbers, ratio: float, failed: bool, t: Thresholds) -> list[str]:
    """Return the ratio and the alpha in words and, if few, at how many steps they were measured."""
    told: list[str] = []
    if not math.isnan(ratio):
        kind = "largest " if failed else "" if n.ratios == 1 else "median "
        shown = f"{ratio:.2f}" if ratio < 1000 else f"{ratio:.3g}"
        if 0 < ratio < 0.01:  # 0.00 would hide how close to monotone steps with momentum are
            shown = f"{ratio:.1g}"
        told.append(f"{kind}stability ratio {shown}{_few(n.ratios, t)}")
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


def _by_curve(n: Numbers, failed: bool, is_slower: bool) -> tuple[StepMode, str]:
    alone = "steps judged by the curve alone"
    if failed:
        return "unstable", alone
    if n.curve_mode == "monotone" and is_slower:
        # On a quadratic the loss falls at every step up to the border of stability. Beyond lr·λ =
        # 1, where each step crosses the valley, it falls the slower the longer the step.
        return "oscillating", f"{alone}: smooth, but a smaller lr fell faster"
    if n.curve_mode == "monotone":
        return "monotone", f"{alone}: the loss fell at every step"
    return n.curve_mode, "steps not measured" if n.curve_mode == "unknown" else alone
