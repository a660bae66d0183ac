"""What a whole sweep comes to: its best run, its failures, and what it says of them."""

from __future__ import annotations

import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import command, contents, strict_json, summaries, trials
from helpers.searches import NETWORKS, SMALL, go_on, sweep
from omegaconf import OmegaConf

import lrlab
from lrlab.reproduce import main as reproduce


def states(folder: Path) -> list[str]:
    return [summary["state"] for summary in summaries(folder)]


# --- the best -------------------------------------------------------------------------------------


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("objective", "better"), [("val_loss", min), ("val_acc", max), ("train_loss", min)]
)
def test_the_direction_follows_from_the_objective(
    objective: str, better: Any, tmp_path: Path
) -> None:
    typed = ["lr=0.3,0.001,0.1", SMALL, "epochs=2", f"objective={objective}", "name=x"]
    ended = sweep(*typed, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    values = [summary[objective] for summary in summaries(folder)]
    assert [trial.value for trial in trials(folder)] == values
    best = values.index(better(values))
    assert f"best   run {best}: lr=" in ended.out and objective in ended.out
    assert OmegaConf.load(folder / "best.yaml").lr == [0.3, 0.001, 0.1][best]


@pytest.mark.full
def test_a_study_that_minimises_is_not_asked_to_maximise(tmp_path: Path) -> None:
    assert sweep("lr=0.1", SMALL, "epochs=1", "name=x", cwd=tmp_path).code == 0
    before = contents(tmp_path)
    ended = go_on("outputs/x", "objective=val_acc", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("lrlab: objective=val_acc: is to be maximized, but the sweep x min")
    assert ended.err.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.full
def test_a_sweep_of_before_a_setting_was_there_is_resumed_and_not_with_another_value(
    tmp_path: Path,
) -> None:
    assert sweep("lr=0.1,0.3", SMALL, "epochs=1", "name=x", cwd=tmp_path).code == 0
    record = tmp_path / "outputs" / "x" / "multirun.yaml"
    older = [
        line
        for line in record.read_text().splitlines(keepends=True)
        if not re.match(r" *(parametrisation|base_width|precision):", line)
    ]
    record.write_text("".join(older))
    ended = go_on("outputs/x", "lr=0.1,0.3,0.2", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    ended = go_on("outputs/x", "lr=0.1,0.3,0.2", "network.parametrisation=mup_sgd", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "network.parametrisation=not given (now mup_sgd)" in ended.err


@pytest.mark.parametrize("objective", ["steps_to_target", "seconds_to_target"])
def test_the_first_to_come_to_the_target_is_the_best(objective: str, tmp_path: Path) -> None:
    typed = ["lr=0.001,0.3", SMALL, "data.train_size=640", "epochs=3"]
    typed += [f"objective={objective}", "target=2.0", "name=x"]
    ended = sweep(*typed, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    slow, quick = summaries(folder)
    assert slow.get(objective) is None and slow["state"] == "finished"
    metrics = (folder / "1" / "metrics.csv").read_text("utf-8").splitlines()[1:]
    losses = {int(row.split(",")[0]): row.split(",")[4] for row in metrics}
    first = next(step for step, loss in losses.items() if loss and float(loss) <= 2.0)
    assert quick["steps_to_target"] == first > 0
    assert [t.state.name for t in trials(folder)] == ["FAIL", "COMPLETE"]
    assert trials(folder)[1].value == quick[objective]
    assert "best   run 1: lr=0.3" in ended.out


def test_none_that_comes_to_the_target_is_no_failure(tmp_path: Path) -> None:
    typed = ["lr=0.1,0.2", SMALL, "epochs=1", "objective=steps_to_target", "target=1e-6", "name=x"]
    ended = sweep(*typed, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("lrlab: none is the best: no setting came to target=1e-06\n")
    assert not (tmp_path / "outputs" / "x" / "best.yaml").exists()


def test_the_median_of_the_seeds_decides_and_a_diverged_one_is_the_worst(tmp_path: Path) -> None:
    typed = ["lr=0.001,0.1,0.3,1e9", "seed=0,1,2", SMALL, "epochs=2", "name=x"]
    ended = sweep(*typed, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    found = {s["run"]: s for s in summaries(folder)}
    losses = {
        lr: [math.inf if s["val_loss"] is None else s["val_loss"] for s in found.values()
             if s["lr"] == lr]
        for lr in (0.001, 0.1, 0.3, 1e9)
    }  # fmt: skip
    assert [math.isfinite(loss) for loss in losses[1e9]] == [False] * 3
    medians = {lr: statistics.median(values) for lr, values in losses.items()}
    lr = min(medians, key=lambda lr: medians[lr])
    config = OmegaConf.load(folder / "best.yaml")
    assert config.lr == lr
    number = int(str(config.source).rpartition("/")[2])
    assert found[number]["val_loss"] == medians[lr] and found[number]["seed"] == config.seed
    assert "the median of 3 seeds" in ended.out


@pytest.mark.full
def test_a_setting_of_whose_seeds_half_diverge_is_not_the_best(
    tmp_path: Path, package: Path
) -> None:
    typed = ["lr=0.001,0.1", "seed=0,1", "network._target_=mynets.SecondSeedDiverges"]
    ended = sweep(*typed, "optimizer=sgd,adam", "epochs=1", "name=x", cwd=package)
    assert ended.code == 0
    folder = package / "outputs" / "x"
    assert states(folder).count("diverged") == 4
    assert not (folder / "best.yaml").exists()
    assert "none is the best: in each setting, half of the seeds" in ended.out


@pytest.mark.full
@pytest.mark.parametrize("seed", ["0", "0,1"])
def test_a_setting_that_was_drawn_twice_has_no_more_seeds_for_it(seed: str, tmp_path: Path) -> None:
    typed = ["batch_size=31..32", "n_trials=6", "sampler=random", f"seed={seed}", "lr=0.1"]
    ended = sweep(*typed, SMALL, "epochs=1", "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    (line,) = [line for line in ended.out.splitlines() if line.startswith("best   run")]
    assert line in repr(lrlab.load(tmp_path / "outputs" / "x")).splitlines()
    assert ("median of 2 seeds" in line) == (seed == "0,1") and "of 4 seeds" not in line


def test_n_trials_counts_settings_and_not_seeds(tmp_path: Path) -> None:
    typed = ["lr=1e-3..1", "seed=0,1", "n_trials=3", SMALL, "epochs=1", "name=x", "lanes=2"]
    ended = sweep(*typed, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "a search with 3 settings of 2 seeds each" in ended.out
    folder = tmp_path / "outputs" / "x"
    pairs = [(s["lr"], s["seed"]) for s in summaries(folder)]
    assert [seed for _, seed in pairs] == [0, 1] * 3
    assert len({lr for lr, _ in pairs}) == 3
    assert [lr for lr, _ in pairs[::2]] == [lr for lr, _ in pairs[1::2]]
    assert len(trials(folder)) == 6


@pytest.mark.full
def test_a_timeout_of_nothing_starts_nothing(tmp_path: Path) -> None:
    ended = sweep("lr=1e-3..1", "timeout=1e-9", SMALL, "epochs=1", "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    told = ended.out.splitlines()[-1]
    assert told == "lrlab: no run was started; go on with python -m lrlab.resume outputs/x"
    more = go_on("outputs/x", "timeout=null", "n_trials=2", cwd=tmp_path)
    assert (more.code, more.err) == (0, "")
    assert states(tmp_path / "outputs" / "x") == ["finished"] * 2


@pytest.mark.full
def test_a_timeout_lets_the_runs_that_train_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrlab.study import trial_source

    class Clock:
        calls = 0

        @classmethod
        def monotonic(cls) -> float:
            cls.calls += 1
            return float(cls.calls)

    monkeypatch.setattr(trial_source, "time", Clock)
    typed = ["lr=0.1,0.2,0.3,0.4,0.5,0.6,0.7", "lanes=2", "timeout=4", SMALL, "epochs=2"]
    ended = sweep(*typed, "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    done = states(folder)
    assert done == ["finished"] * len(done) and 2 <= len(done) < 7
    assert f"{7 - len(done)} runs have not ended; go on with" in ended.out
    monkeypatch.undo()
    assert go_on("outputs/x", "timeout=null", cwd=tmp_path).code == 0
    assert states(folder) == ["finished"] * 7


# --- failures -------------------------------------------------------------------------------------

MORE = """


class Narrow(Net):
    def __init__(self, num_classes, width=5):
        if width == 7:
            raise ArithmeticError("seven is unlucky")
        super().__init__(num_classes, width)


class SecondSeedDiverges(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        if torch.initial_seed() % 2:
            self.layers[1].weight.data.fill_(float("nan"))
"""


@pytest.fixture
def package(tmp_path: Path) -> Any:
    (tmp_path / "mynets.py").write_text(NETWORKS + MORE)
    yield tmp_path
    sys.modules.pop("mynets", None)


def test_a_sweep_of_which_all_runs_diverge_has_a_table_and_no_best(tmp_path: Path) -> None:
    ended = sweep("lr=1e9,1e10", SMALL, "epochs=3", "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    assert states(folder) == ["diverged"] * 2
    assert "2 diverged of 2 runs" in ended.out.splitlines()
    assert "best" not in ended.out and not (folder / "best.yaml").exists()
    assert [(t.state.name, t.values) for t in trials(folder)] == [("FAIL", None)] * 2
    told = [strict_json(line) for line in (folder / "study.journal").read_text().splitlines()]
    assert all(math.isfinite(v) for entry in told for v in entry.get("values") or [])
    shown = sorted(f.name for f in folder.iterdir() if f.is_file())
    assert shown == [
        *("answer.json", "multirun.yaml", "runs.csv"),
        *("study.journal", "study.journal.lock", "verdicts.csv"),
    ]


def test_a_search_in_which_all_runs_diverge_ends(tmp_path: Path) -> None:
    typed = ["lr=1e8..1e10", "n_trials=4", "pruner=asha", "lanes=2", SMALL, "epochs=3", "name=x"]
    ended = sweep(*typed, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "4 diverged of 4 runs" in ended.out or "pruned" in ended.out
    assert not any(t.state.name == "COMPLETE" for t in trials(tmp_path / "outputs" / "x"))


def test_a_sweep_of_which_every_run_fails_says_so(package: Path) -> None:
    typed = ["lr=0.1,0.2,0.3", "network._target_=mynets.Broken", "epochs=1", "name=x"]
    ended = sweep(*typed, cwd=package)
    assert (ended.code, ended.err) == (1, "")
    assert "Traceback" not in ended.out
    assert "3 failed of 3 runs" in ended.out.splitlines()
    assert ended.out.count("failed: RuntimeError: the cat is on the keyboard") == 3
    folder = package / "outputs" / "x"
    for number in range(3):
        log = (folder / str(number) / "run.log").read_text("utf-8")
        assert "Traceback" in log and "mynets.py" in log
    again = go_on("outputs/x", "trust=true", cwd=package)
    assert (again.code, again.err) == (1, "")
    assert "3 failed of 3 runs" in again.out.splitlines()


def test_a_value_that_fails_in_the_middle_of_a_search_is_a_failed_run(package: Path) -> None:
    """Both ends of the interval can work, a value between them cannot."""
    typed = ["network=custom", "network._target_=mynets.Narrow", "+network.width=6..8"]
    typed += ["lr=0.1", "n_trials=12", "sampler=qmc", "epochs=1", "name=x", "lanes=3"]
    ended = sweep(*typed, cwd=package)
    assert (ended.code, ended.err) == (1, "")
    folder = package / "outputs" / "x"
    widths = [summary["network.width"] for summary in summaries(folder)]
    assert set(widths) == {6, 7, 8}
    assert states(folder) == ["failed" if width == 7 else "finished" for width in widths]
    assert (folder / "best.yaml").exists()
    number = widths.index(7)
    assert "seven is unlucky" in summaries(folder)[number]["error"]
    assert "Traceback" in (folder / str(number) / "run.log").read_text("utf-8")


# --- one run of many ------------------------------------------------------------------------------


@pytest.mark.full
def test_refilled_and_pruned_runs_can_be_reproduced(tmp_path: Path) -> None:
    typed = ["lr=0.001,0.1,0.002,0.003,0.3", "pruner=asha", "lanes=2", SMALL, "epochs=3", "name=x"]
    assert sweep(*typed, cwd=tmp_path).code == 0
    folder = tmp_path / "outputs" / "x"
    assert states(folder) == ["pruned", "finished", "pruned", "pruned", "finished"]
    for number, steps in ((4, 6), (0, 2)):
        ended = command(reproduce, [str(folder / str(number))], tmp_path)
        assert (ended.code, ended.err) == (0, "")
        assert f"identical: {steps} of {steps} steps" in ended.out
