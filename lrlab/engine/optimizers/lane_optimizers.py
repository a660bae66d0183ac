"""Make the optimizer of a stack from configs, and check these: which lanes share one, and how."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrlab.config import targets
from lrlab.engine.optimizers import around, groups
from lrlab.engine.optimizers.around import Around
from lrlab.engine.optimizers.general import GeneralOptimizer
from lrlab.engine.optimizers.groups import Group
from lrlab.engine.optimizers.instance import numbers, one_step, rates_of
from lrlab.engine.optimizers.known import RULES
from lrlab.engine.optimizers.protocol import LaneOptimizer
from lrlab.engine.optimizers.rule import WORKS, Number, Rule
from lrlab.engine.optimizers.stacked import StackedOptimizer, of_group
from lrlab.errors import UserError
from lrlab.process.plain import A_RATE, is_number, is_rate

# flags for how torch computes the same update, not for which update
_BACKEND_FLAGS = ("foreach", "fused", "capturable", "differentiable")
# types of parameters for which the rules have torch's bits; torch treats complex numbers as pairs,
# and rounds those of half precision elsewhere
_STACKABLE = {torch.float32, torch.float64}


def group_key(optimizer: Mapping[str, Any]) -> str:
    """Return a key that is equal for lanes that may share a stack: of one class and equal flags.

    Numbers may differ from lane to lane, also those of ``around.OPTIONS``, if all lanes have them.

    Raises:
        UserError: an optimizer that cannot work.
    """
    target = read(optimizer)
    flags = {
        k: repr(v)
        for k, v in target.arguments.items()
        if k not in _BACKEND_FLAGS and not _is_numeric(v)
    }
    backend = {k: True for k in _BACKEND_FLAGS[1:] if target.given.get(k)}
    extra = [name for name in around.OPTIONS if optimizer.get(name) is not None]
    extra += groups.structure(groups.of(optimizer))
    return json.dumps([target.option, {**flags, **backend}, *extra], sort_keys=True)


def hyperparameters(optimizer: Mapping[str, Any]) -> dict[str, float]:
    """Return all numbers of an optimizer config, with defaults, without lr; betas as beta1, beta2.

    For a user's class also those of torch's optimizer below it, because a schedule may move its
    momentum.

    Raises:
        UserError: an optimizer that cannot work.
    """
    target = read(optimizer)
    found = numbers(target.arguments)
    if target.call in RULES or (built := _try_out(target)) is None:
        return found
    below = {k: v for k, v in built.defaults.items() if k not in ("lr", "betas")}
    betas = built.defaults.get("betas")
    if isinstance(betas, tuple) and len(betas) == 2 and all(map(is_number, betas)):
        below["betas"] = betas
    return {**numbers(below), **found}


def build(
    optimizers: Sequence[Mapping[str, Any]],
    params: Sequence[Tensor],
    units: Sequence[Tensor] = (),
    each_lr_is_a_runs: bool = False,
    names: Sequence[str] = (),
) -> LaneOptimizer:
    """Return the optimizer of a stack.

    An optimizer that gives some parameters another lr than it was given keeps the ratio of the two,
    whatever the schedule. A stacked update is made where it has torch's bits: where all parameters
    are float32, or all float64.

    Args:
        optimizers: one config a lane, all of one ``group_key``, each with its ``lr``, and with
            those of ``around.OPTIONS`` that its run has.
        params: the stacked parameters, (lanes, ...) each; updated in place.
        units: (lanes, numbers) each, of which all ``params`` are parts, for ``update_units``.
        each_lr_is_a_runs: an lr that differs from the last one stands for a run of its own, as in a
            range test: parameters have the lr that such a run would give them.
        names: of the params, for patterns of groups.

    Raises:
        UserError: an optimizer that cannot work.
        ValueError: lanes that cannot share a stack.
    """
    if len({group_key(optimizer) for optimizer in optimizers}) != 1:
        raise ValueError("lanes of a stack need one optimizer class with equal flags")
    if any(len(p) != len(optimizers) for p in params):
        raise ValueError("params need one row a lane")
    names = names or [str(place) for place in range(len(params))]
    divided = [groups.divided(groups.of(each), names) for each in optimizers]
    made = _inner(optimizers, divided, params, units, each_lr_is_a_runs)
    options = {
        name: np.array([float(optimizer[name]) for optimizer in optimizers])
        for name in around.OPTIONS
        if optimizers[0].get(name) is not None
    }
    return Around(made, options, params, units) if options else made


def _inner(
    optimizers: Sequence[Mapping[str, Any]],
    divided: Sequence[Sequence[Group]],
    params: Sequence[Tensor],
    units: Sequence[Tensor],
    each_lr_is_a_runs: bool,
) -> LaneOptimizer:
    found = [read(optimizer) for optimizer in optimizers]
    rule = RULES.get(found[0].call)
    kinds = {p.dtype for p in params}
    stackable = len(kinds) <= 1 and kinds <= _STACKABLE
    if not rule or not stackable or any(map(found[0].arguments.get, rule.general_flags)):
        lrs = [float(optimizer["lr"]) for optimizer in optimizers]
        if groups.of(optimizers[0]):
            found = [groups.grouped(*each) for each in zip(found, divided, strict=True)]
        return GeneralOptimizer(found, lrs, params, each_lr_is_a_runs)
    lanes = [numbers(target.arguments) for target in found]
    constants = {name: np.array([lane[name] for lane in lanes], float) for name in lanes[0]}
    nesterov = bool(found[0].arguments.get("nesterov"))
    rules, group_of = [rule], [0] * len(params)
    if groups.of(optimizers[0]) or rule.rest is not None:
        lrs = np.array([float(optimizer["lr"]) for optimizer in optimizers])
        if rule.rest is not None:
            flag = float(bool(found[0].arguments.get("match_rms")))
            constants["match_rms"] = np.full(len(found), flag)
            if not lrs.all():
                raise UserError("lr=0: is in no ratio to optimizer.adamw_lr; use an lr above 0")
        rules = _in_groups(rule, divided, constants, lrs, params, group_of)
        if not each_lr_is_a_runs:
            constants = {k: v for k, v in constants.items() if not k.startswith("own_lr")}
    return StackedOptimizer(rule, constants, nesterov, params, units, group_of, rules)


def _in_groups(
    rule: Rule,
    divided: Sequence[Sequence[Group]],
    constants: dict[str, np.ndarray],
    lrs: np.ndarray,
    params: Sequence[Tensor],
    group_of: list[int],
) -> list[Rule]:
    """Number the groups of a stack in ``group_of``, and add their constants; return their rules."""
    rules: list[Rule] = []
    for each in zip(*divided, strict=True):

        def filled(name: str, usual: np.ndarray, each: Sequence[Group] = each) -> np.ndarray:
            own = np.array([group.settings.get(name, np.nan) for group in each])
            return np.where(np.isnan(own), usual, own)

        for own, prefix in ((rule, ""), (rule.rest, "adamw_")):
            kinds = (own is rule,) if rule.rest is not None else (True, False)
            are_rest = each[0].settings.get("adamw", False)
            places = [p for p in each[0].places if (params[p].ndim == 3 and not are_rest) in kinds]
            if own is None or not places:
                continue
            factor, number = filled("lr", np.ones(len(lrs))), len(rules)
            if own is not rule:
                constants[of_group("own_lr", number)] = constants["adamw_lr"] * factor
                factor = factor * constants["adamw_lr"] / lrs
            constants[of_group("lr", number)] = factor
            usual = constants.get(f"{prefix}weight_decay", 0 * lrs)
            constants[of_group("weight_decay", number)] = filled("weight_decay", usual)
            for place in places:
                group_of[place] = number
            rules.append(own)
    return rules


def is_known(optimizer: Mapping[str, Any]) -> bool:
    """Return whether its class has a stacked update of lrlab's own, which takes any parameters."""
    return read(optimizer).call in RULES


def check_on(optimizer: Mapping[str, Any], network: torch.nn.Module) -> int:
    """Make one step on copies of a network's parameters; return the number of parameter groups.

    A class that lrlab does not know may refuse some of them, as torch.optim.Muon refuses everything
    but matrices.

    Args:
        optimizer: a config, with its ``lr``.

    Returns:
        How many parameter groups it makes of them.

    Raises:
        UserError: it cannot train this network.
    """
    target = read(optimizer)
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    divided = groups.divided(groups.of(optimizer), list(named))
    if target.call in RULES:
        return len(divided)
    if groups.of(optimizer):
        target = groups.grouped(target, divided)
    leaves = [torch.nn.Parameter(p.detach().clone()) for p in named.values()]
    lr = float(optimizer["lr"])
    try:
        built = one_step(target, leaves, lr)
    except UserError as error:
        raise UserError(
            f"{error}; it cannot train this network, use one that takes all of its parameters, "
            "for example optimizer=adam"
        ) from error
    rates_of(target, leaves, lr, built)
    return len(built.param_groups)


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(is_number(v) for v in value)
    return is_number(value)


# --- checking a config ----------------------------------------------------------------------------


def read(optimizer: Mapping[str, Any]) -> targets.Target:
    """Return the class that an optimizer's config names, with its arguments.

    Raises:
        UserError: the optimizer cannot work.
    """
    lr = optimizer.get("lr", 0.0)
    if not is_rate(lr):
        raise UserError(f"lr={lr}: must be {A_RATE}, for example lr=0.1")
    node = {k: v for k, v in optimizer.items() if k != "lr" and k not in around.OPTIONS}
    withheld, own = ("params", "lr"), () if groups.are_its_own(optimizer) else (groups.KEY,)
    target = targets.read("optimizer", node, torch.optim.Optimizer, withheld, own)
    groups.check(groups.of(optimizer), target)
    if rule := RULES.get(target.call):
        for name, value in target.given.items():
            _check(name, value, rule.numbers)
        rule.check(target.arguments)
    else:
        _try_out(target)
    return target


def _check(name: str, value: Any, numbers: Mapping[str, Number]) -> None:
    if name == "betas":
        pair = isinstance(value, list | tuple) and len(value) == 2
        if not pair or not all(is_number(beta) and 0 <= beta < 1 for beta in value):
            raise UserError(
                f"optimizer.betas={value}: must be two numbers of at least 0 and below 1, "
                "for example optimizer.betas=[0.9,0.999]"
            )
    elif name in numbers:
        words, example = numbers[name]
        if not is_number(value) or not WORKS[words](value):
            raise UserError(
                f"optimizer.{name}={value}: must be {words}, for example optimizer.{name}={example}"
            )
    elif not isinstance(value, bool | None):
        raise UserError(
            f"optimizer.{name}={value}: must be true or false, for example optimizer.{name}=false"
        )


def _try_out(target: targets.Target) -> torch.optim.Optimizer | None:
    """Make one step on small matrices, so that an error is reported before anything starts."""
    step = getattr(target.call, "step", None)
    closure = step and inspect.signature(step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"{target.option}: evaluates the loss several times a step, which lanes cannot do; "
            "use one that takes one gradient a step, for example optimizer=adam"
        )
    errors = []
    for count in (1, 4, 64):  # one that divides the parameters into groups may need some
        try:
            return one_step(target, _leaves(count), 0.1)
        except UserError as error:
            errors.append(error)
    own = not getattr(target.call, "__module__", "").startswith("torch.")
    if own and errors[0].__cause__ is not None:
        return None  # it may need those of the network, see ``check_on``
    raise errors[0]


def _leaves(count: int) -> list[torch.nn.Parameter]:
    """Return parameters as of a perceptron: a matrix and a vector in turn."""
    return [torch.nn.Parameter(torch.zeros((2,) * (2 - i % 2))) for i in range(count)]
