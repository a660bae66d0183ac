"""The figures of a search over several settings: what they show is what its answer says."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.drawn import assert_legible, drawn, rail_marks, ribbons, written
from helpers.made_sweeps import write_run
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from lrlab import plots
from lrlab.plots import __main__ as command
from lrlab.plots.over_lr import pooled
from lrlab.verdicts.pooled import Bin
from lrlab.verdicts.recommend import recommend

ANALYSIS = (Path(__file__).parent.parent / "docs" / "analysis.md").read_text(encoding="utf-8")


def searched(count: int = 30) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and verdicts: a valley around lr 0.1 that nothing else moves; half of them pruned."""
    random = np.random.default_rng(3)
    rows, found = [], []
    for run in range(count):
        lr = float(10 ** random.uniform(-3, 0.6))
        loss = 0.3 + 0.5 * (math.log10(lr) + 1) ** 2 + 0.02 * random.random()
        state = "diverged" if lr > 2 else "pruned" if run % 2 else "finished"
        outcome = {"finished": "not compared"}.get(state, state)
        row = {"run": run, "lr": lr, "state": state, "seed": 0, "loss": "nll"}
        row |= {"optimizer.momentum": float(random.choice([0.0, 0.5, 0.9]))}
        row |= {"optimizer.weight_decay": float(10 ** random.uniform(-5, -2))}
        val = math.nan if state == "diverged" else loss + (state == "pruned")
        rows.append({**row, "val_loss": val, "initial_loss": 2.3, "chance_loss": math.log(10)})
        end = math.inf if state == "diverged" else val
        found.append({**row, "outcome": outcome, "end_loss": end, "judged_by": "val_loss"})
    return pd.DataFrame(rows), pd.DataFrame(found)


def test_a_search_has_one_colour_for_what_ended_and_a_line_for_the_lowest() -> None:
    runs, verdicts = searched()
    answers = recommend(verdicts)
    assert len(answers) == 1 and answers[0].search is not None
    figure = plots.lr_against_loss(runs, verdicts, answers)
    (dots,) = drawn(figure, "configuration")
    ended = runs[runs["state"] == "finished"]
    assert sorted(dots.get_xdata()) == sorted(ended["lr"])
    assert sorted(dots.get_ydata()) == pytest.approx(sorted(ended["val_loss"]))
    assert to_hex(dots.get_color()) == pooled.HUE.lower()
    assert not [line for ax in figure.axes for line in ax.lines if "median" in str(line.get_gid())]
    (star,) = drawn(figure, "best configuration")
    assert star.get_xdata().tolist() == [answers[0].best_lr]
    assert star.get_ydata().tolist() == [ended["val_loss"].min()]
    (crosses,) = drawn(figure, "pruned")
    pruned = runs[runs["state"] == "pruned"]
    np.testing.assert_allclose(np.sort(crosses.get_xdata()), np.sort(pruned["lr"]))
    assert sorted(rail_marks(figure)[:, 0]) == pytest.approx(
        sorted(runs[runs["state"] == "diverged"]["lr"])
    )
    (line,) = drawn(figure, "envelope")
    for lr, loss in zip(ended["lr"], ended["val_loss"], strict=True):
        under = step_at(line.get_xdata(), line.get_ydata(), lr)
        assert under <= loss + 1e-12, "no configuration ended below the lowest of its range"
    (span,) = [p for p in figure.axes[0].patches if p.get_gid() == "recommended"]
    box = span.get_path().get_extents(span.get_patch_transform())
    low, high = answers[0].search.good
    assert low < high
    np.testing.assert_allclose([box.x0, box.x1], [low, high])
    assert not ribbons(figure)
    in_legend = [one for one in figure.get_children() if isinstance(one, Line2D)]
    assert 4 <= len(in_legend) <= 8
    assert_legible(figure)


def step_at(x: Any, y: Any, lr: float) -> float:
    """The height of a step line at an lr, from its corners."""
    for left, right, low in zip(x[:-1], x[1:], y[1:], strict=True):
        if left <= lr <= right and left < right:
            return float(low)
    raise AssertionError(f"lr {lr} lies under no step")


def test_the_line_breaks_where_no_configuration_ended_or_all_failed() -> None:
    bins = [Bin(0.1, 0.2, 0.5, 2), Bin(0.2, 0.4, 0.3, 1), Bin(0.8, 1.6, 0.9, 1)]
    x, y = pooled.envelope([*bins, Bin(1.6, 3.2, math.inf, 2)], 0.15, 1.0)
    np.testing.assert_allclose(x, [0.15, 0.2, 0.2, 0.4, math.nan, 0.8, 1.0])
    np.testing.assert_allclose(y, [0.5, 0.5, 0.3, 0.3, math.nan, 0.9, 0.9])


def test_a_search_joins_nothing_on_the_way_to_the_target() -> None:
    runs, verdicts = searched()
    steps = np.where(runs["state"] == "finished", 10.0 + runs["run"], math.inf)
    figure = plots.to_target(verdicts.assign(steps_to_target=steps), recommend(verdicts))
    (line,) = drawn(figure, "median:steps_to_target")
    assert line.get_linewidth() == 0
    assert_legible(figure)


def test_bars_are_the_shares_of_what_mattered_in_percent() -> None:
    _, verdicts = searched()
    answers = recommend(verdicts)
    assert answers[0].search is not None
    shares = answers[0].search.importances
    figure = plots.importances(answers)
    (ax,) = [ax for ax in figure.axes if ax.patches]
    names = [label.get_text() for label in ax.get_yticklabels()]
    widths = [bar.get_width() for bar in ax.patches if bar.get_gid() == "importance"]
    assert dict(zip(names, widths, strict=True)) == pytest.approx(
        {name: 100 * share for name, share in shares.items()}
    )
    assert names[-1] == "lr", "the longest bar is on top, and only the lr matters here"
    assert widths == sorted(widths) and sum(widths) == pytest.approx(100)
    assert f"{widths[-1]:.0f} %" in written(figure)
    assert_legible(figure)


def test_without_a_search_or_with_too_few_runs_nothing_mattered() -> None:
    with pytest.raises(plots.NothingToDraw, match="no search"):
        plots.importances([])
    few = recommend(searched(7)[1])
    assert few[0].search is not None
    with pytest.raises(plots.NothingToDraw, match="fewer than 8 runs"):
        plots.importances(few)


def test_the_command_draws_what_mattered_of_a_recorded_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lrs = np.geomspace(0.003, 0.5, 9)
    for run, lr in enumerate(lrs):
        decay = float(f"{1e-5 * 1.7**run:.3g}")
        told = {"optimizer.weight_decay": decay}
        write_run(tmp_path / "s", run, float(f"{lr:.3g}"), steps=60, measured=False, **told)
    (typed,) = re.findall(r"`python -m lrlab\.plots outputs/<search> (.+)`", ANALYSIS)
    command.main([str(tmp_path / "s"), *typed.split()])
    for kind in ("png", "svg"):
        assert (tmp_path / "s" / "plots" / f"importances.{kind}").stat().st_size > 5000
    assert "importances.png" in capsys.readouterr().out
