"""Check the user's networks: give lazy ones a first pass, refuse those that cannot train.

Each refusal is one line, before anything trains.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrlab import losses
from lrlab.data import inputs
from lrlab.data.inputs import Inputs
from lrlab.data.random_state import seeded
from lrlab.engine import python_state, shared_state
from lrlab.engine.lanes import chunks
from lrlab.errors import UserError

if TYPE_CHECKING:
    from lrlab.data import Dataset

ALONE = "Expected more than 1 value per channel"
ONE_PIXEL = "Expected more than 1 spatial element"


def initialise(option: str, network: nn.Module, dataset: Dataset) -> None:
    """Give lazy parameters their shapes and start values, by one forward pass in evaluation mode.

    It is torch's own way (``nn.LazyLinear``). The values depend on the state of torch's global
    generator and on the shape of a sample, not on the samples.

    Args:
        option: what a message begins with.
        network: on the CPU. It is left in training mode if it was lazy, else untouched.

    Raises:
        UserError: the pass fails, or leaves a parameter without a shape.
    """
    if not _lazy(network):
        return
    works = "use layers with sizes, such as nn.Linear(in_features, out_features)"
    network.eval()
    try:
        with torch.no_grad():
            x, _ = dataset.head(2)
            inputs.called(network, inputs.mapped(lambda tensor: tensor.cpu().clone(), x))
    except Exception as error:
        raise UserError(
            f"{option}: {_lazy(network)} has no shape before its first forward pass, and that "
            f"fails ({_first_line(error)}); {works}"
        ) from error
    network.train()
    if left := _lazy(network):
        raise UserError(
            f"{option}: {left} has no shape, because a forward pass in evaluation mode does not "
            f"use it; {works}"
        )


def _lazy(network: nn.Module) -> str | None:
    """Return the first parameter or buffer that has no shape yet."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return next((name for name, tensor in tensors if is_lazy(tensor)), None)


def check_training(
    option: str,
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    dataset: Dataset,
    batch_size: int,
    seed: int,
) -> None:
    """Make one forward and backward pass as in training, of two samples or of one.

    Args:
        option: what a message begins with.
        network: one that nothing else uses, for its buffers change.

    Raises:
        UserError: a norm has only one value, gradients are sparse, state is shared, or training
            would ignore something.
    """
    check_hooks(option, network)
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they appear in training
        _check_one_sample(option, network, dataset)
        check_stateless(option, network, dataset.head(2)[0])
        size = min(batch_size, 2)
        x, y = dataset.head(size)
        x = inputs.cloned(x)
        network.train()
        tensors = places(network)
        try:
            outputs = inputs.called(network, x)
        except Exception as error:
            if not advice(error):  # perhaps only in one configuration: its run fails in training
                return
            which = "one sample" if size == 1 else f"shape {inputs.shapes(x)}"
            name = _entered_last(network, x) if size == 1 else ""
            raise UserError(
                f"{f'batch_size={batch_size}: ' if size == 1 else ''}{option}: in training, "
                f"{name or 'it'} does not take a batch of {which} ({_first_line(error)})"
                f"{advice(error)}"
            ) from error
        check_places(option, tensors, places(network))
        names = [name for name, p in network.named_parameters() if p.requires_grad]
        leaves = [p for p in network.parameters() if p.requires_grad]
        before = shared_state.of(network, loss)
        try:
            # again, because the first pass may fill something that stays, such as a cache
            loss(inputs.called(network, inputs.cloned(x)), y)
        except Exception:
            before = {}
        changed = python_state.changes(before, shared_state.of(network, loss)) if before else {}
        if changed:
            raise UserError(
                f"{option}: training changes {', '.join([*changed][:3])}, which all runs share, so "
                "each run would change the others; keep it in the network (self.calls = 0 in "
                "__init__) or pass it as an argument"
            )
        try:
            value = loss(outputs, y).sum()
            if value.requires_grad:
                found = torch.autograd.grad(value, leaves, allow_unused=True)
            else:
                found = (None,) * len(leaves)
        except Exception:  # training reports it
            return
    if all(gradient is None for gradient in found):
        raise UserError(
            f"{option}: the loss depends on none of its parameters, so nothing would train; look "
            "for detach, no_grad or numpy in its forward and in the loss"
        )
    sparse = [n for n, g in zip(names, found, strict=True) if g is not None and g.is_sparse]
    if sparse:
        modules = ", ".join(name.removesuffix(".weight") for name in sparse)
        raise UserError(
            f"{option}: {modules} gives sparse gradients, which lanes cannot share; use "
            "sparse=False there, which trains alike"
        )


def check_hooks(option: str, network: nn.Module) -> None:
    """Refuse hooks of parameters: a lane's parameters are parts of a stack's, which have none."""
    for name, parameter in network.named_parameters():
        post = getattr(parameter, "_post_accumulate_grad_hooks", None)
        if parameter._backward_hooks or post:
            raise UserError(
                f"{option}: the parameter {name} has a hook of its gradient, which lanes do not "
                "call; change the gradient in an optimizer of your own, or register the hook on "
                "a tensor in forward"
            )


def check_stateless(
    option: str, network: nn.Module, x: Inputs, named: nn.Module | None = None
) -> None:
    """Refuse a network that cannot run on parameters from outside, as a lane's are.

    Args:
        named: the network that the message is about, if it is a part of the other.
    """
    from torch.func import functional_call

    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    network.eval()
    try:
        with torch.no_grad():
            functional_call(network, state, *inputs.arguments_of(inputs.cloned(x)))
    except Exception as error:
        shown = network if named is None else named
        kind, works = type(shown).__name__, "give an ordinary torch.nn.Module"
        if isinstance(inner := getattr(shown, "module", None), nn.Module):
            works = f"give the {type(inner).__name__} inside of the {kind}"
        elif isinstance(shown, torch.jit.ScriptModule):
            works = "give the module that it was made of, without torch.jit"
        raise UserError(
            f"{option}: does not run on parameters of a stack ({_first_line(error)}); {works}"
        ) from error


def check_loss(
    option: str, loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor
) -> None:
    """Refuse a loss with parameters of its own, and one that sums over a batch.

    Args:
        outputs: (batch, ...), targets: (batch, ...).
    """
    if own := losses.own_parameters(loss):
        raise UserError(
            f"{option}: has parameters of its own ({', '.join(own[:3])}), which nothing would "
            "train; make them parameters of the network, or buffers if they are constant"
        )
    if losses.is_sum(loss, outputs, targets):
        raise UserError(
            f"{option}: sums the losses of a batch, so batches of different sizes cannot be "
            "compared; return their mean, for example with reduction=mean, and multiply lr by "
            "batch_size"
        )


def check_numbers(option: str, network: nn.Module, dataset: Dataset) -> None:
    """Refuse whole numbers that the network does not take, such as tokens beyond its vocabulary.

    Tried on the samples that hold the largest and the smallest of each input and part.

    Args:
        network: which takes the first samples; in evaluation mode.
    """
    for part in ("train", "val", "test"):
        whole = getattr(dataset, f"{part}_x")
        for tensor in inputs.tensors(whole):
            if tensor.dtype != torch.int64 or not tensor.numel():
                continue
            flat = tensor.reshape(len(tensor), -1)
            for at, value in ((flat.amax(1).argmax(), "max"), (flat.amin(1).argmin(), "min")):
                row = int(at)
                x = inputs.mapped(lambda t, row=row: t[[row, row]], whole)  # alone might fail
                try:
                    with torch.no_grad():
                        inputs.called(network, x)
                except Exception as error:
                    extreme = f"the {value}imum of the inputs, {int(getattr(flat, value)())},"
                    raise UserError(
                        f"{option}: does not take {extreme} in sample {row} of the {part} part, "
                        f"counted from 0 ({_first_line(error)})"
                    ) from error


def check_made(option: str, names: Collection[str], network: nn.Module) -> None:
    """Refuse parameters that a forward pass has made.

    Args:
        names: of the parameters before it.
    """
    if made := [name for name, _ in network.named_parameters() if name not in names]:
        raise UserError(
            f"{option}: its parameter {made[0]} is made in forward, so no optimizer trains it; "
            "make it in __init__, with a lazy layer such as nn.LazyLinear if its size depends on "
            "the input"
        )


def places(network: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Return each parameter and buffer, with the location of its numbers."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {name: (tensor, tensor.data_ptr()) for name, tensor in tensors}


def check_places(
    option: str, before: dict[str, tuple[Tensor, int]], now: dict[str, tuple[Tensor, int]]
) -> None:
    """Refuse a forward pass whose changes of parameters or buffers a stack would lose."""
    for name, (tensor, place) in now.items():
        is_parameter = isinstance(tensor, nn.Parameter)
        if name not in before:
            continue
        old, old_place = before[name]
        if is_parameter and tensor is not old:
            raise UserError(
                f"{option}: its forward replaces the parameter {name}, so no optimizer trains it; "
                "change it in place, under torch.no_grad()"
            )
        if tensor is old and place != old_place:
            raise UserError(
                f"{option}: its forward assigns {name}.data, which a stack of runs would lose; "
                f"change it in place, such as {name}.copy_(...), under torch.no_grad()"
            )
        if tensor.shape != old.shape or tensor.dtype != old.dtype:
            raise UserError(
                f"{option}: its forward changes the buffer {name} from {_form(old)} to "
                f"{_form(tensor)}; keep its shape and type, or make it an attribute that is no "
                "buffer"
            )


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _check_one_sample(option: str, network: nn.Module, dataset: Dataset) -> None:
    """Evaluate one sample, if the last batch of some part of the data has only one.

    Batch norm without running statistics takes no single sample in evaluation, either.
    """
    parts = {"training": dataset.train_y, "held-out": dataset.val_y, "test": dataset.test_y}
    for name, y in parts.items():
        if len(y) % chunks.EVALUATION_CHUNK != 1:
            continue
        network.eval()
        try:
            with torch.no_grad():
                inputs.called(network, inputs.cloned(dataset.head(1)[0]))
        except Exception as error:
            raise UserError(
                f"{option}: in evaluation, it does not take a batch of one sample "
                f"({_first_line(error)}), and the last batch of the {len(y)} {name} samples has "
                "one; use one sample more or fewer"
            ) from error


def _entered_last(network: nn.Module, x: Inputs) -> str:
    """Return the module that a failing forward pass entered last: ``norm (BatchNorm1d)``."""
    last = ""

    def entering(name: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, given: Any) -> None:
            nonlocal last
            last = f"{name} ({type(module).__name__})" if name else ""

        return note

    hooks = [m.register_forward_pre_hook(entering(name)) for name, m in network.named_modules()]
    with contextlib.suppress(Exception):
        inputs.called(network, x)
    for hook in hooks:
        hook.remove()
    return last


def advice(error: BaseException) -> str:
    """Return a remedy for errors that torch leaves without one, or nothing."""
    text = str(error)
    if ALONE in text:
        return "; use batch_size=2 or more, or a norm of each sample alone, such as nn.LayerNorm"
    if ONE_PIXEL in text:
        return "; one value for each channel leaves nothing to normalise: leave this norm out"
    return ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
