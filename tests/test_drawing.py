"""Figures drawn in processes of their own: the same files, each spared the others' faults."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import made_tables

from lrlab import plots
from lrlab.plots import drawing
from lrlab.plots.drawing import Drawing

NAMES = ("loss_curves", "heat_map", "lr_and_loss")  # of the last there is nothing to draw


class Poison:
    """Whoever reads it from a file does this."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.done = call, arguments

    def __reduce__(self) -> Any:
        return self.done


@pytest.fixture(scope="module")
def tables() -> plots.Tables:
    return made_tables.tables([0.1, 0.5], steps=60)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.full
def test_processes_draw_what_this_one_draws(tables: plots.Tables, tmp_path: Path) -> None:
    drawn = []
    for free in (0, 2):
        with Drawing(tmp_path / str(free), ["png", "svg"], free=free) as one:
            assert one.processes == free
            one.add(NAMES[:1], tables)
            one.add(NAMES[1:], dataclasses.replace(tables, lines=None))
            drawn.append(one.wait())
    own, others = drawn
    assert contents(tmp_path / "0") == contents(tmp_path / "2")
    assert [path.name for path in own.paths] == [
        f"{name}.{kind}" for name in NAMES[:2] for kind in ("png", "svg")
    ]
    assert others.paths == [tmp_path / "2" / path.name for path in own.paths]
    assert list(own.left_out) == ["lr_and_loss"] and own.left_out == others.left_out
    assert not own.failed and not others.failed and others.unwritten is None


@pytest.mark.parametrize("free", [0, 1])
def test_a_figure_that_fails_is_named_and_spares_the_others(
    free: int, tables: plots.Tables, tmp_path: Path
) -> None:
    assert tables.lines is not None
    torn = dataclasses.replace(tables, lines=tables.lines.assign(loss="x"))
    with Drawing(tmp_path, free=free) as one:
        one.add(["textbook", "heat_map"], torn)
        drawn = one.wait()
    assert list(drawn.failed) == ["textbook"] and "Error: " in drawn.failed["textbook"]
    assert "\n" not in drawn.failed["textbook"]
    assert [path.name for path in drawn.paths] == ["heat_map.png"]


@pytest.mark.full
def test_a_process_that_dies_takes_one_figure_with_it(tables: plots.Tables, tmp_path: Path) -> None:
    deaths = {
        "textbook": (Poison(os._exit, 3), "its process ended with 3"),
        "surface": (Poison(signal.raise_signal, signal.SIGKILL), "was ended by SIGKILL"),
        "mechanics": (Poison(int, "x"), "ended with 1 (ValueError: invalid literal"),
    }
    with Drawing(tmp_path, free=1) as one:
        for name, (poison, _) in deaths.items():
            one.add([name], dataclasses.replace(tables, lines=poison))
        one.add(["heat_map"], tables)
        drawn = one.wait()
    assert set(drawn.failed) == set(deaths)
    for name, (_, told) in deaths.items():
        assert told in drawn.failed[name]
    assert [path.name for path in drawn.paths] == ["heat_map.png"]


@pytest.mark.full(after=1)
@pytest.mark.parametrize("free", [0, 1])
def test_what_cannot_be_written_is_told_behind_the_rest(
    free: int, tables: plots.Tables, tmp_path: Path
) -> None:
    (tmp_path / "heat_map.png").mkdir()  # in its way
    with Drawing(tmp_path, free=free) as one:
        one.add(["heat_map", "loss_curves"], tables)
        drawn = one.wait()
    assert [path.name for path in drawn.paths] == ["loss_curves.png"] and not drawn.failed
    assert str(drawn.unwritten).startswith(f"{tmp_path / 'heat_map.png'}: cannot be written (")


def test_an_interrupt_leaves_no_process_and_no_part(tables: plots.Tables, tmp_path: Path) -> None:
    slow = dataclasses.replace(tables, lines=Poison(time.sleep, 600))  # type: ignore[arg-type]
    one = Drawing(tmp_path, free=1)
    with pytest.raises(KeyboardInterrupt), one:
        one.add(["heat_map"], slow)
        while not one._started:
            time.sleep(0.01)
        (process,) = one._started
        (tmp_path / f".heat_map.png.{process.pid}.part").write_text("half")
        raise KeyboardInterrupt
    assert [process.returncode for process in one._started] == [-signal.SIGKILL]
    assert not list(tmp_path.iterdir()) and not Path(one._files.name).exists()


@pytest.mark.full
def test_all_figures_make_older_ones_go(
    tables: plots.Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "NAMES", ("loss_curves", "heat_map", "surface"))  # all there are
    for name in ("surface.png", "heat_map.png", "mine.png"):
        (tmp_path / name).write_text("old")
    nothing = dataclasses.replace(tables, surface=None)
    with Drawing(tmp_path, free=0) as one:
        one.add(["surface", "heat_map"], nothing)
        one.wait()
        assert (tmp_path / "surface.png").exists(), "not all were asked for"
        one.add(["loss_curves"], nothing)
        drawn = one.wait()
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine.png",
        *(path.name for path in drawn.paths),
    }
    assert "surface" in drawn.left_out


def test_where_no_process_can_be_started_this_one_draws(
    tables: plots.Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing.sys, "executable", str(tmp_path / "none"))
    with Drawing(tmp_path / "plots", free=1) as one:
        one.add(["heat_map"], tables)
        drawn = one.wait()
    assert [path.name for path in drawn.paths] == ["heat_map.png"]


def test_a_process_that_draws_imports_no_torch_and_ends_with_its_parent() -> None:
    code = (
        "import sys\n"
        "from lrlab.plots import drawing\n"
        "assert 'matplotlib' not in sys.modules and 'pandas' not in sys.modules\n"
        "drawing.main()\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'optuna'} & set(sys.modules)\n"
        "assert 'matplotlib' in sys.modules and not heavy, heavy\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
