"""The bed that measures verdicts counts rightly: on tables made by hand, nothing is trained."""

import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from lrlab.verdicts.answer import Answer

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parent / "benchmarks"
INF, NAN = math.inf, math.nan


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    name = getattr(request, "param", "verdict_truth")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def judged(*runs: tuple[Any, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(runs, columns=["lr", "end_loss", "outcome"])
    return frame.assign(run=range(len(frame)))


def of_seeds(ends: dict[float, list[float]]) -> pd.DataFrame:
    return judged(*((lr, end, "") for lr, each in ends.items() for end in each))


ENDS = {
    **{0.3: [0.1, INF], 0.01: [1.0, 3.0], 0.1: [0.5, 0.49], 0.03: [0.5, 0.5]},
    **{1.0: [NAN, NAN], 0.001: [0.52, 0.521]},
}


def test_a_failed_seed_is_infinitely_bad_and_the_lowest_mean_is_the_best(bed: ModuleType) -> None:
    true = bed.truth(of_seeds(ENDS))
    assert list(true.mean) == [0.001, 0.01, 0.03, 0.1, 0.3, 1.0]
    assert true.mean == pytest.approx(
        {0.001: 0.5205, 0.01: 2, 0.03: 0.5, 0.1: 0.495, 0.3: INF, 1.0: INF}
    )
    assert true.best == 0.1, "not 0.3, one of whose seeds came lower"
    assert true.worse(0.03) == pytest.approx(0.5 / 0.495) and true.worse(0.3) == INF
    assert true.near == [0.03, 0.1], "0.001 is 5.15% worse"
    of_three = bed.truth(of_seeds({0.1: [1, 1, 1], 0.2: [0.5, 0.5, 9]}))
    assert (of_three.best, of_three.worse(0.1, by_median=True)) == (0.1, 2)


@pytest.mark.parametrize(
    ("outcome", "lr", "is_wrong"),
    [
        ("overshooting", 0.01, True),  # the best is larger, and this is four times worse
        ("overshooting", 0.03, False),  # the best is larger, but 1% better only
        ("overshooting", 0.1, False),  # the best itself lies on no side of itself
        ("overshooting", 0.3, False),
        ("undershooting", 0.3, True),
        ("undershooting", 1.0, True),
        ("undershooting", 0.1, False),
        ("undershooting", 0.01, False),
        ("converged", 0.01, False),  # names no side
        ("diverged", 0.01, False),
        ("overshooting", 0.001, True),  # 5.15% worse
    ],
)
def test_a_word_on_the_wrong_side(bed: ModuleType, outcome: str, lr: float, is_wrong: bool) -> None:
    assert bed.points_wrong(outcome, lr, bed.truth(of_seeds(ENDS))) is is_wrong


def test_the_median_has_a_side_of_its_own(bed: ModuleType) -> None:
    true = bed.truth(of_seeds({0.1: [1, 1, 1], 0.2: [0.5, 0.5, 9]}))
    assert not bed.points_wrong("overshooting", 0.1, true)
    assert bed.points_wrong("overshooting", 0.1, true, by_median=True)
    assert bed.points_wrong("undershooting", 0.2, true)
    assert not bed.points_wrong("undershooting", 0.2, true, by_median=True)


@pytest.mark.parametrize(
    ("letters", "left_out"),
    [
        ("", 0),
        ("uuccoodx", 0),
        ("xd", 0),  # collapsed and diverged have one place
        ("dxdxdx", 0),
        ("ucuco", 1),
        ("ouuuc", 1),  # the first one, not the four behind it
        ("uuocdc", 2),
        ("oooouuu", 3),
        ("dcu", 2),
        ("u?c?o", 0),  # no side, no place
        ("?c?u?", 1),
        ("ucodu", 1),
    ],
)
def test_the_fewest_out_of_order(bed: ModuleType, letters: str, left_out: int) -> None:
    words = {"u": "undershooting", "c": "converged", "o": "overshooting", "d": "diverged"}
    words |= {"x": "collapsed", "?": "not compared"}
    assert bed.out_of_order([words[letter] for letter in letters]) == left_out


def test_agreement_is_by_run_not_by_row(bed: ModuleType) -> None:
    one = judged((0.1, 1.0, "converged"), (0.2, 1.0, "overshooting"), (0.3, 1.0, "diverged"))
    other = one.assign(outcome=["converged", "converged", "diverged"])[::-1]
    assert bed.differing(one, one) == []
    assert bed.differing(one, other) == [(0.2, "overshooting", "converged")]


def test_a_sweep_is_cut_off_a_factor_three_from_the_best(bed: ModuleType) -> None:
    curves = pd.DataFrame({"lr": [0.01, 0.03, 0.05, 0.1, 0.2, 0.31, 1.0]})
    assert list(bed.cut(curves, 0.1, "high")["lr"]) == [0.01, 0.03]
    assert list(bed.cut(curves, 0.1, "low")["lr"]) == [0.31, 1.0]


def test_an_edge_is_due_where_the_lowest_loss_is_there(bed: ModuleType) -> None:
    low_end = judged((0.1, 1.0, ""), (0.2, 2.0, ""), (0.3, INF, ""))
    assert bed.edge_is_due(low_end, "low") and not bed.edge_is_due(low_end, "high")
    inside = judged((0.1, 2.0, ""), (0.2, 1.0, ""), (0.3, 2.0, ""))
    assert not bed.edge_is_due(inside, "low") and not bed.edge_is_due(inside, "high")
    none = judged((0.1, NAN, ""), (0.2, INF, ""))
    assert bed.edge_is_due(none, "low") and bed.edge_is_due(none, "high")


@pytest.mark.parametrize(
    ("answer", "side", "is_said"),
    [
        ({"best_lr": 0.2, "edge": "high"}, "high", True),
        ({"best_lr": 0.2, "edge": "both"}, "high", True),
        ({"best_lr": 0.2, "edge": "low"}, "high", False),
        ({"best_lr": 0.2, "edge": ""}, "high", False),
        ({"best_lr": 0.2, "edge": "", "try_next": (0.2, 2.0)}, "high", False),
        ({"refusal": "nothing", "try_next": (0.2, 2.0)}, "high", True),
        ({"refusal": "nothing", "try_next": (0.001, 0.1)}, "high", False),
        ({"refusal": "nothing", "try_next": (0.001, 0.1)}, "low", True),
        ({"refusal": "nothing"}, "low", False),
    ],
)
def test_an_edge_is_said_by_its_name_or_by_where_to_look(
    bed: ModuleType, answer: dict[str, Any], side: str, is_said: bool
) -> None:
    assert bed.edge_is_said(Answer({}, **answer), side, [0.1, 0.2]) is is_said


# --- all of it, with judges whose words are known -------------------------------------------------

LRS = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]
LOSSES = [2.0, 1.0, 0.5, 0.1, 0.2, 0.4]  # the best is 1.0
WORDS = ["undershooting", "overshooting", "undershooting", "converged", "overshooting", "diverged"]


def curves(**columns: Any) -> pd.DataFrame:
    made = {"run": range(6), "lr": LRS, "seed": 0, "alpha": 1.0, "gain_low": 0.1, "val_loss": 1.0}
    return pd.DataFrame({**made, **columns})


def said(curves: pd.DataFrame) -> pd.DataFrame:
    """Wrong once; without measurements of another opinion on two runs, without val loss on one."""
    words = dict(zip(LRS, WORDS, strict=True))
    if not {"alpha", "gain_low"} & set(curves):
        words |= {0.001: "plateau", 10.0: "converged"}
    if "val_loss" not in curves:
        words |= {100.0: "undershooting"}
    ends = dict(zip(LRS, LOSSES, strict=True))
    table = curves[["run", "lr"]].assign(outcome=[words[lr] for lr in curves["lr"]])
    return table.assign(end_loss=[ends[lr] for lr in curves["lr"]])[::-1]


def recommended(table: pd.DataFrame) -> list[Answer]:
    """Of the whole sweep 10, twice as bad as the best; of a part what the real one should say."""
    if len(table) == len(LRS):
        return [Answer({}, best_lr=10.0, as_good=(0.1, 10.0))]
    if max(table["lr"]) < 1:
        return [Answer({}, best_lr=0.1, edge="high", try_next=(0.1, 0.9))]
    return [Answer({}, best_lr=10.0, edge="", try_next=None)]


def test_a_seed_is_counted(bed: ModuleType) -> None:
    true = bed.Truth(*(2 * [dict(zip(LRS, LOSSES, strict=True))]))
    c = bed.counted(curves(), true, said, recommended)
    assert (c.seeds, c.runs, c.over, c.over_wrong, c.under, c.under_wrong) == (1, 6, 2, 1, 2, 0)
    assert (c.best, c.best_converged, c.near, c.near_converged) == (1, 1, 1, 1)
    assert (c.best_within, c.agree) == (1, 4)
    assert (c.disorder, c.disorder_by_train, c.no_side) == (1, 2, 0)
    assert c.regrets == (pytest.approx(math.log(2)),)
    assert (c.in_range, c.not_recommended) == (1, 0)
    assert (c.edges_due, c.edges_said, c.next_holds_best) == (2, 1, 0), "0.9 is short of the best"
    assert len(c.notes) == 1 + 0 + 2 + 2 + 1 and all(
        note.startswith("seed 0: ") for note in c.notes
    )
    assert c.notes[0] == "seed 0: lr 0.01 is called overshooting, and 10 times worse than 1"
    assert c.notes[-1] == "seed 0: cut off at the low end: lr=10, edge='', next None"
    assert c.outcomes == {
        **{"undershooting": 2, "overshooting": 2, "converged": 1, "diverged": 1},
    }


def test_a_seed_in_which_another_lr_comes_lower(bed: ModuleType) -> None:
    means = dict(zip(LRS, LOSSES, strict=True)) | {1.0: 0.6}
    c = bed.counted(curves(), bed.Truth(means, means), said, recommended)
    assert (c.best, c.best_converged, c.best_within) == (1, 0, 0), "10 ended at 0.2, and 1 at 0.1"


def test_seeds_add_up_and_bars_are_shares_of_the_sum(bed: ModuleType) -> None:
    true = bed.Truth(*(2 * [dict(zip(LRS, LOSSES, strict=True))]))

    def refuses(table: pd.DataFrame) -> list[Answer]:
        return [Answer({}, refusal="nothing was learned", try_next=(0.001, 1000.0))]

    one = bed.counted(curves(), true, said, recommended)
    both = one + bed.counted(curves(), true, said, refuses)
    assert (both.seeds, both.runs, both.over_wrong, both.over) == (2, 12, 2, 4)
    assert (both.not_recommended, both.in_range, both.regrets) == (1, 1, one.regrets)
    assert (both.edges_due, both.edges_said, both.next_holds_best) == (4, 3, 2)
    assert both.outcomes["overshooting"] == 4

    bars = {bar.name: bar for bar in bed.bars(both)}
    over = bars["overshooting points the wrong way"]
    assert (over.part, over.whole, over.is_met) == (2, 4, False)
    assert str(over) == (
        "overshooting points the wrong way: 2 of 4, 50.00% (bar: at most 2.00%) MISSED"
    )
    assert bars["undershooting points the wrong way"].is_met
    assert bars["the truly best lr is called converged"].is_met
    assert not bars["the same outcome without measurements"].is_met
    assert not bars["an edge is said"].is_met
    assert bed.Bar("a", 1, 50, 0.02, False).is_met and not bed.Bar("a", 2, 99, 0.02, False).is_met
    assert bed.Bar("a", 9, 10, 0.9, True).is_met and not bed.Bar("a", 8, 9, 0.9, True).is_met
    assert bed.Bar("a", 0, 0, 0.02, False).is_met and bed.Bar("a", 0, 0, 0.9, True).is_met


def test_the_table_is_aligned_and_the_counts_are_json(bed: ModuleType) -> None:
    true = bed.Truth(*(2 * [dict(zip(LRS, LOSSES, strict=True))]))
    c = bed.counted(curves(), true, said, recommended)
    lines = bed.aligned([bed.COLUMNS, bed.cells("made", "6", "1", c)]).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2
    assert lines[1].split() == [
        *("made", "6", "1", "2", "1", "2", "0", "1/1", "1/1", "4/6", "1", "2", "0"),
        *("0.693", "0.693", "1/1", "0", "1/2", "0/1"),
    ]
    whole = bed.plain({**vars(c), "mean": {0.1: 0.5, 1.0: INF}})
    assert json.loads(json.dumps(whole, allow_nan=False))["mean"] == {"0.1": 0.5, "1.0": "inf"}


@pytest.mark.default
@pytest.mark.parametrize("bed", ["verdict_problems"], indirect=True)
def test_each_problem_spans_two_decades_and_can_be_made(bed: ModuleType) -> None:
    assert bed.rates(0.01, 1) == [0.01, 0.0215, 0.0464, 0.1, 0.215, 0.464, 1.0]
    assert len(bed.PROBLEMS) == 7
    for make in bed.PROBLEMS.values():
        lrs = make()["lr"]
        assert 9 <= len(lrs) <= 16 and lrs == sorted(set(lrs)) and lrs[-1] >= 100 * lrs[0]
