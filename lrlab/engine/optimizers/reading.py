"""Check an optimizer's config: its hyperparameters, or one step if lrlab has no rule for it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from lrlab.config import targets
from lrlab.engine.optimizers.instance import one_step
from lrlab.engine.optimizers.known import RULES
from lrlab.engine.optimizers.rule import WORKS, Number
from lrlab.errors import UserError
from lrlab.process.plain import is_number


def read(optimizer: Mapping[str, Any]) -> targets.Target:
    """Return the class that an optimizer's config names, with its arguments.

    Raises:
        UserError: the optimizer cannot work.
    """
    lr = optimizer.get("lr", 0.0)
    if not is_number(lr) or lr < 0:
        raise UserError(f"lr={lr}: must be a number of at least 0, for example lr=0.1")
    node = {k: v for k, v in optimizer.items() if k != "lr"}
    target = targets.read("optimizer", node, torch.optim.Optimizer, withheld=("params", "lr"))
    if rule := RULES.get(target.call):
        for name, value in target.given.items():
            _check(name, value, rule.numbers)
        rule.check(target.arguments)
    else:
        try_out(target)
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


def try_out(target: targets.Target) -> torch.optim.Optimizer | None:
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
