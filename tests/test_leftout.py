"""A resume that asks for less trains no more than that, and says what it leaves out."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from helpers.commands import command, summaries
from helpers.interrupted import QUICK
from helpers.studies import PRUNERS, Opener, grid, search

from lrlab import records, resume
from lrlab.sweep import main
from lrlab.sweeping import leftout


def drained(queue: object, state: str = "finished") -> list[dict[str, str]]:
    """Train all that a queue has to give."""
    found = []
    while queue.wait(lambda: False) and (trial := queue.take(0)):  # type: ignore[attr-defined]
        found.append(trial.overrides)
        queue.tell(trial.number, state, 1.0)  # type: ignore[attr-defined]
    return found


def test_a_shorter_list_is_all_that_is_trained_and_the_longer_one_comes_back(
    opened: Opener,
) -> None:
    words = ["lr=0.1,0.2,0.4"]
    opened(grid(lr="0.1,0.2,0.4"), words=words).close()
    space = grid(lr="0.1,2e-1")
    queue = opened(space, "resume", words=["lr=0.1,2e-1"])
    assert leftout.lines(queue, space, "RESUME") == [
        "1 run (lr=0.4) is left out of what was asked for before; to train it, "
        "RESUME lr=0.1,0.2,0.4"
    ]
    assert [float(t["lr"]) for t in drained(queue)] == [0.1, 0.2]
    best = queue.best()
    assert best is not None, "what is left out holds nothing up"
    queue.close()
    whole = opened(grid(lr="0.1,0.2,0.4"), "resume", words=words)
    assert leftout.lines(whole, grid(lr="0.1,0.2,0.4"), "RESUME") == []
    assert [float(t["lr"]) for t in drained(whole)] == [0.4]
    whole.close()
    again = opened(space, "resume", words=["lr=0.1,2e-1"])
    assert leftout.lines(again, space, "RESUME") == [
        "1 more run ended before and stays in the sweep, although this command does not name it"
    ]


def test_a_grid_that_outgrew_its_words_is_named_by_its_values(opened: Opener) -> None:
    opened(grid(lr="0.1,0.2"), words=["lr=0.1..0.2", "points=2"]).close()
    longer = opened(grid(lr="0.3"), "resume", words=["lr=choice(0.3)"])
    assert leftout.lines(longer, grid(lr="0.3"), "R")[0].endswith("to train them, R lr=0.3,0.1,0.2")
    assert [t["lr"] for t in drained(longer)] == ["0.3"]


def test_fewer_seeds_of_a_grid_are_pruned_and_judged_without_the_others(opened: Opener) -> None:
    space = grid(lr="0.1,0.2", seed="0,1,2")
    opened(space, pruner=PRUNERS["threshold"]).close()
    queue = opened(grid(lr="0.1,0.2", seed="0"), "resume", pruner=PRUNERS["threshold"])
    one, two = queue.take(0), queue.take(0)
    assert one is not None and two is not None
    assert queue.report({one.number: (1, 1.0), two.number: (1, 9.0)}) == {two.number}
    queue.tell(two.number, "pruned", 9.0)
    queue.tell(one.number, "finished", 1.0)
    assert not queue.wait(lambda: False)
    assert queue.best() == (0, one.number, 1.0)


@pytest.mark.parametrize("seeds", ["", "0,1"])
def test_a_smaller_n_trials_counts_what_has_ended_first(seeds: str, opened: Opener) -> None:
    space, runs = search(seeds), max(1, len(seeds.split(",")) if seeds else 1)
    queue = opened(space, n_trials=10)
    held = [queue.take(0) for _ in range(4 * runs)]
    for trial in held[2 * runs :]:  # settings 2 and 3 end, 0 and 1 are interrupted
        assert trial is not None
        queue.tell(trial.number, "finished", 1.0)
    for trial in held[: 2 * runs]:
        assert trial is not None
        queue.give_back(trial.number)
    queue.close()
    fewer = opened(space, "resume", n_trials=5)
    assert {run.setting for run in fewer.trials() if run.is_asked} == {0, 1, 2, 3, 4}
    assert leftout.lines(fewer, space, "RESUME") == [
        "5 settings are left out of the 10 that were asked for before; "
        "to train them, RESUME n_trials=10"
    ]
    fewer.close()
    three = opened(space, "resume", n_trials=3)
    assert {run.setting for run in three.trials() if run.is_asked} == {0, 2, 3}
    assert len(drained(three)) == runs
    three.close()
    default = opened(space, "resume", n_trials=4, takes_all=True)
    assert all(run.is_asked for run in default.trials()), "a number that nobody typed"
    default.close()
    whole = opened(space, "resume", n_trials=10)
    assert len(drained(whole)) == 7 * runs


def test_a_search_trains_all_seeds_of_a_setting_and_says_so(opened: Opener) -> None:
    opened(search("0,1"), n_trials=1).close()
    first = opened(search("0,1"), "resume", n_trials=1)
    trial = [first.take(0), first.take(0)][0]
    assert trial is not None
    first.close()
    queue = opened(search("0"), "resume", n_trials=1)
    assert leftout.lines(queue, search("0"), "R") == [
        "seed=0: the search has seed 1 as well, and trains all of them, "
        "because all seeds of a setting judge it"
    ]
    assert len(drained(queue)) == 2


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two lists, of which no run was trained."""
    home = tmp_path_factory.mktemp("begun")
    swept = ("lr=0.1,0.4", "optimizer=sgd,adam")
    words = [*QUICK, *swept, "epochs=1", "name=list", "timeout=0.0001"]
    assert command(main, words, home).code == 0
    return home


@pytest.mark.full
@pytest.mark.parametrize(
    ("typed", "trained", "told"),
    [
        (
            "list lr=0.1 optimizer=sgd,adam",
            2,
            "2 runs (lr=0.4 optimizer=sgd; lr=0.4 optimizer=adam) are left out of what was asked "
            "for before; to train them, python -m lrlab.resume outputs/list lr=0.1,0.4 "
            "optimizer=sgd,adam",
        ),
    ],
)
def test_what_is_typed_now_is_trained_now(
    typed: str, trained: int, told: str, begun: Path, tmp_path: Path
) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    name, *words = typed.split()
    folder = tmp_path / "outputs" / name
    ended = command(resume.main, [f"outputs/{name}", *words, "timeout=null"], tmp_path)
    assert (ended.code, ended.err) == (0, f"lrlab: {told}\n")
    assert len(summaries(folder)) == trained
    assert "have not ended" not in ended.out
    # a bare resume goes on with the shorter one, and says again what is left out
    again = command(resume.main, [f"outputs/{name}"], tmp_path)
    assert again.code == 0 and told in again.err and len(summaries(folder)) == trained
    whole = shlex.split(told.partition("lrlab.resume ")[2])
    assert command(resume.main, whole, tmp_path).err == ""
    assert len(summaries(folder)) == len(records.run_folders(folder)) > trained
