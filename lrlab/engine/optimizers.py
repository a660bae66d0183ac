"""Optimizers on stacked parameters, one value of every hyperparameter a lane.

Each stacked update repeats the operations of torch's own single-tensor code, in the same order and
with the same roundings: ``p.addcmul_(g, lr, value=-1)`` with lr as a tensor rounds once, exactly
as ``p.add_(g, alpha=-lr)`` with lr as a number does, while ``p.sub_(lr * g)`` rounds twice.

Everything is element by element, and where a lane's hyperparameter switches an operation off that
its neighbours need, the lane's own result is selected and never multiplied by 0: so no lane's bits
depend on its neighbours, be they NaN.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lrlab.config import targets
from lrlab.engine import python_state
from lrlab.errors import UserError
from lrlab.process.plain import is_number

Columns = dict[str, np.ndarray]
Rows = dict[str, Tensor]
Common = Mapping[str, float]

# flags that choose how torch computes the same update, not which update
_BACKEND_FLAGS = ("foreach", "fused", "capturable", "differentiable")


class LaneOptimizer(Protocol):
    """The optimizer of a stack of lanes.

    Attributes:
        general: one torch optimizer a lane does the work, which is slower than a stacked update.
        seeds: (lanes,) of the runs, for a general one that draws random numbers; () until set.
    """

    general: bool
    seeds: Sequence[int]

    def torch_optimizer(self, lane: int) -> torch.optim.Optimizer | None:
        """A lane's own torch optimizer; None where the update is stacked."""
        ...

    def hyperparameters(self, lane: int) -> dict[str, float]:
        """A lane's constants without lr: momentum, beta1, beta2, eps, weight_decay ..."""
        ...

    def rates(self, lane: int) -> list[float]:
        """The lr of each parameter group, as a multiple of the lane's own."""
        ...

    def moved(self, lane: int) -> bool:
        """Whether a lane's optimizer has moved its own lr, beside the schedule."""
        ...

    def take_rates(self, other: Any) -> None:
        """Take over those of another optimizer of as many lanes and the same parameters."""
        ...

    def coefficients(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> dict[str, Tensor]:
        """Every number that the updates of the next steps need.

        Computed in float64, as torch.optim computes with Python numbers, then rounded once.

        Args:
            schedule_values: lr, and momentum or beta1 if scheduled: (count, lanes) float64. A NaN
                in momentum or beta1 stands for the lane's constant.
            first_steps: (lanes,) int, the updates that each lane has had.

        Returns:
            Name to (count, lanes) on the parameters' device: bool for masks, else float32, or
            float64 where all parameters are. In the general way float64 on the CPU, because
            torch optimizers take Python numbers.
        """
        ...

    def update(
        self, grads: Sequence[Tensor | None], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        """One step of every lane, in place on the parameters.

        Args:
            grads: one (lanes, ...) a parameter, contiguous or not; they are left as they are.
                None for a parameter that no loss depends on: as in torch, nothing changes it, nor
                that of a lane in ``absent``.
            coefficients: what ``coefficients`` returned.
            index: the row of the coefficients.
        """
        ...

    def update_units(
        self, grads: Sequence[Tensor], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        """``update`` in fewer operations, to the same bits; only if it was given ``units``.

        Args:
            grads: laid out as ``units``; what lies between the parameters is 0.
        """
        ...

    def buffers(self) -> list[Tensor]:
        """All that ``update`` changes besides the parameters; empty in the general way."""
        ...

    def stability_scale(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        """What sharpness is to be multiplied by to give the stability ratio.

        The step on a quadratic of curvature λ grows without bound where scale · λ > 1: plain
        gradient descent lr/2; heavy ball lr(1−τ)/(2(1+β)) with dampening τ; nesterov
        lr(1+2β)/(2(1+β)) (Cohen et al. 2021, arXiv:2103.00065, appendix B); Adam
        lr(1−β1)/(2(1+β1)) on the preconditioned Hessian, bias correction included (Cohen et al.
        2022, arXiv:2207.14484, section 2: 38/lr at β1 = 0.9).

        Args:
            schedule_values, first_steps: as for ``coefficients``.

        Returns:
            (count, lanes) float64; NaN in the general way, which knows no rule.
        """
        ...

    def swings_from(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        """The stability ratio from which on the steps on a quadratic swing about its minimum.

        On a quadratic of curvature λ an update is a recurrence in the distance x from the minimum.
        x creeps towards 0 while all roots r are real and positive; from the ratio returned here
        on they are complex or negative, and x changes its sign. With h = lr·(1−τ)·λ:

            plain        r = 1 − h                          h = 1                ratio 1/2
            heavy ball   r² − (1+β−h)·r + β = 0             h = (1−√β)²          h/(2(1+β))
            nesterov     r² − (1+β)(1−h)·r + β(1−h) = 0     h = ((1−β)/(1+β))²   h(1+2β)/(2(1+β))

        Adam averages its gradients, which is heavy ball with τ = β = β1, on the preconditioned
        Hessian; RMSprop is heavy ball with its own momentum. Both are thought of with a
        preconditioner that stands still. At the border the discriminant in r is 0: of the heavy
        ball see Goh 2017 (doi:10.23915/distill.00006), of nesterov O'Donoghue and Candès 2015
        (arXiv:1204.3982).

        Args:
            schedule_values, first_steps: as for ``coefficients``.

        Returns:
            (count, lanes) float64; NaN in the general way, which knows no rule.
        """
        ...

    def preconditioner(self, coefficients: Mapping[str, Tensor], index: int) -> list[Tensor] | None:
        """What the last update divided each gradient element by, (lanes, ...) each and positive.

        Args:
            coefficients, index: of that update.

        Returns:
            None where the update divides by nothing.
        """
        ...

    def keep(self, lanes: Tensor, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        """Keep only some lanes; one that is named again is copied, with its state.

        Coefficients made before must be cut as well (``c[:, lanes]``) or made anew.

        Args:
            lanes: (kept,) int64, in their new order.
            params: the new stacked parameters, (kept, ...) each.
            units: as for ``build``, if that was given any.
        """
        ...

    def join(self, other: Any, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        """Take the lanes of another optimizer of the same ``group_key`` in, behind one's own.

        Args:
            other: its state is taken over; do not use it again.
            params: the new stacked parameters, (lanes of both, ...) each.
            units: as for ``build``, if both were given any.
        """
        ...

    def state(self, lane: int) -> dict[str, Any]:
        """What the lane's past updates left behind, copied to the CPU: tensors and numbers."""
        ...

    def load(self, lane: int, state: Mapping[str, Any]) -> None:
        """Put what ``state`` gave into a lane.

        Raises:
            python_state.Unfit: it is the state of another optimizer or network.
        """
        ...


def note_absent(grad: Tensor, lanes: Sequence[int]) -> None:
    """Note the lanes whose loss does not depend on a parameter, in the gradient of all lanes."""
    grad.absent_lanes = tuple(lanes)  # type: ignore[attr-defined]


def absent(grad: Tensor) -> tuple[int, ...]:
    """The lanes that ``note_absent`` has noted."""
    return getattr(grad, "absent_lanes", ())


def group_key(optimizer: Mapping[str, Any]) -> str:
    """Equal for the lanes that may share a stack: those of one class and equal flags.

    Numbers may differ from lane to lane.

    Raises:
        UserError: an optimizer that cannot work.
    """
    target = _read(optimizer)
    flags = {
        k: repr(v)
        for k, v in target.arguments.items()
        if k not in _BACKEND_FLAGS and not _is_numeric(v)
    }
    backend = {k: True for k in _BACKEND_FLAGS[1:] if target.given.get(k)}
    return json.dumps([target.option, {**flags, **backend}], sort_keys=True)


def hyperparameters(optimizer: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of an optimizer config, defaults filled in, without lr; betas as beta1, beta2.

    Of a class of one's own also those of torch's optimizer below it, of which a schedule may move
    the momentum.

    Raises:
        UserError: an optimizer that cannot work.
    """
    target = _read(optimizer)
    found = _numbers(target.arguments)
    if target.call in _RULES or (built := _try(target)) is None:
        return found
    below = {k: v for k, v in built.defaults.items() if k not in ("lr", "betas")}
    betas = built.defaults.get("betas")
    if isinstance(betas, tuple) and len(betas) == 2 and all(map(is_number, betas)):
        below["betas"] = betas
    return {**_numbers(below), **found}


def build(
    optimizers: Sequence[Mapping[str, Any]],
    params: Sequence[Tensor],
    units: Sequence[Tensor] = (),
    each_lr_is_a_runs: bool = False,
) -> LaneOptimizer:
    """The optimizer of a stack.

    An optimizer that gives some parameters another lr than it was given keeps the ratio of the two,
    whatever the schedule. A stacked update is made where it has torch's bits: where all parameters
    are float32, or all float64.

    Args:
        optimizers: one config a lane, all of one ``group_key``, each with its ``lr``.
        params: the stacked parameters, (lanes, ...) each; updated in place.
        units: (lanes, numbers) each, of which all ``params`` are parts, for ``update_units``.
        each_lr_is_a_runs: an lr that differs from the last one stands for a run of its own, as in a
            range test: parameters have the lr that such a run would give them.

    Raises:
        UserError: an optimizer that cannot work.
        ValueError: lanes that cannot share a stack.
    """
    if len({group_key(optimizer) for optimizer in optimizers}) != 1:
        raise ValueError("lanes of a stack need one optimizer class with equal flags")
    if any(len(p) != len(optimizers) for p in params):
        raise ValueError("params need one row a lane")
    found = [_read(optimizer) for optimizer in optimizers]
    rule = _RULES.get(found[0].call)
    kinds = {p.dtype for p in params}
    stackable = len(kinds) <= 1 and kinds <= _STACKABLE
    if not rule or not stackable or any(map(found[0].arguments.get, rule.general_flags)):
        lrs = [float(optimizer["lr"]) for optimizer in optimizers]
        return _GeneralOptimizer(found, lrs, params, each_lr_is_a_runs)
    lanes = [_numbers(target.arguments) for target in found]
    constants = {name: np.array([lane[name] for lane in lanes], float) for name in lanes[0]}
    nesterov = bool(found[0].arguments.get("nesterov"))
    return _StackedOptimizer(rule, constants, nesterov, params, units)


def is_known(optimizer: Mapping[str, Any]) -> bool:
    """Whether it is of a class with a stacked update of lrlab's own, which takes any parameters."""
    return _read(optimizer).call in _RULES


def check_on(optimizer: Mapping[str, Any], network: torch.nn.Module) -> int:
    """One step on copies of a network's parameters: a class that lrlab does not know may refuse
    some of them, as torch.optim.Muon does with all but matrices.

    Args:
        optimizer: a config, with its ``lr``.

    Returns:
        How many parameter groups it makes of them.

    Raises:
        UserError: it cannot train this network.
    """
    target = _read(optimizer)
    leaves = [
        torch.nn.Parameter(p.detach().clone()) for p in network.parameters() if p.requires_grad
    ]
    lr = float(optimizer["lr"])
    try:
        built = _step(target, leaves, lr)
    except UserError as error:
        raise UserError(
            f"{error}; it cannot train this network, use one that takes all of its parameters, "
            "for example optimizer=adam"
        ) from error
    _rates(target, leaves, lr, built)
    return len(built.param_groups)


# --- reading the config ---------------------------------------------------------------------------

_NUMBER_WORKS: dict[str, Callable[[float], bool]] = {
    "a number": lambda v: True,
    "a number of at least 0": lambda v: v >= 0,
    "at least 0 and below 1": lambda v: 0 <= v < 1,
}
# hyperparameter of a class with a stacked update: what works, and an example
_NUMBERS = {
    "momentum": ("a number of at least 0", 0.9),
    "dampening": ("a number", 0.0),
    "weight_decay": ("a number of at least 0", 0.0001),
    "eps": ("a number of at least 0", 1e-8),
    "alpha": ("at least 0 and below 1", 0.99),
    "lr_decay": ("a number of at least 0", 0.0),
    "initial_accumulator_value": ("a number of at least 0", 0.0),
}


def _read(optimizer: Mapping[str, Any]) -> targets.Target:
    lr = optimizer.get("lr", 0.0)
    if not is_number(lr) or lr < 0:
        raise UserError(f"lr={lr}: must be a number of at least 0, for example lr=0.1")
    node = {k: v for k, v in optimizer.items() if k != "lr"}
    target = targets.read("optimizer", node, torch.optim.Optimizer, withheld=("params", "lr"))
    if target.call in _RULES:
        for name, value in target.given.items():
            _check(name, value, target.defaults)
        if target.call is torch.optim.SGD and target.arguments["nesterov"]:
            _check_nesterov(target.arguments)
    else:
        _try(target)
    return target


def _check(name: str, value: Any, defaults: Mapping[str, Any]) -> None:
    if name == "betas":
        pair = isinstance(value, list | tuple) and len(value) == 2
        if not pair or not all(is_number(beta) and 0 <= beta < 1 for beta in value):
            raise UserError(
                f"optimizer.betas={value}: must be two numbers of at least 0 and below 1, "
                "for example optimizer.betas=[0.9,0.999]"
            )
    elif name in _NUMBERS:
        words, example = _NUMBERS[name]
        if not is_number(value) or not _NUMBER_WORKS[words](value):
            raise UserError(
                f"optimizer.{name}={value}: must be {words}, for example optimizer.{name}={example}"
            )
    elif not isinstance(value, bool | None):
        raise UserError(
            f"optimizer.{name}={value}: must be true or false, for example optimizer.{name}=false"
        )


def _check_nesterov(arguments: Mapping[str, Any]) -> None:
    if arguments["momentum"] <= 0:
        raise UserError(
            f"optimizer.momentum={arguments['momentum']}: nesterov needs a momentum above 0, "
            "for example optimizer.momentum=0.9"
        )
    if arguments["dampening"] != 0:
        raise UserError(
            f"optimizer.dampening={arguments['dampening']}: nesterov needs optimizer.dampening=0"
        )


def _try(target: targets.Target) -> torch.optim.Optimizer | None:
    """One step on small matrices, so that what cannot train is said before anything starts."""
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
            return _step(target, _leaves(count), 0.1)
        except UserError as error:
            errors.append(error)
    own = not getattr(target.call, "__module__", "").startswith("torch.")
    if own and errors[0].__cause__ is not None:
        return None  # it may need those of the network, see ``check_on``
    raise errors[0]


def _leaves(count: int) -> list[torch.nn.Parameter]:
    """As of a perceptron: a matrix and a vector in turn."""
    return [torch.nn.Parameter(torch.zeros((2,) * (2 - i % 2))) for i in range(count)]


def _step(
    target: targets.Target, leaves: Sequence[torch.nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    optimizer = _instance(target, leaves, lr)
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    try:
        optimizer.step()
    except Exception as error:
        raise targets.failed(target, error) from error
    return optimizer


def _instance(
    target: targets.Target, leaves: Sequence[torch.nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in target.given.items()}
    if "betas" in arguments:
        arguments["betas"] = tuple(float(beta) for beta in arguments["betas"])
    if "foreach" in target.arguments:
        # the single-tensor code: a lane's bits then do not depend on how tensors are batched
        arguments["foreach"] = False
    try:
        optimizer = target.call(leaves, lr=lr, **arguments)
    except Exception as error:
        raise targets.failed(target, error) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"{target.option}: returns no torch.optim.Optimizer")
    return optimizer


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(is_number(v) for v in value)
    return is_number(value)


def _numbers(arguments: Mapping[str, Any]) -> dict[str, float]:
    numbers = {k: float(v) for k, v in arguments.items() if is_number(v)}
    betas = arguments.get("betas", ())
    return numbers | {f"beta{i}": float(beta) for i, beta in enumerate(betas, start=1)}


# --- stacked updates ------------------------------------------------------------------------------


class _StackedOptimizer:
    """Its buffers are laid out as the units that the parameters lie in, else as these."""

    general = False
    seeds: Sequence[int] = ()

    def __init__(
        self,
        rule: _Rule,
        constants: Columns,
        nesterov: bool,
        params: Sequence[Tensor],
        units: Sequence[Tensor],
    ) -> None:
        self._rule = rule
        self._constants = constants
        self._nesterov = nesterov
        self._attach(params, units)
        with torch.no_grad():
            self._state = rule.state(self._units, constants)

    def _attach(self, params: Sequence[Tensor], units: Sequence[Tensor]) -> None:
        self._params = list(params)
        self._units = list(units) or self._params
        self._common = {"nesterov": float(self._nesterov)} | {
            name: float(v[0]) for name, v in self._constants.items() if (v == v[0]).all()
        }

    def _parts(self, name: str) -> list[Tensor]:
        """A buffer's part for each parameter, (lanes, ...)."""
        if self._units is self._params:
            return self._state[name]
        return parts(self._params, self._units, self._state[name])

    def torch_optimizer(self, lane: int) -> None:
        return None

    def buffers(self) -> list[Tensor]:
        return [buffer for buffers in self._state.values() for buffer in buffers]

    def hyperparameters(self, lane: int) -> dict[str, float]:
        return {name: float(values[lane]) for name, values in self._constants.items()}

    def rates(self, lane: int) -> list[float]:
        return [1.0]

    def moved(self, lane: int) -> bool:
        return False

    def take_rates(self, other: Any) -> None:
        """All parameters have the run's lr."""

    def coefficients(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> dict[str, Tensor]:
        numbers, before = self._numbers(schedule_values, first_steps)
        device = self._params[0].device
        double = all(p.dtype == torch.float64 for p in self._params)
        kind = np.float64 if double else np.float32
        found = self._rule.coefficients(numbers, before)
        if "momentum" in found and "momentum" not in self._state:
            self._state["momentum"] = self._unused("momentum")
        with np.errstate(over="ignore"):  # a number that is too large makes its lane diverge
            return {
                name: torch.from_numpy(
                    np.ascontiguousarray(v, bool if v.dtype == bool else kind)
                ).to(device)
                for name, v in found.items()
            }

    def stability_scale(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        numbers, before = self._numbers(schedule_values, first_steps)
        return self._rule.stability_scale(numbers, before, self._nesterov)

    def swings_from(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        numbers, _ = self._numbers(schedule_values, first_steps)
        beta = numbers[self._rule.momentum] if self._rule.momentum else 0 * numbers["lr"]
        return _nesterov_border(beta) if self._nesterov else _heavy_ball_border(beta)

    def preconditioner(self, coefficients: Mapping[str, Tensor], index: int) -> list[Tensor] | None:
        if self._rule.divisor is None:
            return None
        row = {name: values[index] for name, values in coefficients.items()}
        state = {name: self._parts(name) for name in self._state}
        return [
            self._rule.divisor({name: b[i] for name, b in state.items()}, _beside(param, row))
            for i, param in enumerate(self._params)
        ]

    def _numbers(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> tuple[Columns, np.ndarray]:
        """Every hyperparameter of the next steps, and the updates before each, (count, lanes)."""
        lr = np.asarray(schedule_values["lr"], float)
        numbers = {name: np.broadcast_to(v, lr.shape) for name, v in self._constants.items()}
        numbers["lr"] = lr
        for name in ("momentum", "beta1"):
            if name in schedule_values and name in numbers:
                scheduled = np.asarray(schedule_values[name], float)
                numbers[name] = np.where(np.isnan(scheduled), numbers[name], scheduled)
        return numbers, np.asarray(first_steps)[None, :] + np.arange(len(lr))[:, None]

    def update(
        self, grads: Sequence[Tensor | None], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        with torch.no_grad():
            row = {name: values[index] for name, values in coefficients.items()}
            state = {name: self._parts(name) for name in self._state}
            for i, (param, grad) in enumerate(zip(self._params, grads, strict=True)):
                if grad is None:
                    continue
                own = {name: buffers[i] for name, buffers in state.items()}
                # torch leaves a parameter without gradient as it is, and its buffers too
                rows = [t[lane] for t in (param, *own.values()) for lane in absent(grad)]
                before = [row.clone() for row in rows]
                self._rule.update(param, grad, own, _beside(param, row), self._common)
                for row_of, kept in zip(rows, before, strict=True):
                    row_of.copy_(kept)

    def update_units(
        self, grads: Sequence[Tensor], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        with torch.no_grad():
            row = {name: values[index] for name, values in coefficients.items()}
            for i, (unit, grad) in enumerate(zip(self._units, grads, strict=True)):
                own = {name: buffers[i] for name, buffers in self._state.items()}
                self._rule.update(unit, grad, own, _beside(unit, row), self._common)

    def _unused(self, name: str) -> list[Tensor]:
        """A buffer that no update has touched, for those that exist only where they are needed.

        −0 is the one start that leaves every first gradient as it is: 0 + −0 would be 0.
        """
        return [torch.full_like(p, -0.0) for p in self._units]

    def join(self, other: Any, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        with torch.no_grad():
            state = {}
            for name in {**self._state, **other._state}:
                pairs = zip(
                    self._state.get(name) or self._unused(name),
                    other._state.get(name) or other._unused(name),
                    strict=True,
                )
                state[name] = [torch.cat(pair) for pair in pairs]
        self._state = state
        self._constants = {
            name: np.concatenate([values, other._constants[name]])
            for name, values in self._constants.items()
        }
        self._attach(params, units)

    def state(self, lane: int) -> dict[str, Any]:
        return {
            name: [part[lane].cpu().clone() for part in self._parts(name)] for name in self._state
        }

    def load(self, lane: int, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, saved in state.items():
                if name not in self._state:
                    self._state[name] = self._unused(name)
                for part, tensor in zip(self._parts(name), saved, strict=True):
                    python_state.put_tensor(part[lane], tensor, name)

    def keep(self, lanes: Tensor, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        kept = lanes.cpu().numpy()
        self._constants = {name: values[kept] for name, values in self._constants.items()}
        self._state = {
            name: [buffer[lanes.to(buffer.device)] for buffer in buffers]
            for name, buffers in self._state.items()
        }
        self._attach(params, units)


def parts(
    params: Sequence[Tensor], units: Sequence[Tensor], likes: Sequence[Tensor]
) -> list[Tensor]:
    """What lies in other tensors where each parameter lies in its unit.

    Args:
        units: tensors of which all ``params`` are parts, each with memory of its own.
        likes: of the units' shapes, contiguous.
    """
    of = {unit.untyped_storage().data_ptr(): i for i, unit in enumerate(units)}
    return [
        likes[of[p.untyped_storage().data_ptr()]].as_strided(
            p.shape, p.stride(), p.storage_offset()
        )
        for p in params
    ]


def _beside(param: Tensor, row: Rows) -> Rows:
    """(lanes,) numbers as (lanes, 1, ...), to go with the parameter."""
    return {name: v.view(-1, *(1,) * (param.ndim - 1)) for name, v in row.items()}


@dataclass(frozen=True)
class _Rule:
    """One optimizer's stacked update.

    Attributes:
        general_flags: arguments that, if true, need the general way.
        state: (params, constants (lanes,)) to buffers shaped like the params.
        coefficients: (hyperparameters (count, lanes), updates before (count, lanes)) to what
            ``update`` reads. A mask ``has_X`` is there only if X is 0 for some and not for others.
        update: (param, grad, buffers, coefficients that broadcast against param, constants that all
            lanes have in common and no schedule moves).
        stability_scale: (hyperparameters (count, lanes), updates before, nesterov), see
            ``LaneOptimizer.stability_scale``.
        divisor: (buffers, coefficients that broadcast), what the update divides by; None: nothing.
        momentum: the hyperparameter that is the share of the last step in the next; "": none is.
    """

    general_flags: tuple[str, ...]
    state: Callable[[list[Tensor], Columns], dict[str, list[Tensor]]]
    coefficients: Callable[[Columns, np.ndarray], Columns]
    update: Callable[[Tensor, Tensor, Rows, Rows, Common], None]
    stability_scale: Callable[[Columns, np.ndarray, bool], np.ndarray]
    divisor: Callable[[Rows, Rows], Tensor] | None = None
    momentum: str = ""


def _switchable(name: str, values: np.ndarray) -> Columns:
    """A hyperparameter for which torch skips the operation where it is 0."""
    on = values != 0
    if not on.any():
        return {}
    return {name: values} if on.all() else {name: values, f"has_{name}": on}


def _select(c: Rows, name: str, on: Tensor, off: Tensor) -> Tensor:
    mask = c.get(f"has_{name}")
    return on if mask is None else torch.where(mask, on, off)


def _decayed(param: Tensor, grad: Tensor, c: Rows) -> Tensor:
    """grad + weight_decay · param, which is the gradient of the L2 penalty."""
    if "weight_decay" not in c:
        return grad
    return _select(c, "weight_decay", torch.addcmul(grad, param, c["weight_decay"]), grad)


def _power(base: np.ndarray, exponent: np.ndarray | float) -> np.ndarray:
    """Python's own pow, as torch.optim computes; numpy's may differ in the last bit."""
    return np.asarray(np.frompyfunc(pow, 2, 1)(base, exponent), float)


def _sgd_coefficients(h: Columns, before: np.ndarray) -> Columns:
    c = {"lr": h["lr"], **_switchable("weight_decay", h["weight_decay"])}
    c |= _switchable("momentum", h["momentum"])
    if "momentum" in c:
        # torch starts the buffer with the whole gradient, whatever the dampening
        share = np.where(before == 0, 1.0, 1 - h["dampening"])
        if "has_momentum" in c:  # the buffer of a lane that does not use it now stays as it is
            c["momentum"] = np.where(c["has_momentum"], h["momentum"], 1.0)
            share = np.where(c["has_momentum"], share, 0.0)
        if (share != 1).any():
            c["gradient_share"] = share
    return c


def _sgd_update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    grad = _decayed(param, grad, c)
    if "momentum" in c:
        buffer = state["momentum"].mul_(c["momentum"])
        if "gradient_share" in c:
            buffer.addcmul_(grad, c["gradient_share"])
        else:
            buffer.add_(grad)
        ahead = torch.addcmul(grad, buffer, c["momentum"]) if common["nesterov"] else buffer
        grad = _select(c, "momentum", ahead, grad)
    param.addcmul_(grad, c["lr"], value=-1)


def _sgd_scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    beta = h["momentum"]
    share = 1 + 2 * beta if nesterov else np.where(beta == 0, 1.0, 1 - h["dampening"])
    return h["lr"] * share / (2 * (1 + beta))


def _heavy_ball_border(beta: np.ndarray) -> np.ndarray:
    return (1 - np.sqrt(beta)) ** 2 / (2 * (1 + beta))


def _nesterov_border(beta: np.ndarray) -> np.ndarray:
    return ((1 - beta) / (1 + beta)) ** 2 * (1 + 2 * beta) / (2 * (1 + beta))


def _add_square(square: Tensor, grad: Tensor, c: Rows, decay: float | None) -> Tensor:
    """(1 − decay)·grad², in one operation less where the decay is the same for all lanes."""
    if decay is None:
        return square.addcmul_(grad * c["square_share"], grad)
    return square.addcmul_(grad, grad, value=1 - decay)


def _adam_state(params: list[Tensor], constants: Columns) -> dict[str, list[Tensor]]:
    return {name: [torch.zeros_like(p) for p in params] for name in ("average", "square")}


def _adam_coefficients(h: Columns, before: np.ndarray) -> Columns:
    step = (before + 1).astype(float)
    correction1 = 1 - _power(h["beta1"], step)
    correction2 = 1 - _power(h["beta2"], step)
    return {
        "step_size": -(h["lr"] / correction1),
        "correction2_root": _power(correction2, 0.5),
        "gradient_share": 1 - h["beta1"],
        "beta2": h["beta2"],
        "square_share": 1 - h["beta2"],
        "eps": h["eps"],
    }


def _adam_l2_coefficients(h: Columns, before: np.ndarray) -> Columns:
    return _adam_coefficients(h, before) | _switchable("weight_decay", h["weight_decay"])


def _adamw_coefficients(h: Columns, before: np.ndarray) -> Columns:
    c = _adam_coefficients(h, before)
    if h["weight_decay"].any():
        c["shrink"] = 1 - h["lr"] * h["weight_decay"]  # a factor of 1 changes no bit
    return c


def _adam_update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    if "shrink" in c:
        param.mul_(c["shrink"])
    grad = _decayed(param, grad, c)
    average = state["average"].lerp_(grad, c["gradient_share"])
    square = _add_square(state["square"].mul_(c["beta2"]), grad, c, common.get("beta2"))
    param.addcdiv_(average * c["step_size"], _adam_divisor({"square": square}, c))


def _adam_divisor(state: Rows, c: Rows) -> Tensor:
    return state["square"].sqrt().div_(c["correction2_root"]).add_(c["eps"])


def _adam_scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    beta = h["beta1"]
    lr = h["lr"] / (1 - _power(beta, (before + 1).astype(float)))
    return lr * (1 - beta) / (2 * (1 + beta))


def _rmsprop_state(params: list[Tensor], constants: Columns) -> dict[str, list[Tensor]]:
    return {"square": [torch.zeros_like(p) for p in params]}


def _rmsprop_coefficients(h: Columns, before: np.ndarray) -> Columns:
    return {
        "lr": h["lr"],
        "alpha": h["alpha"],
        "square_share": 1 - h["alpha"],
        "eps": h["eps"],
        **_switchable("weight_decay", h["weight_decay"]),
        **_switchable("momentum", h["momentum"]),
    }


def _rmsprop_update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    grad = _decayed(param, grad, c)
    square = _add_square(state["square"].mul_(c["alpha"]), grad, c, common.get("alpha"))
    root = _rmsprop_divisor({"square": square}, c)
    if "momentum" not in c:
        param.addcdiv_(grad * c["lr"], root, value=-1)
        return
    buffer = state["momentum"].mul_(c["momentum"]).addcdiv_(grad, root)
    if "has_momentum" not in c:
        param.addcmul_(buffer, c["lr"], value=-1)
        return
    with_momentum = torch.addcmul(param, buffer, c["lr"], value=-1)
    without = torch.addcdiv(param, grad * c["lr"], root, value=-1)
    param.copy_(_select(c, "momentum", with_momentum, without))


def _rmsprop_divisor(state: Rows, c: Rows) -> Tensor:
    return state["square"].sqrt().add_(c["eps"])


def _rmsprop_scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    return h["lr"] / (2 * (1 + h["momentum"]))


def _adagrad_state(params: list[Tensor], constants: Columns) -> dict[str, list[Tensor]]:
    start = torch.from_numpy(constants["initial_accumulator_value"])
    sums = [torch.zeros_like(p) for p in params]
    for s in sums:
        s.add_(start.to(s).view(-1, *(1,) * (s.ndim - 1)))
    return {"sum": sums}


def _adagrad_coefficients(h: Columns, before: np.ndarray) -> Columns:
    return {
        "step_size": -(h["lr"] / (1 + before * h["lr_decay"])),
        "eps": h["eps"],
        **_switchable("weight_decay", h["weight_decay"]),
    }


def _adagrad_update(param: Tensor, grad: Tensor, state: Rows, c: Rows, common: Common) -> None:
    grad = _decayed(param, grad, c)
    total = state["sum"].addcmul_(grad, grad)
    param.addcdiv_(grad * c["step_size"], _adagrad_divisor({"sum": total}, c))


def _adagrad_divisor(state: Rows, c: Rows) -> Tensor:
    return state["sum"].sqrt().add_(c["eps"])


def _adagrad_scale(h: Columns, before: np.ndarray, nesterov: bool) -> np.ndarray:
    return h["lr"] / (1 + before * h["lr_decay"]) / 2


# types of parameters of which the rules have torch's bits; it treats complex numbers as pairs, and
# rounds those of half precision at other places
_STACKABLE = {torch.float32, torch.float64}
_ALWAYS_GENERAL = ("maximize", "fused", "capturable", "differentiable")
_RULES: dict[Callable[..., Any], _Rule] = {
    torch.optim.SGD: _Rule(
        _ALWAYS_GENERAL,
        lambda p, c: {},
        _sgd_coefficients,
        _sgd_update,
        _sgd_scale,
        momentum="momentum",
    ),
    torch.optim.Adam: _Rule(
        (*_ALWAYS_GENERAL, "amsgrad", "decoupled_weight_decay"),
        _adam_state,
        _adam_l2_coefficients,
        _adam_update,
        _adam_scale,
        _adam_divisor,
        momentum="beta1",
    ),
    torch.optim.AdamW: _Rule(
        (*_ALWAYS_GENERAL, "amsgrad"),
        _adam_state,
        _adamw_coefficients,
        _adam_update,
        _adam_scale,
        _adam_divisor,
        momentum="beta1",
    ),
    torch.optim.RMSprop: _Rule(
        (*_ALWAYS_GENERAL, "centered"),
        _rmsprop_state,
        _rmsprop_coefficients,
        _rmsprop_update,
        _rmsprop_scale,
        _rmsprop_divisor,
        momentum="momentum",
    ),
    torch.optim.Adagrad: _Rule(
        _ALWAYS_GENERAL,
        _adagrad_state,
        _adagrad_coefficients,
        _adagrad_update,
        _adagrad_scale,
        _adagrad_divisor,
    ),
}


# --- the general way ------------------------------------------------------------------------------

# what a lane's state holds beside its optimizer's state dict: the groups added while training
_ADDED = "added_groups"
_MOVED = "moved_rates"  # and each group's rate, where the optimizer itself has moved one


@dataclass
class _Rates:
    """The lr that each parameter group of an optimizer was built with, beside that of the run.

    A schedule moves the lr of every group by the same factor, as ``torch.optim.lr_scheduler`` does,
    so a group keeps its ratio to the run's lr.

    Attributes:
        lr: the run's, above 0.
        groups: each group's.
    """

    lr: float
    groups: list[float]

    def at(self, lr: float) -> list[float]:
        """Each group's lr where the run's is this."""
        # lr / self.lr first: where the two are equal, a group's own lr keeps its bits
        return [lr if own == self.lr else own * (lr / self.lr) for own in self.groups]


def _rates(
    target: targets.Target,
    leaves: Sequence[torch.nn.Parameter],
    lr: float,
    built: torch.optim.Optimizer,
) -> _Rates:
    """Of an optimizer that was built with this lr.

    At an lr of 0 no ratio is to be seen, so it is built once more there, with an lr of 1.

    Raises:
        UserError: it has no ratio, for at lr=0 a group has another lr.
    """
    groups = [float(group["lr"]) for group in built.param_groups]
    if lr > 0:
        return _Rates(lr, groups)
    if any(groups):
        raise UserError(
            f"lr=0: {target.name} has parameters with lr {max(groups, key=abs):g}, which is in no "
            "ratio to 0; use an lr above 0"
        )
    again = _instance(target, leaves, 1.0)
    return _Rates(1.0, [float(group["lr"]) for group in again.param_groups])


@dataclass
class _Single:
    """A lane's own torch optimizer.

    Attributes:
        leaves: share the storage of the lane's stacked parameters.
        built: how many parameter groups it had then.
        moved: whether it has moved the lr of a group itself.
    """

    target: targets.Target
    leaves: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    rates: _Rates
    built: int
    moved: bool = False

    def copied(self) -> _Single:
        """A copy, whose optimizer holds the copied leaves."""
        leaves, optimizer, rates = copy.deepcopy((self.leaves, self.optimizer, self.rates))
        return replace(self, leaves=leaves, optimizer=optimizer, rates=rates)

    def set_lr(self, lr: float) -> None:
        """Give each group its share of the run's lr; to a tensor in place, as torch does."""
        self._note_added()
        for group, own in zip(self.optimizer.param_groups, self.rates.at(lr), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(own)
            else:
                group["lr"] = own

    def step(self) -> None:
        """Let the optimizer update the leaves, in the stack's memory.

        One that moves its own lr (``group["lr"] *= 0.99``) moves the group's rate with it, as it
        would next to one of torch's schedulers that multiply.
        """
        rows = [leaf.data for leaf in self.leaves]
        given = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.optimizer.step()
        for leaf, row in zip(self.leaves, rows, strict=True):
            if leaf.data_ptr() != row.data_ptr():  # of p.data = p.data - lr * p.grad
                row.copy_(leaf.data)
                leaf.data = row
        pairs = zip(given, self.optimizer.param_groups, strict=False)  # a step may add groups
        for place, (before, group) in enumerate(pairs):
            if before > 0 and (after := float(group["lr"])) != before:
                self.rates.groups[place] *= after / before
                self.moved = True

    def set_momentum(self, name: str, value: float) -> None:
        """Give every group the momentum that a schedule says, as torch's own schedulers do."""
        for group in self.optimizer.param_groups:
            if name in group:
                group[name] = value
            elif name == "beta1" and "betas" in group:
                group["betas"] = (value, *group["betas"][1:])

    def _note_added(self) -> None:
        """Take up the groups that the optimizer has added since it was built.

        Their lr counts as one of the start, which torch's add_param_group fills in.
        """
        new = self.optimizer.param_groups[len(self.rates.groups) :]
        self.rates.groups += [float(group["lr"]) for group in new]

    def state(self) -> dict[str, Any]:
        self._note_added()
        # with its param_groups, where some optimizers keep what they learned
        found = copy.deepcopy(self.optimizer.state_dict())
        place = {id(leaf): i for i, leaf in enumerate(self.leaves)}
        added = [
            {"leaves": [place[id(p)] for p in group["params"]], "lr": own}
            for group, own in zip(
                self.optimizer.param_groups[self.built :],
                self.rates.groups[self.built :],
                strict=True,
            )
        ]
        if added:
            found[_ADDED] = added
        if self.moved:
            found[_MOVED] = list(self.rates.groups)
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        # copied: torch takes the tensors as they are, and several lanes may begin with one state
        given = copy.deepcopy(dict(state))
        have = len(self.optimizer.param_groups) - self.built
        for group in given.pop(_ADDED, [])[have:]:
            self.optimizer.add_param_group({"params": [self.leaves[i] for i in group["leaves"]]})
            self.rates.groups.append(group["lr"])
        if (moved := given.pop(_MOVED, None)) is not None:
            if len(moved) != len(self.rates.groups):
                raise python_state.Unfit("it has another number of parameter groups")
            self.rates.groups, self.moved = list(moved), True
        self.optimizer.load_state_dict(given)

    def try_out(self, state: Mapping[str, Any], python: python_state.State) -> None:
        """One step of another optimizer with this state, on copies of the leaves.

        Raises:
            Exception: whatever such a step raises.
        """
        leaves = [torch.nn.Parameter(leaf.detach().clone()) for leaf in self.leaves]
        other = _instance(self.target, leaves, self.rates.lr)
        one = replace(self, leaves=leaves, optimizer=other, rates=copy.deepcopy(self.rates))
        one.load(state)
        python_state.put_back(other, python)
        for leaf in leaves:
            leaf.grad = torch.zeros_like(leaf)
        with python_state.seeded(0):  # and nobody's generators have moved
            other.step()


class _GeneralOptimizer:
    """One torch optimizer a lane, over leaves that share the stacked parameters' storage."""

    general = True
    seeds: Sequence[int] = ()  # of the lanes, for one that draws

    def __init__(
        self,
        found: Sequence[targets.Target],
        lrs: Sequence[float],
        params: Sequence[Tensor],
        each_lr_is_a_runs: bool,
    ) -> None:
        self._each_lr_is_a_runs = each_lr_is_a_runs
        self._lanes = []
        for lane, (target, lr) in enumerate(zip(found, lrs, strict=True)):
            leaves = [torch.nn.Parameter(p.detach()[lane]) for p in params]
            optimizer = _instance(target, leaves, lr)
            rates = _rates(target, leaves, lr, optimizer)
            built = len(optimizer.param_groups)
            self._lanes.append(_Single(target, leaves, optimizer, rates, built))

    def hyperparameters(self, lane: int) -> dict[str, float]:
        return _numbers(self._lanes[lane].target.arguments)

    def rates(self, lane: int) -> list[float]:
        rates = self._lanes[lane].rates
        return [own / rates.lr for own in rates.groups]

    def moved(self, lane: int) -> bool:
        return self._lanes[lane].moved

    def take_rates(self, other: Any) -> None:
        for own, its in zip(self._lanes, other._lanes, strict=True):
            own.rates = copy.deepcopy(its.rates)

    def coefficients(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> dict[str, Tensor]:
        # each torch optimizer counts its own updates; one that draws, draws by seed and step
        self._first_steps = first_steps
        return {name: torch.tensor(np.asarray(v, float)) for name, v in schedule_values.items()}

    def stability_scale(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        return np.full(np.shape(schedule_values["lr"]), np.nan)

    def swings_from(
        self, schedule_values: Mapping[str, np.ndarray], first_steps: np.ndarray
    ) -> np.ndarray:
        return np.full(np.shape(schedule_values["lr"]), np.nan)

    def preconditioner(self, coefficients: Mapping[str, Tensor], index: int) -> list[Tensor] | None:
        return None

    def update(
        self, grads: Sequence[Tensor | None], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        row = {name: values[index].tolist() for name, values in coefficients.items()}
        for lane, one in enumerate(self._lanes):
            for leaf, grad in zip(one.leaves, grads, strict=True):
                leaf.grad = None
                if grad is not None and lane not in absent(grad):
                    # laid out as the parameter, as torch does, on which fused updates rely
                    leaf.grad = grad.detach()[lane].contiguous()
            lr = row["lr"][lane]
            if self._each_lr_is_a_runs and lr == lr and lr != one.rates.lr:
                again = _instance(one.target, one.leaves, lr)
                one.rates = _rates(one.target, one.leaves, lr, again)
            one.set_lr(lr)
            for name in ("momentum", "beta1"):
                value = row[name][lane] if name in row else float("nan")
                if value == value:
                    one.set_momentum(name, value)
            if self.seeds:
                place = int(self._first_steps[lane]) + index
                python_state.seed_quickly(self.seeds[lane], place)
            one.step()
            one.optimizer.zero_grad(set_to_none=True)

    def update_units(
        self, grads: Sequence[Tensor], coefficients: Mapping[str, Tensor], index: int
    ) -> None:
        raise NotImplementedError("each torch optimizer has parameters of its own")

    def buffers(self) -> list[Tensor]:
        return []

    def join(self, other: Any, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        self._lanes += other._lanes
        self._attach(params)

    def torch_optimizer(self, lane: int) -> torch.optim.Optimizer:
        return self._lanes[lane].optimizer

    def state(self, lane: int) -> dict[str, Any]:
        return self._lanes[lane].state()

    def load(self, lane: int, state: Mapping[str, Any]) -> None:
        self._lanes[lane].load(state)

    def try_out(self, lane: int, state: Mapping[str, Any], python: python_state.State) -> None:
        """One step on copies from what was loaded: torch takes a state whatever its tensors are.

        Args:
            state: as ``load`` takes it.
            python: what the optimizer keeps beside it.

        Raises:
            Exception: of any kind, where the state does not belong there.
        """
        self._lanes[lane].try_out(state, python)

    def keep(self, lanes: Tensor, params: Sequence[Tensor], units: Sequence[Tensor] = ()) -> None:
        kept = lanes.tolist()
        self._lanes = [
            self._lanes[lane].copied() if lane in kept[:i] else self._lanes[lane]
            for i, lane in enumerate(kept)
        ]
        self._attach(params)

    def _attach(self, params: Sequence[Tensor]) -> None:
        for lane, one in enumerate(self._lanes):
            for leaf, param in zip(one.leaves, params, strict=True):
                leaf.data = param.detach()[lane]
