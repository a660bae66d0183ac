"""Build what a run spec names: network, loss, data, schedule, batch order, reference values."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrlab import losses
from lrlab.config import data_paths
from lrlab.config.targets import HYDRA_KEYS, check_taken, instantiate, lacking, taken
from lrlab.data import inputs
from lrlab.data.random_state import random_state_kept, seeded
from lrlab.engine import network_checks
from lrlab.engine.optimizers import lane_optimizers
from lrlab.errors import UserError, must_be
from lrlab.plan.schedules import lane_schedules
from lrlab.plan.spec import RunSpec
from lrlab.process.plain import is_number

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrlab.data import Dataset


def network_key(spec: RunSpec, dataset: Dataset) -> tuple[Any, ...]:
    """Return a key that is equal for runs with the same network, loss and data."""
    data = [dataset.sha256, dataset.num_classes, dataset.target_mean, dataset.target_std]
    wanted = [spec["network"], spec["loss"], spec.config.get("objective")]
    nodes = json.dumps([*data, *wanted], default=str)
    return nodes, object_of(spec, "network"), object_of(spec, "loss")


def object_of(spec: RunSpec, group: str) -> Any:
    """Return the present object of the group's target, as a name may come to mean another one."""
    module, _, name = str(target_of(spec, group)).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if callable(found) else object()  # equal to nothing, so it is always checked


def build_network(spec: RunSpec, dataset: Dataset) -> nn.Module:
    """Build the run's network with its initial weights, on the CPU.

    The weights depend only on the seed, not on anything built before.

    Raises:
        UserError: the network cannot be built.
    """
    import torch

    node, call = spec["network"], _callable(spec, "network")
    parameters = inspect.signature(call).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {k: v for k, v in node.items() if k not in HYDRA_KEYS}
    for key in given:
        if key not in parameters and not anything:
            known = [p for p in parameters if p not in ("in_shape", "num_classes")]
            raise lacking(f"network.{key}={given[key]}", call.__name__, known)
    offered = {"in_shape": dataset.in_shape, "num_classes": dataset.outputs}
    arguments = {k: v for k, v in offered.items() if k in parameters} | given
    with seeded(spec["seed"]):
        try:
            if any(isinstance(value, Mapping) for value in arguments.values()):
                network = instantiate({"_target_": node["_target_"]}, **arguments)
            else:  # nothing inside needs Hydra: the same result without its 10 ms
                network = call(**arguments)
        except Exception as error:
            raise _failed(spec, "network", error) from error
        if not isinstance(network, torch.nn.Module):
            raise UserError(f"network._target_={node['_target_']}: is no torch.nn.Module")
        network_checks.initialise(f"network._target_={node['_target_']}", network, dataset)
    return network.double() if _floats(spec) == "float64" else network


def loss_function(spec: RunSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the run's loss: (outputs (batch, ...), targets (batch, ...)) to the batch's mean.

    A class, such as ``torch.nn.HuberLoss``, is built with the node's arguments. A function is
    called with them.

    Raises:
        UserError: there is no such loss.
    """
    node = {**spec["loss"], "_partial_": True}
    try:
        found = instantiate(node)
    except Exception as error:
        raise _failed(spec, "loss", error) from error
    is_class = isinstance(found.func, type)
    if (names := taken(found.func)) is not None:
        check_taken("loss", spec["loss"], found.func, names if is_class else names[2:])
    smoothing = found.keywords.get("label_smoothing", 0.0)
    if found.func in losses.SMOOTHED and not (is_number(smoothing) and 0 <= smoothing < 1):
        raise must_be("loss.label_smoothing", smoothing, "a number from 0, below 1", 0.1)
    if is_class:
        try:
            return found()
        except Exception as error:
            raise _failed(spec, "loss", error) from error
    # Hydra's own partial checks its target again at each call, and this one is called every step.
    return functools.partial(found.func, *found.args, **found.keywords)


def load_data(spec: RunSpec) -> Dataset:
    """Load the run's data, on the CPU, once a process and again if a named file has changed.

    The target returns a ``Dataset``, or a pair or dict from which ``lrlab.own_data`` makes one. For
    the latter, ``own_data.Split`` takes the settings that the target does not take itself.

    Raises:
        UserError: the data cannot be loaded.
    """
    node = json.dumps(spec["data"], sort_keys=True)
    wide = ("float64",) if _floats(spec) == "float64" else ()
    dataset = _load_data(node, _files_of(spec["data"]), *wide)
    if dataset.other_x is None or not _takes_only_others(spec, dataset):
        return dataset
    return _in_other_types(dataset)


def _floats(spec: RunSpec) -> str:
    """Return the type of the floats in data and network."""
    return "float64" if spec.config.get("precision") == "float64" else "float32"


def _takes_only_others(spec: RunSpec, dataset: Dataset) -> bool:
    """Return whether the network takes the inputs in their other types, and not in these.

    Tried once for the same data and network, on two samples in evaluation mode. Errors are left to
    the checks, which report them.
    """
    named = json.dumps([spec["network"], _floats(spec)], default=str)
    key = (dataset.sha256, named, object_of(spec, "network"))
    if key not in _takes:
        if len(_takes) > 256:
            _takes.clear()
        takes = functools.partial(_takes_inputs, spec)
        _takes[key] = not takes(dataset) and takes(_in_other_types(dataset))
    return _takes[key]


_takes: dict[tuple[Any, ...], bool] = {}
_in_other_types = functools.lru_cache(maxsize=2)(lambda dataset: dataset.in_other_types())


def _takes_inputs(spec: RunSpec, dataset: Dataset) -> bool:
    import torch

    with random_state_kept(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            x, _ = dataset.head(2)
            inputs.called(build_network(spec, dataset).eval(), inputs.cloned(x))
        except Exception:  # a network of the user's can raise anything
            return False
    return True


def _files_of(node: Mapping[str, Any]) -> str:
    """Return time and size of each file that the node names."""
    found = []
    for value in node.values():
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # no file, no home, no path
            if isinstance(value, str):
                status = data_paths.find(value).stat()
                found.append((status.st_mtime_ns, status.st_size))
    return str(found)


def forget_data() -> None:
    """Load the data again at the next request; the user's may have changed meanwhile."""
    _load_data.cache_clear()
    _in_other_types.cache_clear()
    _takes.clear()


@functools.lru_cache(maxsize=2)
def _load_data(node: str, files: str, floats: str = "float32") -> Dataset:
    import torch

    from lrlab import own_data
    from lrlab.data import Dataset
    from lrlab.data.own.split import SPLIT

    settings = json.loads(node)
    target = settings["_target_"]
    option = f"data._target_={target}"
    for key, value in settings.items():
        if value == "???":
            raise UserError(f"data.{key}: needs a value, give it as data.{key}=…")
    try:
        call = instantiate({"_target_": target, "_partial_": True}).func
        parameters = inspect.signature(call).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        names = [] if anything else [k for k in SPLIT if k not in parameters]
        own = target.startswith("lrlab.own_data.")
        if anything and not own:
            names = ["integers"]  # younger than such a function may be
        split = {key: settings.pop(key) for key in names if key in settings}
        if own and "floats" in settings:
            raise UserError("data.floats: no such setting of these data; use precision=float64")
        if own and floats != "float32":
            settings["floats"] = floats  # read as they are given, not by way of float32
        with seeded(0):  # so that a function that draws its data draws the same again
            dataset = instantiate(settings)
        if not isinstance(dataset, Dataset):
            split["floats"] = floats
            return own_data.make(dataset, target.rpartition(".")[2], option, **split)
    except Exception as error:
        raise _user_error(error) or UserError(f"{option}: {first_line(error)}") from error
    split.pop("stratify", None)  # it does not apply to data that are divided already
    if split.get("integers") in ("auto", "float"):  # nor does this, if nobody asks for integers
        del split["integers"]
    if split:
        key, value = next(iter(split.items()))
        raise UserError(f"data.{key}={value}: {target} returns data that are divided already")
    if dataset.num_classes is None and dataset.train_y.ndim < 2:
        raise UserError(
            f"{option}: targets of a regression must have the shape (samples, width), or more axes"
        )
    kinds = {tensor.dtype for part in dataset.parts for tensor in inputs.tensors(part)}
    return dataset.double() if floats == "float64" and torch.float32 in kinds else dataset


def build_schedule(spec: RunSpec, steps_per_epoch: int) -> lane_schedules.LaneSchedule:
    """Build the run's schedule over all its steps."""
    return lane_schedules.build(*schedule_arguments(spec, steps_per_epoch))


def schedule_arguments(
    spec: RunSpec, steps_per_epoch: int
) -> tuple[Mapping[str, Any], Mapping[str, Any], int, int]:
    """Return the arguments of ``schedules.build``."""
    numbers = {**lane_optimizers.hyperparameters(spec["optimizer"]), "lr": spec["lr"]}
    return spec["schedule"], numbers, spec["epochs"] * steps_per_epoch, steps_per_epoch


@dataclass(frozen=True)
class References:
    """The reference values for a run's results, from the data and the loss alone.

    Attributes:
        unit: factor from the trained loss to the reported one: 1, unless targets are
            standardised.
        chance_loss: the loss of guessing, see ``losses.chance_loss``.
        chance_val_loss: that of the same prediction on the held-out samples, if it is another one.
        majority_share: the share, among held-out samples, of the class most frequent in training;
            None without classes.
        answers: how outputs are read as answers.
    """

    unit: float
    chance_loss: float | None
    chance_val_loss: float | None
    majority_share: float | None
    answers: losses.Answers


def references_of(spec: RunSpec, dataset: Dataset, network: nn.Module) -> References:
    """Compute them, once for the same data, loss and network.

    Args:
        network: the run's, on the CPU. A copy is run, on one sample.
    """
    key = network_key(spec, dataset)
    if key not in _references:
        if len(_references) > 256:
            _references.clear()
        _references[key] = _new_references(loss_function(spec), dataset, network)
    return _references[key]


_references: dict[tuple[Any, ...], References] = {}
DIFFERS = 0.1  # of guessing's loss; less is noise of a draw


def _new_references(
    loss: Callable[..., Tensor], dataset: Dataset, network: nn.Module
) -> References:
    flat = dataset.train_y.ndim == (2 if dataset.train_y.is_floating_point() else 1)
    known = losses.task(loss) and flat
    shape = (dataset.outputs,) if known else _output_shape(network, dataset)
    unit = loss_unit(loss, dataset)
    chance = None if shape is None else losses.chance_loss(loss, dataset.train_y, shape)
    chance = chance if chance is None else unit * chance
    held_out = None
    if chance is not None and shape is not None:
        held_out = losses.held_out_chance(loss, dataset.train_y, dataset.val_y, shape)
        if held_out is not None and abs(held_out - chance) <= DIFFERS * abs(chance):
            held_out = None
    logit = dataset.num_classes == 2 and shape is not None and losses.is_logit(loss, shape)
    if dataset.num_classes is None or dataset.train_y.is_floating_point():
        return References(unit, chance, held_out, None, losses.Answers(dataset.num_classes, logit))
    without = losses.ignored(loss)
    guess = int(losses.shares(dataset.train_y, without).argmax())
    of_val = losses.shares(dataset.val_y, without)
    share = float(of_val[guess]) if guess < len(of_val) else 0.0
    targets = (dataset.train_y, dataset.val_y, dataset.test_y)
    there = without is not None and any(bool((y == without).any()) for y in targets)
    axis = losses.class_axis(loss)
    answers = losses.Answers(dataset.num_classes, logit, without if there else None, axis)
    return References(unit, chance, held_out, share, answers)


def loss_unit(loss: Callable[[Tensor, Tensor], Tensor], dataset: Dataset) -> float:
    """Return the factor from the trained loss to the reported one, see ``losses.unit``."""
    return (losses.unit(loss, dataset.target_std) if dataset.target_mean else None) or 1.0


def _output_shape(network: nn.Module, dataset: Dataset) -> tuple[int, ...] | None:
    """Return the shape of the network's output for one sample; None if it is no tensor."""
    import torch

    try:
        copied = copy.deepcopy(network).cpu().eval()  # it may count its calls
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            x, _ = dataset.head(2)
            outputs = inputs.called(copied, inputs.mapped(lambda t: t.cpu().clone(), x))
    except Exception:  # it will raise in evaluation, too, and be reported there
        return None
    return tuple(outputs.shape[1:]) if isinstance(outputs, torch.Tensor) else None


def batch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """Return the order of the training samples in an epoch: (samples,) int64.

    It depends only on seed and epoch, so that a run can start at any epoch.
    """
    return np.random.default_rng([seed, epoch]).permutation(samples)


def _callable(spec: RunSpec, group: str) -> Callable[..., Any]:
    target = target_of(spec, group)
    found = _located.get(target)
    if found is not None and found is object_of(spec, group):  # Hydra takes milliseconds to say so
        return found
    try:
        found = instantiate({"_target_": target, "_partial_": True}).func
    except Exception as error:
        raise _failed(spec, group, error) from error
    _located[target] = found
    return found


_located: dict[str, Callable[..., Any]] = {}  # the object that Hydra found for a target


def target_of(spec: RunSpec, group: str) -> str:
    """Return the import path of a group's choice."""
    return spec[group]["_target_"]


def option(spec: RunSpec, group: str) -> str:
    """Return the option that names the group's target; an error line begins with it."""
    return f"{group}._target_={target_of(spec, group)}"


def _failed(spec: RunSpec, group: str, error: Exception) -> UserError:
    return _user_error(error) or UserError(f"{option(spec, group)}: {first_line(error)}")


def _user_error(error: BaseException | None) -> UserError | None:
    """Unwrap an error from Hydra, which wraps the exceptions of an instantiated class."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__
    return None


def first_line(error: BaseException) -> str:
    """Return the kind and first line of the error at the root of another."""
    inner = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0]}" if lines else type(inner).__name__
