"""Schedulers that a user wrote: what they may do, and the line where they may not."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from helpers.schedules import STEPS, STEPS_PER_EPOCH, curve
from torch.optim import lr_scheduler

from lrlab.errors import UserError
from lrlab.plan import checks
from lrlab.plan.schedules import lane_schedules, table

pytestmark = pytest.mark.unit


class Ruled(lr_scheduler.LRScheduler):
    """Sets a rate that no ordinary scheduler has, from its fourth tick on."""

    def __init__(self, optimizer, rate="1"):
        self.rate = eval(str(rate), {"np": np, "torch": torch})
        super().__init__(optimizer)

    def get_lr(self):
        if self.last_epoch < 3:
            return [0.1]
        if isinstance(self.rate, type):
            raise self.rate
        return [self.rate]


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize(
    ("rate", "words"),
    [
        ("(-1) ** 0.5", "lr is (6.123233995736766e-17+1j) (complex)"),
        ("0.1 + 0j", "lr is (0.1+0j) (complex)"),
        ("np.complex64(0.5)", "lr is (0.5+0j) (complex64)"),
        ("torch.tensor(0.5 + 0j)", "lr is (0.5+0j) (complex)"),
        ("'0.1'", "lr is 0.1 (str)"),
        ("None", "lr is None (NoneType)"),
        ("True", "lr is True (bool)"),
        ("[0.1]", "lr is [0.1] (list)"),
        ("torch.ones(2)", "lr is tensor of shape (2,) (Tensor)"),
        ("-0.1", "lr is -0.1"),
        ("float('nan')", "lr is nan"),
        ("-np.inf", "lr is -inf"),
        ("10 ** 400", "lr is 10000000"),
        ("KeyError", "KeyError"),
    ],
)
def test_a_rate_that_is_no_rate_is_one_line(rate, words, interval):
    steps = 5 * STEPS_PER_EPOCH
    node = {"_target_": f"{__name__}.Ruled", "rate": rate, "interval": interval}
    with pytest.raises(UserError) as caught:
        curve(node, steps=steps)
    said = str(caught.value)
    assert said.startswith(f"schedule._target_={__name__}.Ruled: {words}")
    assert "\n" not in said
    if rate != "KeyError":
        assert f" at {interval} 3, but must " in said
        assert said.endswith(f"; change schedule.rate={rate}")


@pytest.mark.parametrize("rate", ["np.float32(0.5)", "torch.tensor(0.5)", "1"])
def test_a_rate_may_be_any_kind_of_real_number(rate):
    node = {"_target_": f"{__name__}.Ruled", "rate": rate}
    assert curve(node, steps=4, steps_per_epoch=1).tolist() == [0.1] * 3 + [
        1.0 if rate == "1" else 0.5
    ]


class Follows(lr_scheduler.ReduceLROnPlateau):
    """Of a loss that it is told it makes a rate that is none."""

    def __init__(self, optimizer, rate="1"):
        super().__init__(optimizer)
        self.rate = eval(str(rate))

    def step(self, metrics, epoch=None):
        if isinstance(self.rate, type):
            raise self.rate
        self.optimizer.param_groups[0]["lr"] = self.rate


@pytest.mark.parametrize(
    ("rate", "words"),
    [("1j", "lr is 1j (complex) at epoch 1"), ("-1.0", "lr is -1"), ("KeyError", "KeyError")],
)
def test_a_closed_loop_that_gives_no_rate_is_refused_before_training(rate, words, tmp_path):
    from helpers.training import make_specs

    typed = f"schedule=plateau schedule._target_={__name__}.Follows schedule.rate={rate}"
    with pytest.raises(UserError) as caught:
        checks.check_runs(make_specs(tmp_path, ["lr=0.1"], typed))
    said = str(caught.value)
    assert said.startswith(f"schedule._target_={__name__}.Follows: {words}") and "\n" not in said


class Drawn(lr_scheduler.LRScheduler):
    def get_lr(self):
        return [random.random() + np.random.rand() + float(torch.rand(()))]


def test_a_scheduler_that_draws_draws_the_same_again():
    node = {"_target_": f"{__name__}.Drawn"}
    first = curve(node)
    table.cached_table.cache_clear()
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    state = random.getstate(), torch.get_rng_state()
    assert curve(node).tolist() == first.tolist()
    assert len(set(first.tolist())) == STEPS
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])


class Moves(lr_scheduler.LRScheduler):
    """Moves a number of its groups from its third tick on, and lr by what it reads there."""

    def __init__(self, optimizer, name="weight_decay", value=0.5, reads=""):
        self.name, self.value, self.reads = name, value, reads
        super().__init__(optimizer)

    def get_lr(self):
        (group,) = self.optimizer.param_groups
        if self.last_epoch >= 2 and self.name == "beta2":
            group["betas"] = (group["betas"][0], self.value)
        elif self.last_epoch >= 2 and self.name:
            group[self.name] = self.value
        reads = {
            "parameters": lambda: group["params"][0].norm(),
            "gradients": lambda: sum(p.grad.norm() for p in group["params"]),
            "state": lambda: len(self.optimizer.state),
            "first": lambda: self.optimizer.state[group["params"]],
            "weight_decay": lambda: group["weight_decay"],
        }
        return [0.1 * reads[self.reads]() if self.reads else 0.1]


@pytest.mark.parametrize("moved", ["weight_decay", "dampening", "beta2"])
def test_a_scheduler_may_not_move_what_no_run_would_follow(moved):
    given = {"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.0}
    if moved == "beta2":
        given = {"beta1": 0.9, "beta2": 0.99}
    node = {"_target_": f"{__name__}.Moves", "name": moved}
    with pytest.raises(UserError) as caught:
        lane_schedules.build(node, {"lr": 0.1, **given}, STEPS, STEPS_PER_EPOCH)
    assert f"Moves: changes {moved} from {given[moved]:g} to 0.5 at step 2; " in str(caught.value)


def test_a_scheduler_moves_the_momentum_and_reads_the_optimizers_numbers():
    node = {"_target_": f"{__name__}.Moves", "name": "momentum", "reads": "weight_decay"}
    given = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.5}
    values = lane_schedules.build(node, given, 4, 4).values(0, 4)
    assert values["lr"].tolist() == [0.05] * 4
    assert values["momentum"].tolist() == [0.9, 0.9, 0.5, 0.5]
    # lanes of another weight decay have another table, and torch's own schedulers share one
    other = lane_schedules.build(node, {**given, "weight_decay": 1.0}, 4, 4)
    assert other.values(0, 1)["lr"] == 0.1


@pytest.mark.parametrize("reads", ["parameters", "gradients", "state", "first"])
def test_a_scheduler_that_reads_what_no_table_can_know_is_refused(reads):
    node = {"_target_": f"{__name__}.Moves", "name": "", "reads": reads}
    with pytest.raises(UserError, match=r"Moves: reads .*; let them depend on the step alone"):
        curve(node)


class FollowsMore(lr_scheduler.ReduceLROnPlateau):
    def step(self, metrics, epoch=None):
        self.optimizer.param_groups[0]["momentum"] = 0.5


def test_a_closed_loop_that_moves_the_momentum_is_refused_before_training(tmp_path):
    from helpers.training import make_specs

    typed = f"optimizer=momentum schedule=plateau schedule._target_={__name__}.FollowsMore"
    with pytest.raises(UserError, match=r"changes momentum from 0\.9 to 0\.5 at epoch 1; "):
        checks.check_runs(make_specs(tmp_path, ["lr=0.1"], typed))


class PerGroup(lr_scheduler.LRScheduler):
    """Each group decays faster than the one before, unless all are alike."""

    def __init__(self, optimizer, alike=False):
        self.alike = alike
        super().__init__(optimizer)

    def get_lr(self):
        powers = [0 if self.alike else group for group in range(len(self.base_lrs))]
        return [
            lr * 0.9 ** (self.last_epoch * (1 + power))
            for lr, power in zip(self.base_lrs, powers, strict=True)
        ]


class Halves(torch.optim.SGD):
    """Two groups, of which the second has a tenth of the lr."""

    def __init__(self, params, lr=0.1):
        params = list(params)
        super().__init__([{"params": params[:1]}, {"params": params[1:], "lr": lr / 10}], lr=lr)


@pytest.mark.parametrize("alike", [True, False])
def test_a_curve_for_each_group_is_refused_where_there_are_groups(alike, tmp_path):
    from helpers.training import make_specs

    own = f"schedule._target_={__name__}.PerGroup schedule.alike={alike}"
    checks.check_runs(make_specs(tmp_path / "one", ["lr=0.1"], own))  # of one group
    specs = make_specs(tmp_path, ["lr=0.1"], f"{own} optimizer._target_={__name__}.Halves")
    if alike:
        checks.check_runs(specs)
        return
    with pytest.raises(UserError, match=r"\(0\.09, 0\.081 from the same lr\)") as caught:
        checks.check_runs(specs)
    assert f"schedule._target_={__name__}.PerGroup: gives each parameter" in str(caught.value)
