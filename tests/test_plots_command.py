"""Drawing a whole sweep: which files there are then, what is left out and why, and bad input."""

import math
import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pandas as pd
import pytest
from helpers import made_sweeps, made_tables
from helpers.drawn import drawn, rail_marks, written

from lrlab import plots
from lrlab.errors import NotWritten
from lrlab.plots import __main__ as command
from lrlab.plots import reading, writing
from lrlab.plots.figures.compare import side_by_side


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_sweeps.write_sweep(tmp_path_factory.mktemp("outputs") / "made", 4, steps=60)


def run(*arguments: object) -> int:
    """The exit code of the command."""
    try:
        command.main([str(each) for each in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_package_says_what_it_draws_without_matplotlib() -> None:
    code = (
        "import sys, lrlab.plots as p; from lrlab.plots.tables import Tables, CAPTIONS; "
        "assert list(p.NAMES) == list(CAPTIONS) == list(p.SUMMARIES); "
        "assert 'matplotlib' not in sys.modules and 'pandas' not in sys.modules; "
        "assert [callable(getattr(p, n)) for n in p.NAMES] == [True] * len(p.NAMES); "
        "import lrlab.plots.writing; assert 'torch' not in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'loss_curve'"):
        _ = plots.loss_curve
    assert all(name in dir(plots) or getattr(plots, name) for name in plots.__all__)


def test_draw_writes_each_figure_and_says_what_is_left_out(tmp_path: Path) -> None:
    tables = made_tables.tables([0.1, 0.5], measured=False)
    told = plots.draw(tables, tmp_path, formats=["png"])
    assert {path.stem for path in told.paths} | set(told.left_out) == set(plots.NAMES)
    assert set(told.left_out) == {
        "importances",
        *("lr_and_loss", "lr_by_setting", "mechanics", "branch_fan", "schedules"),
        *("textbook", "surface"),
    }
    assert all("\n" not in reason and reason for reason in told.left_out.values())
    assert sorted(tmp_path.iterdir()) == sorted(told.paths)
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in told.paths)


@pytest.mark.full
def test_each_format_is_what_it_says_and_the_same_twice(tmp_path: Path) -> None:
    tables = made_tables.tables([0.1, 0.5])
    only = ["heat_map", "textbook"]
    drawn = [plots.draw(tables, tmp_path / at, only, plots.FORMATS).paths for at in "ab"]
    assert [path.name for path in drawn[0]] == [
        f"{name}.{kind}" for name in only for kind in plots.FORMATS
    ]
    for one, other in zip(*drawn, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert xml.parse(drawn[0][1]).getroot().tag.endswith("svg")
    assert drawn[0][2].read_bytes()[:5] == b"%PDF-"


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="cannot be written"):
        plots.draw(made_tables.tables([0.1]), tmp_path / "file" / "plots", ["loss_curves"])


@pytest.mark.full
def test_the_command_draws_into_the_sweep(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(sweep) == 0
    out, err = capsys.readouterr()
    assert err == ""
    names = {path.name for path in (sweep / "plots").iterdir()}
    drawn = {line.split("/")[-1] for line in out.splitlines() if line.startswith("plot")}
    assert drawn == names
    assert {"loss_curves.png", "loss_curves.svg", "mechanics.png", "branch_fan.svg"} <= names
    left = [line.split()[2] for line in out.splitlines() if line.startswith("left out")]
    assert left == ["lr_and_loss", "lr_by_setting", "importances", *left[3:]]
    assert left[3:] == ["schedules", "textbook", "surface"]


def test_only_draws_one_and_output_says_where(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(sweep, "--only", "heat_map", "--format", "pdf", "--output", tmp_path / "x") == 0
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["heat_map.pdf"]
    assert run(sweep, "--only", "textbook", "--output", tmp_path / "y") == 1
    assert "not measured" in capsys.readouterr().out
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["SWEEP", "--only", "heatmap"], "--only=heatmap: no such plot (did you mean heat_map?)"),
        (["SWEEP", "--format", "jpg"], "--format=jpg: no such format"),
        (["SWEEP", "--output", "FILE"], "is a file; name a folder"),
        (["MISSING"], "no such file or folder"),
        (["EMPTY"], "holds no runs"),
        (["SWEEP/0"], "name its sweep's"),
        ([], "required: SWEEP"),
        (["SWEEP", "--colour"], "--colour: no such flag"),
    ],
)
def test_bad_input_is_one_line(
    sweep: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    told: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    places = {"SWEEP": sweep, "MISSING": tmp_path / "missing", "EMPTY": tmp_path / "empty"}
    places["FILE"] = tmp_path / "file"
    words = [str(places.get(word, word)).replace("SWEEP", str(sweep)) for word in arguments]
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lrlab: ") and len(err.splitlines()) == 1
    assert told in err


@pytest.mark.full
def test_a_sweep_that_is_running_torn_old_or_short_is_drawn_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sweep = made_sweeps.write_sweep(tmp_path / "made", 4, steps=60)
    made_sweeps.write_run(sweep, 4, 0.05, steps=1, epochs=1)
    summary = sweep / "0" / "summary.json"
    summary.write_text(summary.read_text().replace('"finished"', '"running"'))
    metrics = sweep / "1" / "metrics.csv"
    metrics.write_text(metrics.read_text()[:-9])  # a torn last line
    (sweep / "2" / "summary.json").write_text('{"run": 2, "state": "finished", "lr": 0.2}')  # old
    (sweep / "5").mkdir()  # just started
    assert run(sweep, "--format", "png") == 0
    out, err = capsys.readouterr()
    assert "2 of 6 runs have not ended" in err and "Traceback" not in err
    assert len([line for line in out.splitlines() if line.startswith("plot")]) >= 6


@pytest.mark.full
def test_a_csv_of_curves_is_drawn_as_far_as_its_columns_go(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = made_tables.tables([0.01, 0.1, 1.0]).curves
    file = tmp_path / "curves.csv"
    table[["run", "lr", "step", "train_loss"]].dropna().to_csv(file, index=False)
    assert run(file, "--format", "png", "--output", tmp_path / "p") == 0
    out, _ = capsys.readouterr()
    assert {path.stem for path in (tmp_path / "p").iterdir()} >= {"loss_curves", "heat_map"}
    assert "the table has no column lr_at_step" in out


def test_a_csv_of_epochs_without_states_is_drawn_along_its_epochs(tmp_path: Path) -> None:
    losses = {
        0.01: [2.3, 2.2, 2.1, 2.0, 1.9, 1.8],
        0.1: [2.3, 1.2, 0.6, 0.4, 0.3, 0.3],
        1.0: [2.3, 9.0, math.nan, math.nan, math.nan, math.nan],
    }
    rows = [(f"r{lr}", lr, i, loss) for lr, each in losses.items() for i, loss in enumerate(each)]
    file = tmp_path / "epochs.csv"
    columns = ["run", "lr", "epoch", "train_loss"]
    pd.DataFrame(rows, columns=columns).to_csv(file, index=False)  # type: ignore[arg-type]
    tables, _ = reading.load(file)
    figure = plots.loss_curves(tables.curves, tables.verdicts)
    ax = figure.axes[0]
    assert ax.get_xlabel() == "epoch" and "against epoch" in written(figure)
    smooth = [line for line in ax.lines if line.get_gid() == "smooth"]
    assert [list(line.get_xdata()) for line in smooth] == [[*range(6)], [*range(6)], [0, 1]]
    assert rail_marks(figure)[:, 0].tolist() == [2.0]
    heat = plots.heat_map(tables.curves, tables.verdicts)
    assert "learning rate × epoch" in written(heat) and heat.axes[0].get_xlabel() == "epoch"
    ends = plots.lr_against_loss(tables.runs, tables.verdicts, tables.answers)
    assert "2 finished" in written(ends) and "1 diverged" in written(ends)
    (median,) = drawn(ends, "median:train_loss")
    assert tables.verdicts is not None
    told = tables.verdicts.set_index("run")["train_end_loss"]
    assert list(median.get_ydata())[:2] == [told["r0.01"], told["r0.1"]]
    assert math.isnan(median.get_ydata()[2]), "the diverged one has no end"
    assert rail_marks(ends)[:, 0].tolist() == [1.0]
    assert "test loss" not in written(ends)
    both = tables.curves.assign(sweep=["a" if lr < 0.05 else "b" for lr in tables.curves["lr"]])
    assert "against epoch" in written(side_by_side(both, tables.verdicts))


def test_a_csv_of_steps_without_states_has_finished_unless_its_loss_is_not_finite(
    tmp_path: Path,
) -> None:
    table = made_tables.tables([0.1, 0.5]).curves[["run", "lr", "step", "train_loss"]]
    figure = plots.loss_curves(table)  # ends with the blank loss of a last evaluation
    assert not drawn(figure, "nonfinite")
    lost = table.assign(train_loss=table["train_loss"].where(table["step"] != 7, math.inf))
    assert rail_marks(plots.loss_curves(lost))[:, 0].tolist() == [7.0, 7.0]


@pytest.mark.full
def test_older_pictures_of_what_is_left_out_and_parts_of_dead_writers_go(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = [
        tmp_path / "textbook.svg",  # not of a format that is drawn
        tmp_path / "mine.png",
        tmp_path / f".loss_curves.png.{os.getppid()}.part",  # of one that is still at it
        tmp_path / f".mine.png.{gone.pid}.part",
    ]
    stale = [tmp_path / "textbook.png", tmp_path / f".heat_map.svg.{gone.pid}.part"]
    for path in (*kept, *stale):
        path.write_text("old")
    tables = made_tables.tables([0.1, 0.5], measured=False)
    told = plots.draw(tables, tmp_path, ["loss_curves", "textbook"], ["png"])
    assert "textbook" in told.left_out and all(path.exists() for path in stale), "only: no cleaning"
    told = plots.draw(tables, tmp_path, formats=["png"])
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in (*kept, *told.paths)}


def test_a_figure_that_cannot_be_written_is_named_not_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(part: object, to: object) -> None:
        raise OSError(30, "Read-only file system", str(part))

    monkeypatch.setattr(writing.os, "replace", full)
    with pytest.raises(NotWritten) as told:
        plots.draw(made_tables.tables([0.1]), tmp_path, ["loss_curves"], ["png"])
    path = tmp_path / "loss_curves.png"
    assert str(told.value) == f"{path}: cannot be written (Read-only file system)"
    assert not list(tmp_path.iterdir())


def test_every_name_has_a_figure() -> None:
    assert tuple(writing._FIGURES) == plots.NAMES
