"""Choose how a stack's steps are made: captured if that changes no bit, else plain."""

from __future__ import annotations

from torch import Tensor

from lrlab.data import Dataset
from lrlab.engine import devices
from lrlab.engine.capture.program import NotCapturable
from lrlab.engine.lanes.lane_stack import Lanes
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.engine.step.captured import CapturedStep
from lrlab.engine.step.plain import PlainStep
from lrlab.engine.step.protocol import Step
from lrlab.process.profiling import phase


@phase("capture")
def build_step(
    lanes: Lanes,
    optimizer: LaneOptimizer,
    data: Dataset,
    order: Tensor,
    order_of: Tensor,
    length: int,
    captured: bool,
    any_threads: bool = False,
) -> Step:
    """Return the step of a stack, made in the fastest possible way.

    Args:
        order: (steps, orders, batch) int64, some of its batches.
        order_of: (lanes,) int64, each lane's order.
        length: of the longest segment, in steps.
        captured: whether it may be captured at all.
        any_threads: as for ``CapturedStep``.
    """
    repeats = lanes.way == "together" or (lanes.way != "unmapped" and not lanes.draws)
    if captured and repeats and not optimizer.general:
        try:
            first = order[:length]
            return CapturedStep(lanes, optimizer, data, order_of, first, length, any_threads)
        except NotCapturable:
            pass
        except Exception as error:  # from an operation that a program has in another form
            if devices.out_of_memory(error):
                raise
    return PlainStep(lanes, optimizer, data, order_of)
