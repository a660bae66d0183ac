"""Update in the general way: one torch optimizer for each lane, over the stacked parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrlab.data import random_state
from lrlab.engine import forms, python_state
from lrlab.engine.optimizers.instance import Rates, has_modes, instance, numbers, rates_of
from lrlab.engine.optimizers.protocol import Coefficients, Gradients, Values, absent

if TYPE_CHECKING:
    from lrlab.config import targets

# keys of a lane's state besides its optimizer's state dict: the groups added while training
_ADDED = "added_groups"
_MOVED = "moved_rates"  # and each group's rate, if the optimizer itself has moved one


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
    rates: Rates
    built: int
    moved: bool = False

    def copied(self) -> _Single:
        """Return a copy with an optimizer that holds the copied leaves."""
        leaves, optimizer, rates = copy.deepcopy((self.leaves, self.optimizer, self.rates))
        return replace(self, leaves=leaves, optimizer=optimizer, rates=rates)

    def set_lr(self, lr: float) -> None:
        """Give each group its share of the run's lr; set a tensor in place, as torch does."""
        self._note_added()
        for group, own in zip(self.optimizer.param_groups, self.rates.at(lr), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(own)
            else:
                group["lr"] = own

    def step(self) -> None:
        """Let the optimizer update the leaves, in the stack's memory.

        An optimizer that moves its own lr (``group["lr"] *= 0.99``) moves the group's rate with it,
        as it would next to one of torch's schedulers that multiply.
        """
        rows = [leaf.data for leaf in self.leaves]
        given = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.optimizer.step()
        for leaf, row in zip(self.leaves, rows, strict=True):
            if leaf.data_ptr() != row.data_ptr():  # from p.data = p.data - lr * p.grad
                row.copy_(leaf.data)
                leaf.data = row
        pairs = zip(given, self.optimizer.param_groups, strict=False)  # a step may add groups
        for place, (before, group) in enumerate(pairs):
            if before > 0 and (after := float(group["lr"])) != before:
                self.rates.groups[place] *= after / before
                self.moved = True

    def set_momentum(self, name: str, value: float) -> None:
        """Give every group the schedule's momentum, as torch's own schedulers do."""
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
        # with its param_groups, where some optimizers keep learned values
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
        # copied: torch takes the tensors themselves, and several lanes may begin with one state
        given = copy.deepcopy(dict(state))
        have = len(self.optimizer.param_groups) - self.built
        for group in given.pop(_ADDED, [])[have:]:
            self.optimizer.add_param_group({"params": [self.leaves[i] for i in group["leaves"]]})
            self.rates.groups.append(group["lr"])
        if (moved := given.pop(_MOVED, None)) is not None:
            if len(moved) != len(self.rates.groups):
                raise forms.Unfit("it has another number of parameter groups")
            self.rates.groups, self.moved = list(moved), True
        self.optimizer.load_state_dict(given)

    def try_out(self, state: Mapping[str, Any], python: python_state.State) -> None:
        """Make one step of another optimizer with this state, on copies of the leaves."""
        leaves = [torch.nn.Parameter(leaf.detach().clone()) for leaf in self.leaves]
        other = instance(self.target, leaves, self.rates.lr)
        one = replace(self, leaves=leaves, optimizer=other, rates=copy.deepcopy(self.rates))
        one.load(state)
        python_state.put_back(other, python)
        for leaf in leaves:
            leaf.grad = torch.zeros_like(leaf)
        with random_state.seeded(0):  # and no random generator has moved
            other.step()


class GeneralOptimizer:
    """One torch optimizer a lane, over leaves that share the stacked parameters' storage."""

    general = True
    multiplies = False
    seeds: Sequence[int] = ()  # seeds of the lanes, for an optimizer that draws

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
            optimizer = instance(target, leaves, lr)
            rates = rates_of(target, leaves, lr, optimizer)
            built = len(optimizer.param_groups)
            self._lanes.append(_Single(target, leaves, optimizer, rates, built))

    def hyperparameters(self, lane: int) -> dict[str, float]:
        return numbers(self._lanes[lane].target.arguments)

    def rates(self, lane: int) -> list[float]:
        rates = self._lanes[lane].rates
        return [own / rates.lr for own in rates.groups]

    def moved(self, lane: int) -> bool:
        return self._lanes[lane].moved

    def take_rates(self, other: Any) -> None:
        for own, its in zip(self._lanes, other._lanes, strict=True):
            own.rates = copy.deepcopy(its.rates)

    def coefficients(self, schedule_values: Values, first_steps: np.ndarray) -> dict[str, Tensor]:
        # each torch optimizer counts its own updates; one that draws, draws by seed and step
        self._first_steps = first_steps
        return {name: torch.tensor(np.asarray(v, float)) for name, v in schedule_values.items()}

    def stability_scale(self, schedule_values: Values, first_steps: np.ndarray) -> np.ndarray:
        return np.full(np.shape(schedule_values["lr"]), np.nan)

    swings_from = stability_scale

    def preconditioner(self, coefficients: Coefficients, index: int) -> list[Tensor] | None:
        return None

    def update(self, grads: Gradients, coefficients: Coefficients, index: int) -> None:
        row = {name: values[index].tolist() for name, values in coefficients.items()}
        for lane, one in enumerate(self._lanes):
            for leaf, grad in zip(one.leaves, grads, strict=True):
                leaf.grad = None
                if grad is not None and lane not in absent(grad):
                    # laid out like the parameter, as in torch; fused updates rely on that
                    leaf.grad = grad.detach()[lane].contiguous()
            lr = row["lr"][lane]
            if self._each_lr_is_a_runs and lr == lr and lr != one.rates.lr:
                again = instance(one.target, one.leaves, lr)
                one.rates = rates_of(one.target, one.leaves, lr, again)
            one.set_lr(lr)
            for name in ("momentum", "beta1"):
                value = row[name][lane] if name in row else float("nan")
                if value == value:
                    one.set_momentum(name, value)
            if self.seeds:
                place = int(self._first_steps[lane]) + index
                random_state.seed_quickly(self.seeds[lane], place)
            one.step()
            one.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        turned: list[Any] = [one for one in self._lanes if has_modes(one.optimizer)]
        kept = [[leaf.detach().clone() for leaf in one.leaves] for one in turned]
        for one in turned:
            one.optimizer.eval()
        try:
            yield
        finally:
            for one, before in zip(turned, kept, strict=True):
                one.optimizer.train()
                for leaf, old in zip(one.leaves, before, strict=True):
                    leaf.data.copy_(old)  # its way back may round

    def update_units(self, grads: Sequence[Tensor], coefficients: Coefficients, index: int) -> None:
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
        """Make one step on copies of the loaded state: torch accepts any tensors as a state.

        Raises:
            Exception: of any kind, if the state does not belong there.
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
