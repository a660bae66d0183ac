"""Check that outputs and targets fit the loss, before anything trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lrlab import losses
from lrlab.data import inputs
from lrlab.errors import UserError
from lrlab.plan import build
from lrlab.plan.spec import RunSpec
from lrlab.process.plain import is_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrlab.data import Dataset


def check_options(spec: RunSpec, loss: Callable[..., Tensor]) -> None:
    """Refuse options of lrlab's own losses that cannot work."""
    if losses.task(loss) != "classification":
        return
    axis, index = losses.class_axis(loss), losses.ignored(loss)
    if axis is not None and axis not in (1, -1):
        raise UserError(f"loss.class_axis={axis}: must be 1, -1 or null")
    if index is not None and not is_whole(index):
        raise UserError(f"loss.ignore_index={index}: must be a whole number or null")


def check_shape(
    spec: RunSpec, loss: Callable[..., Tensor], dataset: Dataset, outputs: Any, samples: int
) -> None:
    """Refuse outputs whose shape does not fit a loss of lrlab's own, or its classes.

    Args:
        outputs: (samples, ...) of the first training samples.
    """
    shape, network = tuple(getattr(outputs, "shape", ())), build.option(spec, "network")
    targets = (samples, *dataset.train_y.shape[1:])
    task, count = losses.task(loss), dataset.outputs
    if not losses.takes_classes(loss) or dataset.num_classes is None:
        wanted = targets if dataset.train_y.is_floating_point() else (*targets[:1], count)
        if task and shape != wanted:
            raise _unfit(network, shape, targets[0], f"{wanted}")
        return
    axes = losses.class_axes(shape, targets)
    axis = losses.class_axis(loss)
    if task and axis is None and len(axes) > 1:
        raise UserError(
            f"{network}: returns outputs of shape {shape}, of which the classes may be the axis 1 "
            "or the last one; say which by loss.class_axis=1 or loss.class_axis=-1"
        )
    chosen = axes[0] if axis is None and axes else axis
    found = shape[chosen] if chosen in axes and chosen is not None else None
    if task and (found is None or (len(targets) == 1 and found != count)):
        rest = ", ".join(map(str, targets[1:]))
        wanted = f"{(targets[0], count)}"
        if rest:
            wanted = f"({targets[0]}, {rest}, {count}) or ({targets[0]}, {count}, {rest})"
            if axis is not None:
                wanted = wanted.split(" or ")[axis == 1]
            if len(shape) == 2:
                wanted += "; one-hot targets are given as y.argmax(1), a regression's as floats"
        raise _unfit(network, shape, targets[0], wanted)
    if found is None:
        if axis is not None and axes:
            raise UserError(
                f"{network}: returns outputs of shape {shape} for targets {targets}; "
                f"{build.option(spec, 'loss')} takes the classes as axis 1, so return "
                "outputs.movedim(-1, 1)"
            )
        return  # the loss itself reports it
    if found < count:
        raise UserError(
            f"{network}: returns outputs for {found} classes, and the targets go up to "
            f"{count - 1}; make it return at least {count}"
        )


def _unfit(network: str, shape: tuple[int, ...], samples: int, wanted: str) -> UserError:
    return UserError(
        f"{network}: returns outputs of shape {shape} for {samples} samples, "
        f"the loss needs {wanted}"
    )


def check_targets(
    spec: RunSpec, network: nn.Module, loss: Callable[..., Tensor], dataset: Dataset, count: int
) -> None:
    """Refuse classes that the loss does not take, tried on the largest and smallest of each part.

    Args:
        network: on the CPU, in evaluation mode.
        count: how many samples to try at once.
    """
    for part in ("train", "val", "test"):
        x, y = getattr(dataset, f"{part}_x"), getattr(dataset, f"{part}_y")
        if y.is_floating_point() or not len(y):
            continue
        flat = y.reshape(len(y), -1)
        for row, value in ((flat.amax(1).argmax(), y.max()), (flat.amin(1).argmin(), y.min())):
            rows = [int(row)] * count
            outputs = inputs.called(network, inputs.mapped(lambda t, at=rows: t[at], x))
            try:
                loss(outputs, y[rows])
            except Exception as error:
                raise UserError(
                    f"{build.option(spec, 'loss')}: does not take the target {int(value)}, in "
                    f"sample {int(row)} of the {part} part, counted from 0 "
                    f"({build.first_line(error)})"
                ) from error


def check_ignored(spec: RunSpec, loss: Callable[..., Tensor], dataset: Dataset) -> None:
    """Refuse negative targets that the loss would take for classes, and parts without others."""
    if dataset.num_classes is None:
        return
    index, data = losses.ignored(loss), spec.choices["data"]
    for name in ("train", "val", "test"):
        y: Tensor = getattr(dataset, f"{name}_y")
        negative = (y < 0) if index is None else (y < 0) & (y != index)
        if losses.takes_classes(loss) and bool(negative.any()):
            value = int(y[negative][0])
            raise UserError(
                f"data={data}: the {name} targets hold {value}, which is no class; use "
                f"loss.ignore_index={value} if it marks targets that do not count"
            )
        if index is not None and len(y) and bool((y == index).all()):
            raise UserError(
                f"loss.ignore_index={index}: all {name} targets are {index}, so none would count"
            )
