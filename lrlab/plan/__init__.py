"""From composed configs to run specs to lane groups, and from a spec to the objects it names."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from lrlab import losses, schedules
from lrlab.config import checks, data_paths, schema, yaml_text
from lrlab.config.schema import GROUPS
from lrlab.config.targets import HYDRA_KEYS, instantiate, lacking, taken
from lrlab.engine import devices, network_checks, optimizers
from lrlab.engine.python_state import seeded
from lrlab.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrlab.data import Dataset


@dataclass(frozen=True)
class RunSpec:
    """One run: everything that decides its numbers, and where its files go.

    Attributes:
        config: the resolved config as plain containers, without Hydra's part.
        choices: the name of the choice in each group, e.g. ``{"network": "mlp", ...}``.
        swept: the options that the sweep varies, as typed, e.g. ``{"lr": "0.1"}``.
        device: ``cpu``, ``cuda:0`` ...
    """

    number: int
    folder: Path
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    swept: Mapping[str, str]
    device: str

    def __getitem__(self, key: str) -> Any:
        return self.config[key]


def run_spec(
    number: int,
    folder: Path,
    config: DictConfig,
    choices: Mapping[str, Any],
    swept: Mapping[str, str],
) -> RunSpec:
    """Freeze a composed config, once its values are judged.

    Raises:
        UserError: a value that cannot work.
    """
    checks.check(config)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    plain = {str(key): value for key, value in plain.items()}
    names = {}
    for group in GROUPS:
        if plain[group].get("_target_", "???") == "???":
            raise UserError(
                f"{group}._target_: needs the import path of yours, "
                f"for example {group}._target_=mypkg.{group}"
            )
        names[group], plain[group] = _chosen(group, plain[group], str(choices.get(group)))
    device = devices.choose_device(config.device)
    return RunSpec(number, folder, plain, names, dict(swept), device)


def _chosen(group: str, node: dict[str, Any], choice: str) -> tuple[str, dict[str, Any]]:
    """The name of what was chosen in a group, and its settings.

    ``optimizer._target_=torch.optim.NAdam`` keeps all settings of the choice whose target it
    overrides. Those that NAdam does not know and that the user did not touch are not meant for it.
    """
    own = _choice(group, choice)
    target = str(node["_target_"])
    if own is None or own.get("_target_") == target:
        return choice, node
    name = target.rpartition(".")[2]
    try:
        call = instantiate({"_target_": target, "_partial_": True}).func
        parameters = inspect.signature(call).parameters
    except Exception:
        return name, node  # said with its reason where it is built
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return name, node

    def meant(key: str) -> bool:
        untouched = key in own and (own[key] == node[key] or "${" in str(own[key]))
        kept = key in parameters or key in HYDRA_KEYS or key in schedules.OWN_KEYS
        kept = kept or (group, key) == ("data", "stratify")  # which is not what is without it
        return kept or not untouched

    return name, {key: value for key, value in node.items() if meant(key)}


@functools.cache
def _choice(group: str, choice: str) -> dict[str, Any] | None:
    """One of lrlab's own choices as its file has it, or None: a user's own has its own keys."""
    file = schema.folder("conf") / group / f"{choice}.yaml"
    if not file.is_file():
        return None
    found = yaml_text.load(file)
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


def group_key(spec: RunSpec) -> str:
    """Equal for runs that may train as lanes of one group."""
    shared = ("data", "network", "loss", "batch_size", "threads", "lanes")
    return json.dumps(
        [
            {key: spec[key] for key in shared},
            spec.config.get("precision", "float32"),
            optimizers.group_key(spec["optimizer"]),
            spec.device,
        ],
        sort_keys=True,
        default=str,
    )


def check_runs(specs: Sequence[RunSpec]) -> None:
    """Build all that the runs name, before anything trains or is written.

    What was found to work is not built again: runs of a sweep mostly differ in their numbers.

    Raises:
        UserError: something that cannot work.
    """
    for spec in specs:
        if spec.config.get("precision") == "tf32" and not spec.device.startswith("cuda"):
            raise UserError(
                f"precision=tf32: needs an NVIDIA GPU, and device={spec.device} is none; "
                "use precision=float32 or precision=bf16"
            )
        dataset = load_data(spec)
        size = len(dataset.train_y)
        steps_per_epoch = size // spec["batch_size"]
        if steps_per_epoch == 0:
            raise UserError(
                f"batch_size={spec['batch_size']}: more than the {size} training samples, "
                f"use at most batch_size={size}"
            )
        if (steps := spec["epochs"] * steps_per_epoch) > checks.MOST_STEPS:
            raise UserError(
                f"epochs={spec['epochs']}: makes {steps:,} steps; a run has at most "
                f"{checks.MOST_STEPS:,}, here epochs={checks.MOST_STEPS // steps_per_epoch}"
            )
        if len(dataset.val_y) == 0:
            raise UserError("data.val_size=0: runs are judged on held-out data; use at least 1")
        if dataset.num_classes is None and spec.config.get("objective") == "val_acc":
            raise UserError(
                "objective=val_acc: a regression has no accuracy; use objective=val_loss"
            )
        _check_parametrisation(spec)
        # A seed changes numbers only, and a batch size nothing that matters but for one sample.
        batch = (min(spec["batch_size"], 2),)
        if (*_network_key(spec, dataset), batch) not in _working:
            _check_network(spec, dataset)
            _remember((*_network_key(spec, dataset), batch))  # anew: now it is imported
        groups = _parameter_groups(spec, dataset)
        moving = [spec[name] for name in ("schedule", "optimizer", "lr", "epochs")]
        key = (json.dumps([moving, steps_per_epoch, groups], default=str),)
        if key not in _working:
            schedule = build_schedule(spec, steps_per_epoch)
            if schedule.closed_loop:
                for val_loss in (2.3, 2.0, 2.1)[: spec["epochs"]]:  # it may raise at the first
                    schedule.observe(val_loss)
            schedules.check_groups(*_schedule_arguments(spec, steps_per_epoch), groups)
            _remember(key)


def _parameter_groups(spec: RunSpec, dataset: Dataset) -> int:
    """How many parameter groups the optimizer makes of the network's parameters.

    Raises:
        UserError: it cannot train them.
    """
    key = (*_network_key(spec, dataset), _object(spec, "optimizer"))
    key += (json.dumps(spec["optimizer"], default=str),)
    if key not in _working:
        groups = 1
        if not optimizers.is_known(spec["optimizer"]):
            network = build_network(spec, dataset)
            groups = optimizers.check_on({**spec["optimizer"], "lr": spec["lr"]}, network)
        _remember(key, groups)
    return _working[key]


# What check_runs found to work, the latest last; of an optimizer its number of parameter groups.
_working: dict[tuple[Any, ...], int] = {}


def _remember(key: tuple[Any, ...], found: int = 1) -> None:
    _working[key] = found
    if len(_working) > 4096:
        _working.pop(next(iter(_working)))


def _network_key(spec: RunSpec, dataset: Dataset) -> tuple[Any, ...]:
    data = [dataset.sha256, dataset.num_classes, dataset.target_mean, dataset.target_std]
    wanted = [spec["network"], spec["loss"], spec.config.get("objective")]
    nodes = json.dumps([*data, *wanted], default=str)
    return nodes, _object(spec, "network"), _object(spec, "loss")


def _object(spec: RunSpec, group: str) -> Any:
    """What the group's target names now, for a name may come to mean another thing."""
    module, _, name = str(_target(spec, group)).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if callable(found) else object()  # equal to nothing, so it is always checked


def _check_network(spec: RunSpec, dataset: Dataset) -> None:
    loss = loss_function(spec)
    _check_task(spec, loss, dataset)
    network = build_network(spec, dataset)
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"network._target_={_target(spec, 'network')}: has nothing to train")
    names = {name for name, _ in network.named_parameters()}
    _check_forward(spec, network, loss, dataset)
    network_checks.check_made(f"network._target_={_target(spec, 'network')}", names, network)
    network_checks.check_training(
        f"network._target_={_target(spec, 'network')}",
        network,
        loss,
        dataset,
        spec["batch_size"],
        spec["seed"],
    )


def _check_parametrisation(spec: RunSpec) -> None:
    """A parametrisation is for one kind of update; with the other kind, lrs would scale wrongly."""
    chosen = str(spec["network"].get("parametrisation"))
    class_name = str(_target(spec, "optimizer")).rpartition(".")[2]
    adaptive = class_name in ("Adam", "AdamW", "RMSprop", "Adagrad")
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
            f"data.standardise_targets=true: loss={chosen} cannot be told in the targets' own "
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

    from lrlab.engine.lanes import same_bits

    # as many as there are outputs would hide that the two are exchanged
    count = 3 if dataset.outputs == 2 else 2
    samples = dataset.train_x[:count], dataset.train_y[:count]
    network.eval()  # batch norm must not see this
    inputs = [p.name for p in _required(network.forward)]
    if len(inputs) > 1:
        raise UserError(
            f"network._target_={_target(spec, 'network')}: its forward takes {len(inputs)} inputs "
            f"({', '.join(inputs)}), and lrlab gives one; put them into one tensor and split it "
            "there"
        )
    with torch.no_grad(), warnings.catch_warnings():
        # of torch's own: shapes that differ would be broadcast, and the loss be another
        warnings.filterwarnings("error", message="Using a target size")
        given = samples[0].clone()
        try:
            outputs = network(given)
        except Exception as error:
            raise UserError(
                f"network._target_={_target(spec, 'network')}: does not take inputs of shape "
                f"{tuple(samples[0].shape)} ({_first_line(error)})"
                f"{network_checks.advice(error)}"
            ) from error
        if not same_bits([given], [samples[0]]):
            raise UserError(
                f"network._target_={_target(spec, 'network')}: its forward changes its input in "
                "place, and with it the data; let it work on a copy (x = x.clone())"
            )
        wanted = (len(samples[1]), dataset.outputs)
        shape = tuple(getattr(outputs, "shape", ()))
        if losses.task(loss) and shape != wanted:
            raise UserError(
                f"network._target_={_target(spec, 'network')}: returns outputs of shape {shape} "
                f"for {wanted[0]} samples, the loss needs {wanted}"
            )
        try:
            value = loss(outputs, samples[1])
        except Exception as error:
            raise UserError(
                f"loss._target_={_target(spec, 'loss')}: does not take outputs of shape {shape} "
                f"({_first_line(error)})"
            ) from error
    named = f"loss._target_={_target(spec, 'loss')}"
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise UserError(f"{named}: must return one number a batch")
    network_checks.check_loss(named, loss, outputs, samples[1])
    if spec.config.get("objective") == "val_acc":
        logit = dataset.num_classes == 2 and losses.is_logit(loss, shape[1:])
        if losses.right_answers(outputs, samples[1], dataset.num_classes, logit) is None:
            raise UserError(
                f"objective=val_acc: outputs of shape {shape} and targets of shape "
                f"{tuple(samples[1].shape)} have no accuracy; use objective=val_loss"
            )


def _required(forward: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments that must be given by position."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return []
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in parameters if p.default is p.empty and p.kind in by_place]


def build_network(spec: RunSpec, dataset: Dataset) -> nn.Module:
    """The run's network with its initial weights, on the CPU.

    The weights depend on the seed alone, not on what was built before.

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
    offered = {"in_shape": tuple(dataset.train_x.shape[1:]), "num_classes": dataset.outputs}
    arguments = {k: v for k, v in offered.items() if k in parameters} | given
    with seeded(spec["seed"]):
        try:
            if any(isinstance(value, Mapping) for value in arguments.values()):
                network = instantiate({"_target_": node["_target_"]}, **arguments)
            else:  # nothing within it to instantiate: the same, without Hydra's 10 ms
                network = call(**arguments)
        except Exception as error:
            raise _failed(spec, "network", error) from error
        if not isinstance(network, torch.nn.Module):
            raise UserError(f"network._target_={node['_target_']}: is no torch.nn.Module")
        network_checks.initialise(f"network._target_={node['_target_']}", network, dataset)
    return network


def loss_function(spec: RunSpec) -> Callable[[Tensor, Tensor], Tensor]:
    """The run's loss: (outputs (batch, ...), targets (batch, ...)) to the mean over the batch.

    A class, such as ``torch.nn.HuberLoss``, is built with the node's arguments; a function is
    called with them.

    Raises:
        UserError: there is no such loss.
    """
    node = {**spec["loss"], "_partial_": True}
    try:
        found = instantiate(node)
    except Exception as error:
        raise _failed(spec, "loss", error) from error
    _check_loss_settings(spec, found.func)
    if isinstance(found.func, type):
        try:
            return found()
        except Exception as error:
            raise _failed(spec, "loss", error) from error
    # Hydra's own partial judges its target anew at each call, and this one is called every step.
    return functools.partial(found.func, *found.args, **found.keywords)


def _check_loss_settings(spec: RunSpec, call: Callable[..., Any]) -> None:
    """That a loss takes what its config gives it."""
    names = taken(call)
    if names is None:
        return
    known = names if isinstance(call, type) else names[2:]
    for key, value in spec["loss"].items():
        if key not in known and key not in HYDRA_KEYS:
            raise lacking(f"loss.{key}={value}", call.__name__, known)


@dataclass(frozen=True)
class References:
    """What a run's results are compared with, from the data and the loss alone.

    Attributes:
        unit: what the loss that is trained on is multiplied by where it is told: 1, unless targets
            are standardised.
        chance_loss: the loss of guessing, see ``losses.chance_loss``.
        majority_share: the share of held-out samples that are of the class that is most frequent
            in training; None without classes.
        logit: whether one output a sample is the logit of class 1, see ``losses.is_logit``.
    """

    unit: float
    chance_loss: float | None
    majority_share: float | None
    logit: bool


def references(spec: RunSpec, dataset: Dataset, network: nn.Module) -> References:
    """Compute them, once for the same data, loss and network.

    Args:
        network: the run's, on the CPU. A copy is run, on one sample.
    """
    key = _network_key(spec, dataset)
    if key not in _references:
        if len(_references) > 256:
            _references.clear()
        _references[key] = _new_references(loss_function(spec), dataset, network)
    return _references[key]


_references: dict[tuple[Any, ...], References] = {}


def _new_references(
    loss: Callable[..., Tensor], dataset: Dataset, network: nn.Module
) -> References:
    shape = (dataset.outputs,) if losses.task(loss) else _output_shape(network, dataset)
    unit = loss_unit(loss, dataset)
    chance = None if shape is None else losses.chance_loss(loss, dataset.train_y, shape)
    chance = chance if chance is None else unit * chance
    logit = dataset.num_classes == 2 and shape is not None and losses.is_logit(loss, shape)
    if dataset.num_classes is None or dataset.train_y.is_floating_point():
        return References(unit, chance, None, logit)
    guess = int(losses.shares(dataset.train_y).argmax())
    of_val = losses.shares(dataset.val_y)
    share = float(of_val[guess]) if guess < len(of_val) else 0.0
    return References(unit, chance, share, logit)


def loss_unit(loss: Callable[[Tensor, Tensor], Tensor], dataset: Dataset) -> float:
    """What the loss that is trained on is multiplied by where it is told, see ``losses.unit``."""
    return (losses.unit(loss, dataset.target_std) if dataset.target_mean else None) or 1.0


def _output_shape(network: nn.Module, dataset: Dataset) -> tuple[int, ...] | None:
    """The shape of what a network returns for one sample; None where that is no tensor."""
    import torch

    try:
        copied = copy.deepcopy(network).cpu().eval()  # it may count its calls
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = copied(dataset.train_x[:2].cpu().clone())
    except Exception:  # in evaluation it will raise as well, and be told there
        return None
    return tuple(outputs.shape[1:]) if isinstance(outputs, torch.Tensor) else None


def load_data(spec: RunSpec) -> Dataset:
    """The run's data, on the CPU; loaded once a process, and anew where a named file has changed.

    The target returns a ``Dataset``, or a pair or dict that ``lrlab.own_data`` makes one of, with
    the settings of ``own_data.Split`` that it does not take itself.

    Raises:
        UserError: the data cannot be had.
    """
    return _load_data(json.dumps(spec["data"], sort_keys=True), _files_of(spec["data"]))


def _files_of(node: Mapping[str, Any]) -> str:
    """Time and size of each file that the node names."""
    found = []
    for value in node.values():
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # no file, no home, no path
            if isinstance(value, str):
                status = data_paths.find(value).stat()
                found.append((status.st_mtime_ns, status.st_size))
    return str(found)


def forget_data() -> None:
    """Load them anew when they are asked for next; a user's may have changed meanwhile."""
    _load_data.cache_clear()


@functools.lru_cache(maxsize=2)
def _load_data(node: str, files: str) -> Dataset:
    from lrlab import own_data
    from lrlab.data import Dataset

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
        names = [] if anything else [k for k in own_data.SPLIT if k not in parameters]
        split = {key: settings.pop(key) for key in names if key in settings}
        with seeded(0):  # so that a function that draws its data draws the same again
            dataset = instantiate(settings)
        if not isinstance(dataset, Dataset):
            return own_data.make(dataset, target.rpartition(".")[2], option, **split)
    except Exception as error:
        raise _user_error(error) or UserError(f"{option}: {_first_line(error)}") from error
    split.pop("stratify", None)  # which holds of no data that are divided already
    if split:
        key, value = next(iter(split.items()))
        raise UserError(f"data.{key}={value}: {target} returns data that are divided already")
    if dataset.num_classes is None and dataset.train_y.ndim != 2:
        raise UserError(f"{option}: targets of a regression must have the shape (samples, width)")
    return dataset


def build_schedule(spec: RunSpec, steps_per_epoch: int) -> schedules.LaneSchedule:
    """The run's schedule over all its steps.

    Raises:
        UserError: a value that cannot work.
    """
    return schedules.build(*_schedule_arguments(spec, steps_per_epoch))


def _schedule_arguments(
    spec: RunSpec, steps_per_epoch: int
) -> tuple[Mapping[str, Any], Mapping[str, Any], int, int]:
    numbers = {**optimizers.hyperparameters(spec["optimizer"]), "lr": spec["lr"]}
    return spec["schedule"], numbers, spec["epochs"] * steps_per_epoch, steps_per_epoch


def batch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of the training samples in an epoch: (samples,) int64.

    A function of seed and epoch alone, so that a run can start at any epoch.
    """
    return np.random.default_rng([seed, epoch]).permutation(samples)


def _callable(spec: RunSpec, group: str) -> Callable[..., Any]:
    target = _target(spec, group)
    found = _located.get(target)
    if found is not None and found is _object(spec, group):  # Hydra takes milliseconds to say so
        return found
    try:
        found = instantiate({"_target_": target, "_partial_": True}).func
    except Exception as error:
        raise _failed(spec, group, error) from error
    _located[target] = found
    return found


_located: dict[str, Callable[..., Any]] = {}  # what Hydra found behind a target


def _target(spec: RunSpec, group: str) -> str:
    return spec[group]["_target_"]


def _failed(spec: RunSpec, group: str, error: Exception) -> UserError:
    return _user_error(error) or UserError(
        f"{group}._target_={_target(spec, group)}: {_first_line(error)}"
    )


def _user_error(error: BaseException | None) -> UserError | None:
    """Hydra wraps what an instantiated class raises; what the user can mend is inside."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__
    return None


def _first_line(error: BaseException) -> str:
    inner = error
    while inner.__cause__ is not None:
        inner = inner.__cause__
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0]}" if lines else type(inner).__name__


def summary(spec: RunSpec) -> dict[str, Any]:
    """What a run's summary says before it starts: its number, its settings, no results."""
    keys = ("lr", "seed", "epochs", "batch_size")
    results = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
    reached = ("steps_to_target", "seconds_to_target") if spec.config.get("target") else ()
    swept = {key: _value(spec.config, key) for key in spec.swept if "." in key}
    return {
        "run": spec.number,
        "state": "waiting",
        "error": None,
        **{key: spec[key] for key in keys},
        **spec.choices,
        **swept,
        "first_nonfinite_step": None,
        "pruned_at_epoch": None,
        "initial_loss": None,
        **dict.fromkeys(results),
        **dict.fromkeys(reached),
    }


def _value(config: Mapping[str, Any], dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
