"""Check runs before anything trains: build everything that they name, and try it once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lrlab import losses
from lrlab.config import checks
from lrlab.data import inputs
from lrlab.engine import network_checks
from lrlab.engine.optimizers import known, lane_optimizers
from lrlab.errors import UserError
from lrlab.plan import answers, build
from lrlab.plan.schedules import lane_schedules
from lrlab.plan.spec import RunSpec, samples_a_step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrlab.data import Dataset


def check_runs(specs: Sequence[RunSpec]) -> None:
    """Build everything that the runs name, before anything trains or is written.

    Successful builds are not repeated: the runs of a sweep mostly differ only in numbers.

    Raises:
        UserError: something cannot work.
    """
    for spec in specs:
        if spec.config.get("precision") == "tf32" and not spec.device.startswith("cuda"):
            raise UserError(
                f"precision=tf32: needs an NVIDIA GPU, which device={spec.device} is not; "
                "use precision=float32 or precision=bf16"
            )
        if spec.config.get("precision") == "float64" and spec.device.startswith("mps"):
            raise UserError("precision=float64: mps has no such numbers; use device=cpu")
        dataset = build.load_data(spec)
        size = len(dataset.train_y)
        steps_per_epoch = size // samples_a_step(spec)
        if size // spec["batch_size"] and steps_per_epoch == 0:
            raise UserError(
                f"accumulate={spec['accumulate']}: with batch_size={spec['batch_size']} more than "
                f"the {size} training samples; use at most accumulate={size // spec['batch_size']}"
            )
        if steps_per_epoch == 0:
            raise UserError(
                f"batch_size={spec['batch_size']}: more than the {size} training samples, "
                f"use at most batch_size={size}"
            )
        if (steps := spec["epochs"] * steps_per_epoch) > checks.MOST_STEPS:
            raise UserError(
                f"epochs={spec['epochs']}: makes {steps:,} steps, more than {checks.MOST_STEPS:,}; "
                f"use at most epochs={checks.MOST_STEPS // steps_per_epoch}"
            )
        if len(dataset.val_y) == 0:
            raise UserError("data.val_size=0: runs are judged on held-out data; use at least 1")
        if dataset.num_classes is None and spec.config.get("objective") == "val_acc":
            raise UserError(
                "objective=val_acc: a regression has no accuracy; use objective=val_loss"
            )
        _check_parametrisation(spec)
        # A seed changes only numbers, and a batch size matters only at one sample.
        batch = (min(spec["batch_size"], 2),)
        if (*build.network_key(spec, dataset), batch) not in _working:
            _check_network(spec, dataset)
            _remember((*build.network_key(spec, dataset), batch))  # again: now it is imported
        groups = _parameter_groups(spec, dataset)
        moving = [spec[name] for name in ("schedule", "optimizer", "lr", "epochs")]
        key = (json.dumps([moving, steps_per_epoch, groups], default=str),)
        if key not in _working:
            schedule = build.build_schedule(spec, steps_per_epoch)
            if schedule.closed_loop:
                for val_loss in (2.3, 2.0, 2.1)[: spec["epochs"]]:  # the first call may raise
                    schedule.observe(val_loss)
            lane_schedules.check_groups(*build.schedule_arguments(spec, steps_per_epoch), groups)
            _remember(key)


def _parameter_groups(spec: RunSpec, dataset: Dataset) -> int:
    """Return how many parameter groups the optimizer makes of the network's parameters."""
    key = (*build.network_key(spec, dataset), build.object_of(spec, "optimizer"))
    key += (json.dumps(spec["optimizer"], default=str),)
    if key not in _working:
        groups = 1
        if spec["optimizer"].get("groups") or not lane_optimizers.is_known(spec["optimizer"]):
            network = build.build_network(spec, dataset)
            groups = lane_optimizers.check_on({**spec["optimizer"], "lr": spec["lr"]}, network)
        _remember(key, groups)
    return _working[key]


# The latest successful checks, the newest last; for an optimizer its number of parameter groups.
_working: dict[tuple[Any, ...], int] = {}


def _remember(key: tuple[Any, ...], found: int = 1) -> None:
    _working[key] = found
    if len(_working) > 4096:
        _working.pop(next(iter(_working)))


def _check_network(spec: RunSpec, dataset: Dataset) -> None:
    loss = build.loss_function(spec)
    answers.check_options(spec, loss)
    _check_task(spec, loss, dataset)
    answers.check_ignored(spec, loss, dataset)
    network, option = build.build_network(spec, dataset), build.option(spec, "network")
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"{option}: has nothing to train")
    names = {name for name, _ in network.named_parameters()}
    _check_forward(spec, network, loss, dataset)
    network_checks.check_made(option, names, network)
    network_checks.check_training(option, network, loss, dataset, spec["batch_size"], spec["seed"])


def _check_parametrisation(spec: RunSpec) -> None:
    """Refuse a parametrisation for another kind of update, under which lrs would scale wrongly."""
    chosen = str(spec["network"].get("parametrisation"))
    target = str(build.target_of(spec, "optimizer"))
    class_name, adaptive = target.rpartition(".")[2], known.divides(target)
    suits = {"mup_adam": adaptive, "mup_sgd": class_name == "SGD"}
    if not suits.get(chosen, True) and (adaptive or class_name == "SGD"):
        other = "mup_sgd" if chosen == "mup_adam" else "mup_adam"
        raise UserError(
            f"network.parametrisation={chosen}: does not suit optimizer="
            f"{spec.choices['optimizer']}; use network.parametrisation={other}"
        )


def _check_task(spec: RunSpec, loss: Callable[..., Tensor], dataset: Dataset) -> None:
    task, chosen, data = losses.task(loss), spec.choices["loss"], spec.choices["data"]
    if task == "classification" and dataset.num_classes is None:
        raise UserError(
            f"loss={chosen}: compares with classes, and the targets of data={data} are floating "
            "point; use loss=mse or loss=l1, or give classes as whole numbers"
        )
    if dataset.target_mean and losses.unit(loss, dataset.target_std) is None:
        raise UserError(
            f"data.standardise_targets=true: loss={chosen} cannot be reported in the targets' own "
            "units; use loss=mse or loss=l1"
        )
    if task == "regression" and dataset.num_classes is not None:
        raise UserError(
            f"loss={chosen}: compares with floating-point targets, and those of data={data} are "
            "classes; use loss=nll, cross_entropy or mse_one_hot, or give targets as floats"
        )


def _check_forward(
    spec: RunSpec, network: nn.Module, loss: Callable[..., Tensor], dataset: Dataset
) -> None:
    import torch

    from lrlab.engine.bits import same_bits

    # as many as outputs would hide that the two are exchanged
    count = 3 if dataset.outputs == 2 else 2
    samples = dataset.head(count)
    count = len(samples[1])
    network.eval()  # batch norm must not see this
    of_network, of_loss = build.option(spec, "network"), build.option(spec, "loss")
    if words := inputs.misfit(network.forward, samples[0]):
        raise UserError(f"{of_network}: {words}")
    with torch.no_grad(), warnings.catch_warnings():
        # torch's own losses broadcast unequal shapes, and would compute another loss
        warnings.filterwarnings("error", message="Using a target size")
        given = inputs.cloned(samples[0])
        try:
            outputs = inputs.called(network, given)
        except Exception as error:
            raise UserError(
                f"{of_network}: does not take inputs of shape "
                f"{inputs.shapes(samples[0])} ({build.first_line(error)})"
                f"{network_checks.advice(error)}"
            ) from error
        if not same_bits(inputs.tensors(given), inputs.tensors(samples[0])):
            raise UserError(
                f"{of_network}: its forward changes its input in "
                "place, and with it the data; let it work on a copy (x = x.clone())"
            )
        shape = tuple(getattr(outputs, "shape", ()))
        answers.check_shape(spec, loss, dataset, outputs, count)
        try:
            value = loss(outputs, samples[1])
        except Exception as error:
            raise UserError(
                f"{of_loss}: does not take outputs of shape {shape} ({build.first_line(error)})"
            ) from error
        network_checks.check_numbers(of_network, network, dataset)
        answers.check_targets(spec, network, loss, dataset, count)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise UserError(f"{of_loss}: must return one number a batch")
    network_checks.check_loss(of_loss, loss, outputs, samples[1])
    if spec.config.get("objective") == "val_acc":
        logit = dataset.num_classes == 2 and losses.is_logit(loss, shape[1:])
        more = {"without": losses.ignored(loss), "axis": losses.class_axis(loss)}
        if losses.right_answers(outputs, samples[1], dataset.num_classes, logit, **more) is None:
            raise UserError(
                f"objective=val_acc: outputs of shape {shape} and targets of shape "
                f"{tuple(samples[1].shape)} have no accuracy; use objective=val_loss"
            )
