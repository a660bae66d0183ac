"""The figure of outcomes by lr and setting: what it shows is what verdicts and answers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest
from helpers.drawn import assert_legible, drawn, labels, written
from matplotlib.figure import Figure

from lrlab import plots
from lrlab.verdicts.answer import Answer


def judged(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([{"run": i, "seed": 0, **row} for i, row in enumerate(rows)])


def row_names(figure: Figure) -> list[str]:
    """From the top."""
    return [one.get_text() for one in figure.axes[0].get_yticklabels()]


def at(figure: Figure, gid: str) -> set[tuple[float, float]]:
    return {
        (float(x), float(y))
        for line in drawn(figure, gid)
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


BATCHES = judged(
    [
        {"lr": lr, "batch_size": size, "outcome": outcome}
        for size, outcomes in (
            (16, ("converged", "overshooting", "diverged")),
            (1024, ("undershooting", "undershooting", "converged")),
            (256, ("undershooting", "converged", "diverged")),
        )
        for lr, outcome in zip((0.01, 0.1, 1.0), outcomes, strict=True)
    ]
)
ANSWERS = [
    Answer({"batch_size": 256}, best_lr=0.1, best_loss=0.2, as_good=(0.1, 0.1)),
    Answer({"batch_size": 16}, best_lr=0.01, best_loss=0.3, as_good=(0.01, 0.1)),
    Answer({"batch_size": 1024}, refusal="nothing was learned"),
]


def test_rows_are_settings_by_size_and_marks_are_outcomes_at_their_lr() -> None:
    figure = plots.lr_by_setting(BATCHES, ANSWERS)
    assert row_names(figure) == ["batch_size=16", "batch_size=256", "batch_size=1024"]
    assert at(figure, "outcome:converged") == {(0.01, 2), (0.1, 1), (1.0, 0)}
    assert at(figure, "outcome:diverged") == {(1.0, 2), (1.0, 1)}
    assert at(figure, "outcome:undershooting") == {(0.01, 1), (0.01, 0), (0.1, 0)}
    assert at(figure, "best") == {(0.01, 2), (0.1, 1)}, "none is recommended of 1024"
    assert at(figure, "recommended") == {(0.01, 2), (0.1, 2), (0.1, 1)}
    assert sorted(labels(figure)) == ["0.01 (loss 0.3)", "0.1 (loss 0.2)", "none"]
    assert_legible(figure)


def test_a_mark_is_what_most_seeds_did_and_a_tie_warns() -> None:
    rows = [
        {"lr": 0.1, "seed": seed, "optimizer": optimizer, "outcome": outcome}
        for optimizer, outcomes in (
            ("sgd", ("converged", "converged", "collapsed")),
            ("adam", ("converged", "collapsed")),
        )
        for seed, outcome in enumerate(outcomes)
    ]
    answers = [Answer({"optimizer": name}, refusal="x") for name in ("sgd", "adam")]
    figure = plots.lr_by_setting(judged(rows), answers)
    assert row_names(figure) == ["adam", "sgd"]
    assert at(figure, "outcome:converged") == {(0.1, 0)}
    assert at(figure, "outcome:collapsed") == {(0.1, 1)}


def test_lists_of_numbers_are_sorted_by_size_and_long_names_are_cut() -> None:
    sizes = ["[1024, 1024]", "[64, 64]", "[256, 256]", str([64] * 40)]
    rows = [{"lr": 0.1, "network.hidden": size, "outcome": "converged"} for size in sizes]
    answers = [Answer({"network.hidden": size}, refusal="x") for size in sizes]
    figure = plots.lr_by_setting(judged(rows), answers)
    first, second, *others = row_names(figure)
    assert (first, others) == ("[64, 64]", ["[256, 256]", "[1024, 1024]"])
    assert second.startswith("[64, 64, 64,") and "…" in second and second.endswith("64]")
    assert_legible(figure)


def test_rows_that_differ_in_one_setting_stand_together_and_are_told_apart() -> None:
    network = "my_own_network_with_a_name_of_some_length"
    settings = [
        {"batch_size": size, "network": network, "optimizer": optimizer}
        for size in (64, 128, 256)
        for optimizer in ("momentum", "a_long_name_of_an_optimizer")
    ]
    rows = [{"lr": 0.1, "outcome": "converged", **each} for each in settings]
    figure = plots.lr_by_setting(judged(rows), [Answer(each, refusal="x") for each in settings])
    names = row_names(figure)
    assert len(set(names)) == 6, names
    assert [name.rpartition(", ")[2] for name in names] == ["64", "128", "256"] * 2
    assert_legible(figure)


def test_a_setting_that_some_runs_lack_is_a_row_of_its_own() -> None:
    rows = [
        {"lr": 0.1, "optimizer.momentum": value, "outcome": outcome}
        for value, outcome in ((0.9, "converged"), (None, "diverged"))
    ]
    answers = [Answer({"optimizer.momentum": value}, refusal="x") for value in (0.9, None)]
    figure = plots.lr_by_setting(judged(rows), answers)
    assert len(row_names(figure)) == 2
    assert at(figure, "outcome:converged") != at(figure, "outcome:diverged")


@pytest.mark.parametrize(
    ("answers", "lr", "reason"),
    [
        (ANSWERS[:1], 0.1, "differ only in lr and seed"),
        ([Answer({"batch_size": size}) for size in range(25)], 0.1, "more than 24"),
        (ANSWERS, 0.0, "no run has an lr above 0"),
    ],
)
def test_what_cannot_be_drawn_is_said(answers: list[Answer], lr: float, reason: str) -> None:
    with pytest.raises(plots.NothingToDraw, match=reason):
        plots.lr_by_setting(BATCHES.assign(lr=lr), answers)


def test_it_names_what_it_shows() -> None:
    said = written(plots.lr_by_setting(BATCHES, ANSWERS))
    for word in ("learning rate (init_lr)", "best", "as good as the best", "9 runs"):
        assert word in said
