"""Define one run: a composed config, frozen, with everything that decides its numbers."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrlab.config import checks, schema, yaml_text
from lrlab.config.schema import GROUPS
from lrlab.config.targets import HYDRA_KEYS, instantiate
from lrlab.engine import devices
from lrlab.engine.optimizers import around, lane_optimizers
from lrlab.errors import UserError
from lrlab.plan.schedules import reading


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
    """Freeze a composed config; raise ``UserError`` for a value that cannot work."""
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
    """Return the name of a group's choice, and its settings.

    ``optimizer._target_=torch.optim.NAdam`` keeps all settings of the choice with the overridden
    target. Settings that NAdam does not know, and that the user did not touch, are dropped.
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
        return name, node  # reported with its reason where it is built
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return name, node

    def meant(key: str) -> bool:
        untouched = key in own and (own[key] == node[key] or "${" in str(own[key]))
        if group == "loss" and untouched and node[key] is None:
            return False  # another loss has a default of its own
        kept = key in parameters or key in HYDRA_KEYS or key in reading.OWN_KEYS
        # they differ from the value without them
        kept = kept or (group == "data" and key in ("stratify", "integers"))
        return kept or not untouched

    return name, {key: value for key, value in node.items() if meant(key)}


@functools.cache
def _choice(group: str, choice: str) -> dict[str, Any] | None:
    """Return one of lrlab's own choices as in its file, or None: a user's own has its own keys."""
    file = schema.folder("conf") / group / f"{choice}.yaml"
    if not file.is_file():
        return None
    found = yaml_text.load(file)
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


def group_key(spec: RunSpec) -> str:
    """Return a key that is equal for runs that may train as lanes of one group."""
    shared = ("data", "network", "loss", "batch_size", "threads", "lanes")
    return json.dumps(
        [
            {key: spec[key] for key in shared},
            spec.config.get("precision", "float32"),
            spec.config.get("accumulate", 1),
            spec.config.get("lane_dropout", False),
            lane_optimizers.group_key(rule_of(spec)),
            spec.device,
        ],
        sort_keys=True,
        default=str,
    )


def rule_of(spec: RunSpec) -> dict[str, Any]:
    """Return the run's optimizer for ``lane_optimizers.build``: with its lr, and what is around it.

    A run recorded before an option existed has it at null.
    """
    extra = {name: spec.config.get(name) for name in around.OPTIONS}
    told = {name: value for name, value in extra.items() if value is not None}
    return {**spec["optimizer"], "lr": spec["lr"], **told}


def samples_a_step(spec: RunSpec) -> int:
    """Return how many samples an update of the run takes: those of all its mini-batches."""
    return spec["batch_size"] * spec.config.get("accumulate", 1)


def new_summary(spec: RunSpec) -> dict[str, Any]:
    """Return a run's summary before it starts: its number, its settings, no results."""
    keys = ("lr", "seed", "epochs", "batch_size")
    results = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
    reached = ("steps_to_target", "seconds_to_target") if spec.config.get("target") else ()
    swept = {
        key: _value(spec.config, key) for key in spec.swept if "." in key or key in schema.RECIPE
    }
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
    return _typed(value) if isinstance(value, Mapping) else value


def _typed(value: Any) -> str:
    """Return a mapping as one would type it."""
    if not isinstance(value, Mapping):
        return str(value)
    return "{" + ",".join(f"{key}:{_typed(own)}" for key, own in value.items()) + "}"
