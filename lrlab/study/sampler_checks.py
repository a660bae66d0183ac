"""Check the sampler and the pruner of a sweep before anything starts."""

from __future__ import annotations

import inspect
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lrlab.config import targets
from lrlab.errors import UserError
from lrlab.process.plain import is_number, is_whole
from lrlab.study import sampling

# Least values of Optuna's whole numbers, if not 0; Optuna itself does not check some of them.
_LEAST = {
    "n_ei_candidates": 1,
    "n_min_trials": 1,
    "interval_steps": 1,
    "min_resource": 1,
    "max_resource": 1,
    "popsize": 2,
    "reduction_factor": 2,
    "inc_popsize": -1,
}
_AUTO = ("min_resource", "max_resource")
_NUMBERS = ("lower", "upper", "sigma0")
_WHOLE = ("popsize", "seed")  # in addition to those with a whole number as default


def check(config: DictConfig) -> None:
    """Check the settings in the groups sampler and pruner; import Optuna.

    Raises:
        UserError: names the setting, its value and what would work.
    """
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    for group, base in (("sampler", BaseSampler), ("pruner", BasePruner)):
        node = OmegaConf.to_container(config[group], resolve=True, throw_on_missing=False)
        assert isinstance(node, dict)
        node = {str(key): value for key, value in node.items()}
        path = str(node.get("_target_"))
        call = targets.locate(f"{group}._target_={path}", path, base)
        _check_settings(group, node, call)
        if group == "sampler":
            sampling.make_sampler(node, 0, 0, {})
        else:
            sampling.make_pruner(node)


def _check_settings(group: str, node: dict[str, Any], call: Any) -> None:
    known = inspect.signature(call).parameters
    for key, value in node.items():
        option = f"{group}.{key}={value}"
        if key in targets.HYDRA_KEYS:
            continue
        if key not in known:
            if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
                raise targets.lacking(option, call.__name__, known)
        elif call.__module__.startswith("optuna."):
            _check_value(f"{group}.{key}", key, value, known[key].default)


def _check_value(option: str, key: str, value: Any, default: Any) -> None:
    if isinstance(default, bool) or key == "multivariate":
        if not isinstance(value, bool):
            raise UserError(f"{option}={value}: must be true or false")
    elif key in _NUMBERS:
        if value is not None and not is_number(value):
            raise UserError(f"{option}={value}: must be a number, or null")
    elif isinstance(default, int) or key in (*_WHOLE, *_AUTO):
        if (value is None and default is None) or (value == "auto" and key in _AUTO):
            return
        least = _LEAST.get(key, 0)
        if not is_whole(value, least):
            example = default if isinstance(default, int) else least
            raise UserError(
                f"{option}={value}: must be a whole number of at least {least}, "
                f"for example {option}={example}"
            )
