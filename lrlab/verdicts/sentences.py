"""Write the sentence of evidence for each verdict."""

import math

from lrlab.verdicts.evidence import Numbers

# What a run is compared with if no loss of its start is known.
FIRST_RECORDED = "the first loss recorded"
_HOW_IT_STANDS = {
    "pruned": "pruned",
    "interrupted": "interrupted",
    "failed": "failed with an error",
    "running": "still running",
    "training": "still running",
    "waiting": "not begun",
}


def fell(n: Numbers) -> str:
    """Return how the loss went, from its start to its end."""
    name = "val loss" if n.judged_by == "val_loss" else "loss"
    start, end = n.initial_loss, n.end_loss
    change = (end - start) / abs(start) if start else math.copysign(math.inf, end - start)
    then = f"at {n.unit} {n.first_at:.6g}" if n.first_at else "before training"
    if math.isnan(change) or end == start:
        return f"{name} ended at {loss(end)}, as {then}"
    if abs(change) < 0.02:
        return f"{name} stayed at {end:.4g} ({start:.4g} {then})"
    return f"{name} {'fell' if change < 0 else 'rose'} from {loss(start)} to {loss(end)}"


def nonfinite(n: Numbers) -> str:
    """Return where the loss stopped being finite."""
    where = f" at {n.unit} {n.first_nonfinite:.6g}" if math.isfinite(n.first_nonfinite) else ""
    if not n.losses:
        return f"the loss was non-finite from the first record on{where}"
    return f"the loss became non-finite{where}, after a peak of {loss(n.peak_loss)}"


def above(end: float, best_end: float, best: str) -> str:
    """Return how far an end loss is above the best, in words."""
    if not math.isfinite(end):
        return f"worse than the best, {best}"
    if best_end > 0 and end > 2 * best_end:
        return f"{end / best_end:.3g} times the best, {best}"
    if not best_end and end != best_end:
        return f"above the best, {best}"
    over = (end - best_end) / abs(best_end) if best_end else 0.0
    if over <= -0.0005:
        return f"below {best}"
    return f"as low as the best, {best}" if over < 0.0005 else f"{over:.1%} above the best, {best}"


def sentence(n: Numbers, outcome: str, why: str, word: str, told: str, how: str) -> str:
    """Return the evidence of a verdict as a sentence.

    Args:
        why: the reason for the outcome.
        word, told: how the run stood at its end, and the evidence; "" if there is none.
        how: the reason for the step mode.
    """
    before = ""
    if n.state in _HOW_IT_STANDS:
        where = f" at {n.unit} {n.last:g}" if math.isfinite(n.last) else ""
        before = f"{_HOW_IT_STANDS[n.state]}{where}: "
    unknown = math.isnan(n.chance_loss) and outcome not in ("diverged", "pruned") and n.losses
    if unknown and n.end_loss > 0.5 * n.initial_loss:
        why += "; it was not compared with guessing, which needs num_classes or chance_loss"
    at_end = f"; at the end {word}" + (f", {told}" if told else "") if word else ""
    return f"{before}{why}: {outcome}{at_end} ({how})"


def loss(value: float) -> str:
    """Return a loss with three digits."""
    return f"{value:.3g}"
