"""Records that somebody edited, cut off, mixed up or made up: a result or one line."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from helpers import made_tables
from helpers.commands import files
from helpers.hostile import NUMBERS, cases, damaged, is_line, no_hang, told, values, words
from helpers.made_sweeps import write_sweep
from helpers.studies import Opener, grid, search
from hypothesis import example, given
from hypothesis import strategies as st

from lrlab import analysis, compare, records, report, reproduce
from lrlab.config import trust
from lrlab.sweeping import launch, resuming

pytestmark = pytest.mark.full

RUN = ["summary.json", "metrics.csv", "diagnostics.csv", "branches.csv"]
HYDRA = [".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"]
TABLES = ["lines.csv", "surface.csv", "paths.csv"]


def made() -> dict[str, bytes]:
    """The files of a small sweep, as they should be."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "s"
        write_sweep(sweep, 3, steps=24)
        for name, table in (
            ("lines", made_tables.lines(8)),
            ("surface", made_tables.surface(3)),
            ("paths", made_tables.paths(steps=3)),
        ):
            records.write_landscape(sweep, name, table)
        overrides = {"hydra": [], "task": ["lr=0.1,0.2", "name=s"]}
        runtime = {"config_sources": [], "cwd": "/", "choices": {"network": "mlp", "loss": "nll"}}
        hydra = {"overrides": overrides, "runtime": runtime, "job": {"config_name": "config"}}
        (sweep / "multirun.yaml").write_text(yaml.safe_dump({"lr": 0.1, "hydra": hydra}), "utf-8")
        for run in ("0", "1"):
            file = sweep / run / ".hydra/hydra.yaml"
            file.write_text(yaml.safe_dump({"hydra": hydra}), "utf-8")
        (sweep / "best.yaml").write_text("defaults: [config, _self_]\nlr: 0.1\nsource: s/0\n")
        return {name: (sweep / name).read_bytes() for name in files(sweep)}


WHOLE = made()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records") / "s"
    restore(folder)
    return folder


def restore(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in WHOLE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# --- what happens to a file -----------------------------------------------------------------------


@st.composite
def changed(draw: Any, node: Any) -> Any:
    """A config or summary in which one value is another, or gone, wherever it is."""
    if draw(st.integers(0, 9)) == 0:
        return draw(values)
    if isinstance(node, dict) and node:
        key = draw(st.sampled_from(sorted(node, key=str)))
        kind = draw(st.sampled_from(["inner", "inner", "value", "gone", "more"]))
        rest = {k: v for k, v in node.items() if k != key}
        if kind == "gone":
            return rest
        if kind == "more":
            return {**node, draw(words): draw(values)}
        return {**node, key: draw(changed(node[key]) if kind == "inner" else values)}
    if isinstance(node, list) and node:
        place = draw(st.integers(0, len(node) - 1))
        return [*node[:place], draw(changed(node[place])), *node[place + 1 :]]
    return draw(values)


@st.composite
def other_cells(draw: Any, data: bytes) -> bytes:
    """A table in which some cells, a name or the order of rows or columns are others."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["cell", "cell", "column", "swap", "rows", "short", "name"]))
        row = draw(st.integers(min(1, len(rows) - 1), len(rows) - 1))
        column = draw(st.integers(0, max(0, len(rows[row]) - 1)))
        if kind == "cell" and rows[row]:
            rows[row][column] = draw(st.one_of(st.sampled_from(NUMBERS), words))
        elif kind == "column":
            number = draw(st.sampled_from(NUMBERS))
            rows[1:] = [[*r[:column], number, *r[column + 1 :]] for r in rows[1:]]
        elif kind == "swap":
            rows = [r[::-1] for r in rows]
        elif kind == "rows":
            rows = rows[:1] + rows[1:][::-1] + rows[1:row]
        elif kind == "short":
            rows = rows[:row]
            rows = rows or [[""]]
        else:
            rows[0] = [*rows[0][:column], draw(words), *rows[0][column + 1 :]]
    return ("\n".join(",".join(r) for r in rows) + "\n").encode("utf-8", "replace")


def worse(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    """What may have become of a record."""
    ways = [damaged(data)]
    if name.endswith(".json"):
        ways.append(changed(json.loads(data)).map(as_json))
    elif name.endswith(".yaml"):
        ways.append(changed(yaml.safe_load(data)).map(as_yaml))
    elif name.endswith(".csv"):
        ways += [other_cells(data)] * 2
    return st.one_of(*ways)


def as_json(node: Any) -> bytes:
    return json.dumps(node).encode("utf-8", "surrogatepass")


def as_yaml(node: Any) -> bytes:
    return yaml.safe_dump(node, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")


def spoilt(*names: str) -> st.SearchStrategy[dict[str, bytes | None]]:
    """What became of one or two files; None: it is gone."""
    one = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(*[worse(name, WHOLE[name])] * 6, st.none()))
    )
    return st.lists(one, min_size=1, max_size=2).map(dict)


@contextlib.contextmanager
def put(changes: dict[str, bytes | None], folder: Path) -> Iterator[None]:
    """The folder with those files; whole again afterwards."""
    for name, data in changes.items():
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)
    try:
        yield
    finally:
        for name in changes:
            (folder / name).write_bytes(WHOLE[name])


def ends_well(entry: Callable[[], Any], codes: tuple[int, ...] = (0,)) -> tuple[int, str, str]:
    """A command's exit code, output and errors: a result, with notes, or one line and 2."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with no_hang(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            entry()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    lines = err.getvalue().splitlines()
    for line in lines:
        assert line.startswith("lrlab: "), line
        is_line(line)
    if code == 2:
        assert len(lines) == 1 and out.getvalue() == ""
    else:
        assert code in codes and out.getvalue().strip(), (code, lines)
    return code, out.getvalue(), err.getvalue()


# --- commands that read ---------------------------------------------------------------------------

OF_RUNS = [f"0/{name}" for name in (*RUN, *HYDRA)] + [f"1/{name}" for name in RUN]


INFINITE = b"step,epoch,lr,train_loss,val_loss,val_acc\n-inf,1,0.1,1,,\n-inf,1,0.1,2,1,0.5\n"


@cases(36)
@example(changes={"1/metrics.csv": INFINITE})
@given(changes=spoilt(*OF_RUNS))
def test_analysis_of_a_spoilt_sweep(changes: Any, sweep: Path) -> None:
    with put(changes, sweep):
        before = files(sweep)
        ends_well(lambda: analysis.main([str(sweep), "--evidence"]))
        assert files(sweep) == before


@cases(15)
@given(changes=spoilt(*OF_RUNS, "multirun.yaml", "best.yaml", *TABLES))
def test_a_report_of_a_spoilt_sweep(changes: Any, sweep: Path) -> None:
    with put(changes, sweep):
        (sweep / "report.html").unlink(missing_ok=True)
        line = told(lambda: report.write(sweep))
        assert (line is None) == (sweep / "report.html").is_file()
        assert not list(sweep.glob(".*.tmp"))


@cases(8)
@example(changes={f"{run}/.hydra/config.yaml": b"false\n" for run in (0, 1)})
@given(changes=spoilt(*OF_RUNS))
def test_a_comparison_with_a_spoilt_sweep(changes: Any, sweep: Path) -> None:
    other = sweep.parent / "other"
    if not other.is_dir():
        restore(other)
    with put(changes, sweep):
        ends_well(lambda: compare.main([str(sweep), str(other), "--no-files"]))


# --- commands that go on with records -------------------------------------------------------------


NO_JOB = b"hydra: {overrides: {task: [], hydra: []}, runtime: {config_sources: []}}"


@cases(70)
@example(changes={"multirun.yaml": NO_JOB})
@example(changes={"multirun.yaml": NO_JOB.replace(b"task: []", b"task: lr") + b"\n"})
@given(changes=spoilt("multirun.yaml"))
def test_a_spoilt_sweep_is_resumed_or_refused(changes: Any, sweep: Path) -> None:
    with put(changes, sweep):
        told(lambda: resuming.command_line(sweep, []))


@cases(60)
@given(data=worse("best.yaml", WHOLE["best.yaml"]))
def test_a_spoilt_best_yaml_is_trusted_or_refused(data: bytes, sweep: Path) -> None:
    with put({"best.yaml": data}, sweep):
        told(lambda: trust.refuse(trust.in_best(records.read_best(sweep)), "best.yaml", "again"))


def trained_as_recorded(specs: Any) -> None:
    """Stands in for training: the run comes out as its record says."""
    (spec,) = specs
    source = json.loads((spec.folder / "provenance.json").read_text("utf-8"))["reproduces"]
    for name in ("metrics.csv", "summary.json"):
        shutil.copy(Path(source) / name, spec.folder / name)


@cases(32)
@example(changes={"0/.hydra/config.yaml": b"\xff\xfelr: 0.1"})
@example(changes={"0/.hydra/config.yaml": b"[]"})
@example(changes={"0/.hydra/config.yaml": b"lr: 0.1\ndevice: {a: 1}\n"})
@example(changes={"0/.hydra/config.yaml": b"false\n...\n"})
@given(
    changes=spoilt(
        *("0/summary.json", "0/metrics.csv", "multirun.yaml"), *(f"0/{name}" for name in HYDRA)
    )
)
def test_a_spoilt_run_is_reproduced_or_refused(changes: Any, sweep: Path) -> None:
    output = sweep.parent / "again"
    with (
        put(changes, sweep),
        mock.patch.object(launch, "train", trained_as_recorded),
        mock.patch("sys.argv", ["r", str(sweep / "0"), f"--output={output}"]),
    ):
        code, _, _ = ends_well(reproduce.main, codes=(0, 1))
        assert output.exists() == (code != 2)
        shutil.rmtree(output, ignore_errors=True)


# --- the study ------------------------------------------------------------------------------------


SPACES = {"grid": grid(lr="0.1,0.2", seed="0,1"), "search": search()}


def journal(kind: str) -> bytes:
    """A study's file, of which one run has begun."""
    with tempfile.TemporaryDirectory() as folder:
        opener = Opener(Path(folder))
        queue = opener(SPACES[kind], "new")
        assert queue.take(0) is not None
        opener.close(queue)
        return opener.journal.read_bytes()


JOURNALS = {kind: journal(kind) for kind in SPACES}


@cases(35)
@given(
    both=st.sampled_from(sorted(SPACES)).flatmap(
        lambda kind: st.tuples(st.just(kind), damaged(JOURNALS[kind]))
    )
)
def test_a_spoilt_study_is_gone_on_with_or_refused(
    both: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind, data = both
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.journal").write_bytes(data)
    opener = Opener(folder)

    def go_on() -> None:
        queue = opener(SPACES[kind], "resume")
        queue.trials()
        queue.take(0)

    told(go_on)
    for queue in list(opener.opened):
        told(lambda queue=queue: opener.close(queue))
    shutil.rmtree(folder)
