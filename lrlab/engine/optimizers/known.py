"""List the optimizers with a fast update: torch's class to lrlab's ``Rule``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lrlab.engine.optimizers.adagrad import ADAGRAD
from lrlab.engine.optimizers.adam import ADAM, ADAMW
from lrlab.engine.optimizers.muon import MUON, Muon
from lrlab.engine.optimizers.rmsprop import RMSPROP
from lrlab.engine.optimizers.rule import Number, Rule
from lrlab.engine.optimizers.sgd import SGD

RULES: dict[Callable[..., Any], Rule] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: ADAM,
    torch.optim.AdamW: ADAMW,
    torch.optim.RMSprop: RMSPROP,
    torch.optim.Adagrad: ADAGRAD,
    Muon: MUON,
}


def divides(target: str) -> bool:
    """Whether the update of a class, by its import path or name, divides each gradient element."""
    name = target.rpartition(".")[2]
    return any(
        rule.divisor and getattr(call, "__name__", "") == name for call, rule in RULES.items()
    )


def numbers() -> dict[str, Number]:
    """Return every hyperparameter that is a number, of all rules."""
    return {name: number for rule in RULES.values() for name, number in rule.numbers.items()}
