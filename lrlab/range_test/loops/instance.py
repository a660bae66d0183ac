"""Read the class and the settings of an optimizer that exists, without touching it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrlab.errors import UserError

_GROUPED = "lrlab.range_test.loops.instance.grouped"


def config_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Any]:
    """Return a config, without lr, of an optimizer that trains as this one would from its start.

    Its parameter groups keep their settings, and their lr in ratio to that of the first one.

    Raises:
        UserError: it holds other parameters than the network's, or does not keep its settings.
    """
    kind = type(optimizer)
    works = (
        f"give its class, {_short(kind)}, or functools.partial of it with settings, for find "
        "to make one"
    )
    trained = [p for p in network.parameters() if p.requires_grad]
    known = {id(p) for p in network.parameters()}
    places = {id(p): place for place, p in enumerate(trained)}
    groups = optimizer.param_groups
    if any(id(p) not in known for group in groups for p in group["params"]):
        raise UserError(f"optimizer: holds parameters that the network does not have; {works}")
    rates = _rates(groups)
    if not rates[0]:
        raise UserError(f"optimizer: the lr of its first parameter group is 0; {works}")
    found = [
        {
            "places": [places[id(p)] for p in group["params"] if id(p) in places],
            "ratio": rate / rates[0],
            "settings": _settings(optimizer, group, works),
        }
        for group, rate in zip(groups, rates, strict=True)
    ]
    found = [group for group in found if group["places"]]
    if not found:
        raise UserError(f"optimizer: holds no parameter that is trained; {works}")
    path = f"{kind.__module__}.{kind.__qualname__}"
    settings = found[0]["settings"]
    alike = all(group["settings"] == settings and group["ratio"] == 1 for group in found)
    if alike and sum(len(group["places"]) for group in found) == len(trained):
        known = {name: _plain(p.default) for name, p in _accepted(kind).items()}
        return {"_target_": path, **{n: v for n, v in settings.items() if v != known[n]}}
    return {"_target_": _GROUPED, "path": path, "groups": found}


def grouped(
    params: Sequence[nn.Parameter], lr: float, path: str, groups: Sequence[Mapping[str, Any]]
) -> torch.optim.Optimizer:
    """Make an optimizer with parameter groups.

    Args:
        path: of its class.
        groups: the places of its parameters in params, its lr as a ratio to lr, its settings.
    """
    from lrlab.config import targets

    kind = targets.located(path)
    plain = {"foreach": False} if "foreach" in _accepted(kind) else {}
    made = [
        {
            **{n: tuple(v) if isinstance(v, list) else v for n, v in group["settings"].items()},
            **plain,
            "params": [params[place] for place in group["places"]],
            "lr": lr * group["ratio"],
        }
        for group in groups
    ]
    first = {name: value for name, value in made[0].items() if name not in ("params", "lr")}
    return kind(made, lr=lr, **first)


def _rates(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return each group's lr; that of the start where a scheduler has set it to 0 for now."""
    rates = [float(group["lr"]) for group in groups]
    if not rates[0] and all("initial_lr" in group for group in groups):
        return [float(group["initial_lr"]) for group in groups]
    return rates


def _settings(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], works: str
) -> dict[str, Any]:
    found = {}
    for name in _accepted(type(optimizer)):
        if name in group:
            value = group[name]
        elif name in vars(optimizer):
            value = vars(optimizer)[name]
        else:
            raise UserError(
                f"optimizer: a {type(optimizer).__name__} does not keep its {name}; {works}"
            )
        found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """Return a setting as a config has it."""
    if isinstance(value, Tensor):
        return value.item()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _accepted(kind: type) -> dict[str, inspect.Parameter]:
    """Return the settings that a class takes; of its parent class also, if it hands others on."""
    found: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        for parameter in parameters:
            if parameter.kind not in variable:
                found.setdefault(parameter.name, parameter)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return {n: p for n, p in found.items() if n not in ("self", "params", "lr", "defaults")}


def _short(kind: type) -> str:
    module = "torch.optim" if kind.__module__.startswith("torch.optim.") else kind.__module__
    return f"{module}.{kind.__qualname__}"
