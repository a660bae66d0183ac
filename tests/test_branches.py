"""The branch test: ordinary torch loops that go on from a run's end, and what may go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import one_folder, sweep
from helpers.training import CLASSES, IN_SHAPE, Trained, Trainer, read
from torch import nn, optim

from lrlab import records
from lrlab.data import Dataset
from lrlab.engine.diagnostics import branch_budget
from lrlab.errors import Stopped
from lrlab.networks import MLP
from lrlab.plan import build
from lrlab.plan.spec import RunSpec
from lrlab.probes import branches
from lrlab.tables import branch_gains, frames
from lrlab.training import loop
from lrlab.training.stack import Stack

ON = "diagnostics=full"
STEPS, BRANCH_STEPS = 20, 40  # two epochs of ten, and four more: an eighth would be two steps


def go_on() -> bool:
    return False


def waiting(specs: list[RunSpec]) -> list[RunSpec]:
    return [spec for spec in specs if records.end_file(spec.folder).is_file()]


def waiting_specs(trainer: Trainer, runs: list[str], common: str = "") -> list[RunSpec]:
    """Runs that have been trained and wait for their branch test."""
    found: list[RunSpec] = []
    made = trainer.specs

    def remember(*arguments: Any) -> list[RunSpec]:
        found.extend(made(*arguments))
        return found

    with mock.patch.object(trainer, "specs", remember):
        trainer.together(runs, f"{ON} {common}")
    return found


def with_branches(trainer: Trainer, runs: list[str], common: str = "") -> list[Trained]:
    """Runs that have had their branch test."""
    specs = waiting_specs(trainer, runs, common)
    assert branches.test(waiting(specs), None, go_on) == []
    assert waiting(specs) == []
    return [read(spec.folder) for spec in specs]


# --- an ordinary loop -----------------------------------------------------------------------------


def ordinary_branch(
    data: Dataset,
    optimizer: Callable[..., optim.Optimizer],
    lr: float,
    multiplier: float,
    seed: int,
) -> list[float]:
    """Train a network the everyday way, then go on with another lr."""
    torch.manual_seed(seed)
    network: nn.Module = MLP(IN_SHAPE, CLASSES, hidden=(16,))
    made = optimizer(network.parameters(), lr=lr)
    losses = []
    for epoch in range((STEPS + BRANCH_STEPS) // 10):
        order = torch.from_numpy(build.batch_order(seed, epoch, len(data.train_y)))
        for index in order.split(64):
            if len(losses) == STEPS:
                for group in made.param_groups:
                    group["lr"] = multiplier * lr
            loss = F.cross_entropy(network(data.train_x[index]), data.train_y[index])
            made.zero_grad()
            loss.backward()
            made.step()
            losses.append(loss.item())
    return losses[STEPS : STEPS + BRANCH_STEPS]


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("config", "optimizer", "lr"),
    [
        ("optimizer=sgd", optim.SGD, 0.1),
        ("optimizer=adam", optim.Adam, 0.003),
        (
            "optimizer=only_target optimizer._target_=torch.optim.NAdam",
            optim.NAdam,
            0.003,
        ),
    ],
)
def test_branches_are_what_an_ordinary_loop_does(
    trainer: Trainer,
    data: Dataset,
    config: str,
    optimizer: Callable[..., optim.Optimizer],
    lr: float,
) -> None:
    runs = [f"lr={lr}", f"lr={lr / 3} seed=1"]
    trained = with_branches(trainer, runs, f"{config} network.hidden=[16]")
    for run, (own, seed) in zip(trained, [(lr, 0), (lr / 3, 1)], strict=True):
        table = records.read_branches(run.folder)
        assert table["step"].tolist() == list(range(STEPS, STEPS + BRANCH_STEPS))
        np.testing.assert_allclose(table["lr"], own)
        for name, multiplier in (("low", 0.1), ("same", 1.0), ("high", 3.0)):
            truth = ordinary_branch(data, optimizer, own, multiplier, seed)
            np.testing.assert_allclose(table[name], truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "common",
    ["", "network=cnn network.channels=[3,4] network.hidden=[8]", "network.hidden=[5,7]"],
)
def test_the_middle_branch_is_the_run_itself_trained_longer(trainer: Trainer, common: str) -> None:
    (run,) = with_branches(trainer, ["lr=0.1"], common)
    longer = trainer.alone("lr=0.1", f"epochs=6 {common}").metrics
    np.testing.assert_array_equal(
        records.read_branches(run.folder)["same"],
        longer["train_loss"].iloc[STEPS : STEPS + BRANCH_STEPS],
    )


@pytest.mark.full
def test_a_run_has_the_branches_that_it_has_alone(trainer: Trainer) -> None:
    runs = ["lr=0.01", "lr=0.1 seed=1"]
    for run, lane in zip(runs, with_branches(trainer, runs), strict=True):
        (alone,) = with_branches(trainer, [run])
        pd.testing.assert_frame_equal(
            records.read_branches(lane.folder), records.read_branches(alone.folder)
        )


@pytest.mark.full
def test_networks_that_train_one_at_a_time_have_branches_too(trainer: Trainer) -> None:
    (run,) = with_branches(trainer, ["lr=0.05"], "network=cnn")
    longer = trainer.alone("lr=0.05", "epochs=6 network=cnn").metrics
    np.testing.assert_array_equal(
        records.read_branches(run.folder)["same"],
        longer["train_loss"].iloc[STEPS : STEPS + BRANCH_STEPS],
    )


# --- which runs have one --------------------------------------------------------------------------


@pytest.mark.full
def test_runs_that_did_not_end_well_or_have_annealed_have_none(trainer: Trainer) -> None:
    runs = ["lr=1e9", "lr=0.1 schedule=cosine", "lr=0.1 schedule=step schedule.gamma=0.2", "lr=0.1"]
    diverged, cosine, step, fixed = with_branches(trainer, runs)
    assert diverged.summary["state"] == "diverged"
    assert not (diverged.folder / "branches.csv").exists()
    assert not (cosine.folder / "branches.csv").exists()
    assert (fixed.folder / "branches.csv").exists()
    np.testing.assert_allclose(records.read_branches(step.folder)["lr"], 0.02)


def test_without_diagnostics_nothing_is_kept_for_it(trainer: Trainer) -> None:
    run = trainer.alone("lr=0.1")
    assert sorted(p.name for p in run.folder.iterdir()) == [
        *("metrics.csv", "model.pt", "run.log", "summary.json")
    ]


def test_an_end_state_that_is_damaged_is_no_reason_to_fail(trainer: Trainer) -> None:
    specs = trainer.specs(["lr=0.1"], ON)
    records.end_file(specs[0].folder).write_bytes(b"half of a file")
    assert branches.test(specs, None, go_on) == []
    assert not records.end_file(specs[0].folder).exists()


def test_a_run_that_is_too_short_for_its_budget_has_none_and_says_so(trainer: Trainer) -> None:
    run = trainer.alone("lr=0.1", "diagnostics=default")
    assert not records.end_file(run.folder).exists()
    log = (run.folder / "run.log").read_text("utf-8")
    assert "no branch test: with 20 steps, fewer than 800, it would take more than a quarter" in log


@pytest.mark.parametrize("steps", [1, 36, 799, 800, 859, 2577, 10**6])
def test_the_branch_test_takes_at_most_a_quarter_of_the_steps(steps: int) -> None:
    found = branch_budget.branch_steps("default", steps, annealed=False)
    assert found == 0 or found >= 40
    assert found == 0 or 3 * found + branch_budget.BRANCH_SETUP <= steps / 4
    assert (found > 0) == (steps >= 800)
    assert branch_budget.branch_steps("full", steps, annealed=False) >= 40
    assert branch_budget.branch_steps("full", steps, annealed=True) == 0


# --- what may go wrong ----------------------------------------------------------------------------


@pytest.mark.full
def test_a_test_that_fails_takes_no_other_down(trainer: Trainer) -> None:
    specs = waiting_specs(trainer, ["lr=0.1", "lr=0.2", "lr=0.3"])
    honest = loop.advance

    def fails(stack: Stack, *arguments: Any) -> loop.Segment:
        if any(run.spec.number == 1 for run in stack.runs):
            raise RuntimeError("no more of this")
        return honest(stack, *arguments)

    with mock.patch.object(loop, "advance", fails):
        assert branches.test(specs, None, go_on) == [1]
    assert "the branch test failed: RuntimeError: no more of this" in (
        specs[1].folder / "run.log"
    ).read_text("utf-8")
    there = [(spec.folder / "branches.csv").exists() for spec in specs]
    assert there == [True, False, True]
    assert waiting(specs) == []


@pytest.mark.full
def test_a_test_that_is_stopped_is_made_later_with_the_same_numbers(trainer: Trainer) -> None:
    specs = waiting_specs(trainer, ["lr=0.1", "lr=0.2"])
    asked = iter(range(100))
    with pytest.raises(Stopped):
        branches.test(specs, None, lambda: next(asked) >= 2)
    assert waiting(specs) == specs
    assert branches.test(specs, 3, go_on) == []  # one run at a time this time
    for spec, run in zip(specs, with_branches(trainer, ["lr=0.1", "lr=0.2"]), strict=True):
        pd.testing.assert_frame_equal(
            records.read_branches(spec.folder), records.read_branches(run.folder)
        )


# --- gains ----------------------------------------------------------------------------------------


def test_gains_are_logs_of_ratios_of_the_last_quarters_mean_losses() -> None:
    early = [9.0] * 30
    table = pd.DataFrame(
        {
            "low": [*early, *[0.4, 0.6] * 5],
            "same": [*early, *[1.5, 0.5] * 5],
            "high": [*early, *[3.0, 5.0] * 5],
        }
    )
    low, high, noise = branch_gains.gains(table, 2.0)
    assert low == pytest.approx(math.log(1.002 / 0.502))
    assert high == pytest.approx(math.log(1.002 / 4.002))
    # of the ratios to their means, ten differences of ±(0.5/1.002 + 0.1/0.502)
    deviation = (0.5 / 1.002 + 0.1 / 0.502) * math.sqrt(10 / 9)
    assert noise == pytest.approx(deviation / math.sqrt(10))


def test_the_standard_error_of_a_gain_is_that_of_a_simulation() -> None:
    """Hard and easy batches, which both branches see, and a noise that each has for itself."""
    rng = np.random.default_rng(0)
    gains, errors = [], []
    for _ in range(600):
        batches = 1 + 0.5 * rng.standard_normal(160).clip(-1.5, 1.5)
        own = 1 + 0.1 * rng.standard_normal((2, 160))
        table = pd.DataFrame(
            {"low": 0.3 * batches * own[0], "same": 0.4 * batches * own[1], "high": batches}
        )
        gain, _, error = branch_gains.gains(table, 1.0)
        gains.append(gain)
        errors.append(error)
    assert np.mean(gains) == pytest.approx(math.log(4 / 3), abs=0.01)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(gains), rel=0.1)


def test_what_all_branches_share_is_no_noise() -> None:
    batches = np.linspace(0.1, 2.0, 40)
    table = pd.DataFrame({"low": 0.5 * batches, "same": batches, "high": batches})
    gain, _, error = branch_gains.gains(table, math.nan)
    assert gain == pytest.approx(math.log(2)) and error == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("low", "same", "high", "expected"),
    [
        (1.0, 1.0, math.nan, (0.0, -math.inf, 0.0)),
        (1.0, math.inf, math.nan, (math.inf, -math.inf, math.nan)),
        (math.nan, math.nan, math.nan, (-math.inf, -math.inf, math.nan)),
    ],
)
def test_a_branch_that_explodes_gains_minus_infinity(
    low: float, same: float, high: float, expected: tuple[float, float, float]
) -> None:
    early = [1.0] * (branch_gains.FEWEST_STEPS - 1)
    table = pd.DataFrame({"low": [*early, low], "same": [*early, same], "high": [*early, high]})
    assert branch_gains.gains(table, 1.0) == pytest.approx(expected, nan_ok=True)


def test_branches_have_at_least_forty_steps() -> None:
    assert branch_gains.FEWEST_STEPS == branch_budget.FEWEST_BRANCH_STEPS == 40


@pytest.mark.parametrize("steps", [0, 1, branch_gains.FEWEST_STEPS - 1])
def test_a_test_of_few_steps_is_not_heard(steps: int) -> None:
    table = pd.DataFrame({"low": [0.5] * steps, "same": [1.0] * steps, "high": [2.0] * steps})
    assert all(map(math.isnan, branch_gains.gains(table, 1.0)))


# --- as part of a sweep ---------------------------------------------------------------------------


@pytest.mark.full
def test_a_sweep_ends_with_branches_verdicts_and_an_answer(tmp_path: Path) -> None:
    ended = sweep("lr=0.1,0.5,1e9", "epochs=6", "diagnostics=full", cwd=tmp_path)
    assert ended.code == 0, ended.err
    folder = one_folder(tmp_path / "outputs")
    verdicts = pd.read_csv(folder / "verdicts.csv").set_index("run")
    assert verdicts.loc[2, "outcome"] == "diverged"
    assert verdicts["gain_low"].notna().tolist() == [True, True, False]
    # 60 steps; twice three branches of 40, and what it takes to build them
    told = "lrlab: branch test of 2 runs: 3 branches of 40 steps for each run, about 3.3 times its"
    assert f"{told} training time\n" in ended.out
    assert "lrlab: diagnostics=full measures " in ended.out
    assert "\nanswer  lr=" in ended.out
    found = frames.branches(folder)
    assert found.groupby(["run", "multiplier"]).size().to_dict() == {
        (run, m): BRANCH_STEPS for run in (0, 1) for m in (0.1, 1.0, 3.0)
    }
    assert not list(folder.glob("*/end.pt"))
