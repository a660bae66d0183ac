"""What stands around training: the start without heavy imports, the answer before the pictures."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers.commands import QUICK, Ended, process, sweep

from lrlab import report
from lrlab.process import gc_pause
from lrlab.sweeping import ending, working
from lrlab.training import pool

SEEN = """
import importlib.abc, importlib.util, sys
heavy = {"pandas", "scipy", "sympy", "matplotlib", "plotly", "torchvision", "rich", "sqlalchemy"}
heavy |= {"torch._dynamo", "torch._inductor", "PIL", "mlflow", "sklearn"}
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lrlab.training.train":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            advance = module.advance
            def observed(*arguments):
                segment = advance(*arguments)
                print("imported:", sorted(heavy & set(sys.modules)))
                raise SystemExit(0)
            module.advance = observed
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
sys.argv[1:] = %s
import runpy
runpy.run_module("lrlab.sweep", run_name="__main__")
"""


@pytest.mark.full
def test_what_the_first_steps_do_not_need_is_not_imported_before_them(tmp_path: Path) -> None:
    done = process("-c", SEEN % repr([*QUICK, "lr=0.1"]), cwd=tmp_path)
    assert "imported: []" in done.stdout, done.stdout + done.stderr


@pytest.mark.full
def test_garbage_is_looked_for_again_while_runs_train(tmp_path: Path) -> None:
    seen = []
    run = pool.run

    def watched(*arguments: Any) -> None:
        seen.append(gc.isenabled())
        run(*arguments)

    with mock.patch.object(pool, "run", watched):
        assert sweep("lr=0.1", cwd=tmp_path).code == 0
        assert sweep("lr=0.2", "hydra/sweeper=basic", cwd=tmp_path).code == 0
        assert sweep("lr=0.3", "hydra.mode=RUN", cwd=tmp_path).code == 0
    assert seen == [True] * 3
    assert sweep("lr=-1", cwd=tmp_path).code == 2
    assert gc.isenabled() and not gc_pause._put_off


def test_a_search_for_garbage_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with gc_pause.put_off():
            gc_pause.resume()
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with gc_pause.put_off():
        assert not gc.isenabled()
    assert gc.isenabled()


def ended(
    tmp_path: Path, *arguments: str, draw: Any = ending.draw, finish: Any = ending.finish
) -> Ended:
    with mock.patch.object(ending, "draw", draw), mock.patch.object(ending, "finish", finish):
        return sweep("lr=0.01,0.3,1e9", "name=x", "plots=on", *arguments, cwd=tmp_path)


def test_the_answer_is_printed_when_the_records_are_closed_and_before_anything_is_drawn(
    tmp_path: Path,
) -> None:
    told = {}

    def draw(config: Any, folder: Path, tables: Any) -> tuple[dict[str, str], None]:
        told["lines"] = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
        told["files"] = {path.name for path in folder.iterdir()}
        return {}, None

    done = ended(tmp_path, draw=draw)
    assert (done.code, done.err) == (0, "")
    assert {"runs.csv", "verdicts.csv", "best.yaml"} <= told["files"]
    assert not {"plots", "report.html"} & told["files"]
    assert told["lines"][-1] == f"sweep  {Path('outputs/x')}"
    assert "1 diverged of 3 runs" in told["lines"]
    assert any(line.startswith("answer ") for line in told["lines"])
    assert done.out.splitlines() == told["lines"]


@pytest.mark.full
def test_a_report_that_fails_is_said_and_harms_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path, pictures: Any, tables: Any) -> None:
        assert pictures()
        raise ValueError("no such\nthing")

    monkeypatch.setattr(report, "write", write)
    done = ended(tmp_path)
    assert done.code == 1
    assert done.err == (
        "lrlab: report was not drawn: ValueError: no such thing\n"
        "lrlab: the records are whole; draw what is missing with "
        "python -m lrlab.report outputs/x\n"
    )
    assert {"runs.csv", "verdicts.csv"} <= {p.name for p in (tmp_path / "outputs/x").iterdir()}
    lines = done.out.splitlines()
    assert lines[-1].startswith(f"plots  {Path('outputs/x/plots')}: ")
    assert not any(line.startswith("report") for line in lines)


@pytest.mark.full
def test_what_cannot_be_written_ends_the_command_behind_all_that_could(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "x"
    blocked = folder / "plots" / "heat_map.png"
    finish = ending.finish

    def block(*arguments: Any) -> Any:
        blocked.mkdir(parents=True)  # where the figure belongs
        return finish(*arguments)

    done = ended(tmp_path, finish=block)
    assert done.code == 1
    first, second = done.err.splitlines()
    assert first.startswith(f"lrlab: {blocked}: cannot be written (")
    assert second.endswith("python -m lrlab.resume outputs/x")
    assert (folder / "plots" / "loss_curves.png").is_file() and (folder / "report.html").is_file()
    assert done.out.splitlines()[-1] == f"report {Path('outputs/x/report.html')}"


def test_runs_that_have_not_ended_are_told_last(tmp_path: Path) -> None:
    def draw(config: Any, folder: Path, tables: Any) -> tuple[dict[str, str], None]:
        print("drawn")
        return {"heat_map": "ValueError: x"}, None

    def finish(*arguments: Any, before: Any = ending.finish) -> Any:
        with mock.patch.object(working, "runs_left", lambda queue: [None]):
            return before(*arguments)

    done = ended(tmp_path, draw=draw, finish=finish)
    assert done.code == 1
    assert done.out.splitlines()[-2:] == [
        "drawn",
        "lrlab: 1 runs have not ended; go on with python -m lrlab.resume outputs/x",
    ]
    assert done.err == (
        "lrlab: heat_map was not drawn: ValueError: x\n"
        "lrlab: the records are whole; draw what is missing with python -m lrlab.plots outputs/x "
        "--only heat_map, then python -m lrlab.report outputs/x\n"
    )
