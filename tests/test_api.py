"""`lrlab.run_sweep` and `lrlab.load`: the command's own sweep, from Python and in a notebook."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import logging
import os
import random
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from helpers.commands import command, files, process, summaries, without_notices
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from matplotlib.figure import Figure
from packaging.version import Version

import lrlab
from lrlab import reproduce, resume, sweep
from lrlab.data.own import from_python
from lrlab.engine.step import captured, plain
from lrlab.errors import UserError
from lrlab.report import notebook

MINE = """
import torch
from lrlab.data import torchvision_images

class Net(torch.nn.Module):
    def __init__(self, in_shape, num_classes, width=3):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, width), torch.nn.Tanh(),
            torch.nn.Linear(width, num_classes))

    def forward(self, x):
        return self.layers(x)

def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)
"""
# One thread, and steps that are counted in tens, for a machine that is busy with other work.
FEW: dict[str, Any] = {
    "data": {"train_size": 640, "val_size": 200},
    "epochs": 1,
    "threads": 1,
    "diagnostics": "off",
    "plots": False,
}
TYPED = ["data.train_size=640", "data.val_size=200", "lr=0.01,0.1,1e9", "epochs=1"]
TYPED += ["name=typed", "threads=1", "diagnostics=off", "plots=false"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a notebook lies, with code of the user's beside it."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "mine_of_api.py").write_text(MINE)
    with contextlib.chdir(folder), mock.patch.object(sys, "path", [str(folder), *sys.path]):
        yield folder


@pytest.fixture(scope="module")
def typed(home: Path) -> str:
    """What the command prints of the sweep in outputs/typed."""
    done = command(sweep.main, TYPED, home)
    assert (done.code, done.err) == (0, "")
    return done.out


@pytest.fixture(scope="module")
def result(home: Path) -> lrlab.Result:
    """The same from Python, silent, in a loop that runs, by one who uses Hydra; nothing is left."""
    mine = object()
    GlobalHydra.instance().hydra = mine  # type: ignore[assignment]
    HydraConfig.instance().cfg = mine  # type: ignore[assignment]
    version = VersionBase.instance().getbase()
    VersionBase.instance().setbase(Version("1.2"))
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    torch.set_num_threads(2)

    def state() -> Any:
        instances = (GlobalHydra.instance(), HydraConfig.instance(), VersionBase.instance())
        return [
            [list(vars(instance).values()) for instance in instances],
            (list(logging.root.handlers), logging.root.level, optuna.logging.get_verbosity()),
            (logging.getLogger("matplotlib").level, logging.getLogger("lrlab").level),
            (torch.random.get_rng_state().tolist(), random.getstate()),
            [each.tolist() if isinstance(each, np.ndarray) else each for each in numpy_state()],
            (torch.get_num_threads(), list(sys.argv), os.getcwd(), signal.getsignal(signal.SIGINT)),
            {key: value for key, value in os.environ.items() if "HYDRA" in key},
        ]

    def numpy_state() -> Any:
        return np.random.get_state()

    async def cell() -> lrlab.Result:
        return lrlab.run_sweep(lr=np.array([0.01, 0.1, 1e9]), name="python", **FEW)

    before, out, err = state(), io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = asyncio.run(cell())
        assert state() == before
        assert (out.getvalue(), err.getvalue()) == ("", "")
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        VersionBase.instance().version_base = version
        logging.root.removeHandler(handler)
        torch.set_num_threads(1)
    return found


# --- the command's own ----------------------------------------------------------------------------


def test_it_is_the_commands_sweep_to_the_bit(home: Path, typed: str, result: lrlab.Result) -> None:
    there = home / "outputs" / "typed"
    assert result.folder == home / "outputs" / "python"
    assert files(result.folder) == files(there)
    for run in "012":
        for file in ("metrics.csv", ".hydra/config.yaml", ".hydra/overrides.yaml"):
            one, other = (folder / run / file for folder in (result.folder, there))
            text = re.sub('(name[:=] ?"?)typed', r"\1python", other.read_text())
            assert one.read_text() == text.replace("lr=1e9", "lr=1000000000.0"), file
    ours, theirs = (pd.read_csv(f / "verdicts.csv") for f in (result.folder, there))
    timed = "seconds_to_target"
    pd.testing.assert_frame_equal(
        ours.drop(columns=timed), theirs.drop(columns=timed), check_exact=True
    )


def test_the_tables_are_those_of_the_records(typed: str, result: lrlab.Result) -> None:
    told = summaries(result.folder)
    assert list(result.runs["lr"]) == [0.01, 0.1, 1e9]
    assert list(result.runs["state"]) == ["finished", "finished", "diverged"]
    assert list(result.runs["test_loss"])[:2] == [s["test_loss"] for s in told[:2]]
    recorded = pd.read_csv(result.folder / "1" / "metrics.csv")
    curve = result.curves.query("run == 1")
    assert list(curve["train_loss"].dropna()) == list(recorded["train_loss"].dropna())
    written = pd.read_csv(result.folder / "verdicts.csv")
    assert list(result.verdicts["outcome"]) == list(written["outcome"])
    assert result.best is None  # for nothing was learned
    assert result.notes == ()


def test_a_terminal_is_shown_the_commands_end(
    home: Path, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    loaded = lrlab.load("outputs/typed")
    shown, none, why = typed[typed.index("run     lr") :].partition("lrlab: none is the best: ")
    assert repr(loaded) + "\n" == shown and none and why.count("\n") == 1
    assert str(loaded.answer) in typed and loaded.answer.text.startswith("answer  no lr")
    assert loaded.answer.lr is loaded.answer.answers[0].best_lr is None


def test_what_it_is_of_python_is_reproduced_and_resumed(home: Path, result: lrlab.Result) -> None:
    done = command(reproduce.main, [str(result.folder / "1")], home)
    assert done.code == 0 and "identical: 10 of 10 steps, bitwise" in done.out
    done = command(resume.main, [str(result.folder), "lr=0.01,0.1,1e9,0.03"], home)
    assert (done.code, done.err) == (0, "")
    assert len(lrlab.load(result.folder).runs) == 4 and len(result.runs) == 3  # as it was read


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1}, ["lr=-1"]),
        ({"learning_rate": 0.1}, ["learning_rate=0.1"]),
        ({"network": "mpl"}, ["network=mpl"]),
        ({"network": 5}, ["network=5"]),
        ({"lr": "fast"}, ["lr=fast"]),
        ({"optimizer": ["sgd", "adam"], "optimizer__eps": 1.0}, ["optimizer=sgd,adam"]),
    ],
)
def test_what_cannot_work_is_said_in_the_commands_words(
    options: dict[str, Any], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "optimizer__eps" in options:
        words = [*words, "optimizer.eps=1.0"]
    done = command(sweep.main, words, tmp_path)
    assert done.code == 2
    with contextlib.chdir(tmp_path), pytest.raises(UserError) as error:
        lrlab.run_sweep(**options)
    assert f"lrlab: {error.value}\n" == done.err
    frames = [frame.name for frame in traceback.extract_tb(error.value.__traceback__)]
    assert frames == [test_what_cannot_work_is_said_in_the_commands_words.__name__, "run_sweep"]
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.full
def test_code_of_the_users_is_trained_by_its_path(home: Path) -> None:
    import mine_of_api  # type: ignore[import-not-found]

    net = mine_of_api.Net
    optimizer = {"_target_": torch.optim.SGD, "momentum": 0.5}
    code = {"network": net, "network__width": [3, 5], "loss": mine_of_api.loss}
    found = lrlab.run_sweep(lr="1e-2..1e-1", n_trials=2, optimizer=optimizer, **code, **FEW)
    told = summaries(found.folder)
    # Each of the layers has a weight and a bias.
    sizes = {785 * width + 10 * (width + 1) for width in (3, 5)}
    assert {s["parameters"] for s in told} <= sizes and len(told) == 2
    assert all(0.01 <= s["lr"] <= 0.1 and s["state"] == "finished" for s in told)
    assert {s["loss"] for s in told} == {"loss"}
    assert list(found.runs["optimizer.momentum"]) == [0.5] * 2
    assert "python -m lrlab.resume" not in repr(found)


@pytest.mark.full
def test_progress_shows_what_the_command_prints(
    home: Path, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.chdir(home):
        lrlab.run_sweep(lr=[0.01, 0.1, 1e9], name="shown", progress=True, **FEW)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert sorted(shown.out.splitlines()) == sorted(typed.replace("/typed", "/shown").splitlines())


@pytest.mark.full
def test_an_interrupt_goes_through_and_keeps_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(before: Any) -> Any:
        def take(self: Any, i: int) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.undo()
            return before(self, i)

        return take

    for kind in (plain.PlainStep, captured.CapturedStep):
        monkeypatch.setattr(kind, "gradients", pressed(kind.gradients))
    handler = signal.getsignal(signal.SIGINT)
    with contextlib.chdir(tmp_path):
        with pytest.raises(KeyboardInterrupt) as stopped:
            lrlab.run_sweep(lr=[0.1, 0.3], name="x", **{**FEW, "epochs": 3})
        assert str(stopped.value) == (
            "interrupted, 2 of 2 runs have not ended; what was trained is recorded; "
            "go on with python -m lrlab.resume outputs/x"
        )
        assert signal.getsignal(signal.SIGINT) is handler
        there = lrlab.load("outputs/x")
        assert list(there.runs["state"]) == ["interrupted"] * 2
        assert command(resume.main, ["outputs/x"], tmp_path).code == 0
        assert list(lrlab.load("outputs/x").runs["state"]) == ["finished"] * 2


# --- arrays ---------------------------------------------------------------------------------------

X = np.random.default_rng(5).normal(size=(120, 3))
LINE = X @ [1.0, -2.0, 0.5]
ON_ARRAYS: dict[str, Any] = {"threads": 1, "diagnostics": "off", "plots": False, "batch_size": 16}
REGRESSION: dict[str, Any] = {**ON_ARRAYS, "loss": "mse", "network": "perceptron", "epochs": 2}


@pytest.mark.full
def test_arrays_are_kept_with_the_sweep_and_replayed_from_there(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        found = lrlab.run_sweep(data=(X, LINE), lr=[0.01, 0.1], name="a", **REGRESSION)
        np.savez("same.npz", x=X, y=LINE)
        typed = {"data": "arrays", "data__path": "same.npz", "lr": [0.01, 0.1]}
        same = lrlab.run_sweep(name="b", **typed, **REGRESSION)
    assert list(found.runs["state"]) == ["finished"] * 2
    assert without_notices("".join(f"{note}\n" for note in found.notes)) == ""
    for run in "01":  # the bits of a file of the same arrays
        one, other = (folder / run / "metrics.csv" for folder in (found.folder, same.folder))
        assert one.read_text() == other.read_text()
    (file,) = found.folder.glob("data-*.pt")
    assert sorted(torch.load(file)) == ["x", "y"]

    # It goes wherever the sweep goes, also where the sweep's first place is gone.
    moved = Path(found.folder).rename(tmp_path / "moved")
    done = command(reproduce.main, [str(moved / "1")], tmp_path)
    assert (done.code, done.err) == (0, "") and "steps, bitwise" in done.out
    done = command(resume.main, [str(moved), "lr=0.01,0.1,0.2"], tmp_path)
    assert (done.code, without_notices(done.err)) == (0, "")
    assert list(lrlab.load(moved).runs["state"]) == ["finished"] * 3
    done = command(sweep.main, ["--config-dir", "moved", "--config-name", "best"], tmp_path)
    assert (done.code, without_notices(done.err)) == (0, "")


def test_arrays_of_any_kind_are_one_file_and_their_settings_are_kept(tmp_path: Path) -> None:
    kinds: list[Any] = [
        (X, LINE),
        [torch.from_numpy(X), torch.from_numpy(LINE)],
        {"x": X, "y": torch.from_numpy(LINE).requires_grad_()},
        (pd.DataFrame(X), pd.Series(LINE)),
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(LINE)),
    ]
    names = {from_python.write(kind, tmp_path)[0] for kind in kinds}
    assert all(map(from_python.is_arrays, kinds)) and len(names) == 1
    for other in ((X.astype(np.float32), LINE), (X, LINE + 1), (X, LINE > 0), (X[:40], LINE[:40])):
        names.add(from_python.write(other, tmp_path)[0])
    assert len(names) == 5
    given = {"x": X, "y": (LINE > 0).astype(int), "val_x": X[:9], "val_y": np.ones(9, int)}
    with contextlib.chdir(tmp_path):
        found = lrlab.run_sweep(data={**given, "standardise": True}, lr=0.1, epochs=1, **ON_ARRAYS)
    config = (found.folder / "0" / ".hydra" / "config.yaml").read_text()
    assert "standardise: true" in config and "path: data-" in config
    assert list(found.runs["data"]) == ["arrays"]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ((X, LINE[:-1]), "data: x has shape (120, 3), y (119,); both need one entry a sample"),
        (X, "data: is one array; give inputs and targets, data=(x, y)"),
        ((X, np.full(120, np.nan)), "data: y has a value that is no finite float32, in sample 0"),
        ({"x": X, "y": LINE, "val_siz": 9}, "data: has a part val_siz"),
        ([(X, LINE), (X, LINE)], "data: is a list of several sets of arrays"),
        ((X, LINE), "loss=nll: compares with classes"),
    ],
)
def test_arrays_that_cannot_work_leave_nothing(data: Any, line: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path), pytest.raises(UserError) as error:
        lrlab.run_sweep(data=data, lr=0.1, **ON_ARRAYS)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# --- pictures -------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a page, the attributes of all, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_a_notebook_is_shown_runs_answer_and_picture(result: lrlab.Result) -> None:
    page = result._repr_html_()
    seen = Tags(page)
    assert seen.tags.count("tr") == 1 + 3 and seen.tags.count("img") == 1
    for run, outcome in zip(result.runs["run"], result.verdicts["outcome"], strict=True):
        at = seen.cells.index(str(run))
        assert outcome in seen.cells[at:]
    assert result.answer.text in seen.cells
    assert "1 diverged of 3 runs" in seen.cells
    # It does nothing, and asks nothing of anyone.
    assert set(seen.tags) <= {*["div", "table", "thead", "tbody", "tr", "th", "td", "pre", "img"]}
    assert {name for name, _ in seen.attributes} == {"class", "style", "src", "alt"}
    (source,) = [value for name, value in seen.attributes if name == "src"]
    assert source is not None and source.startswith("data:image/png;base64,")
    picture = base64.b64decode(source.partition(",")[2], validate=True)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 10_000
    assert "url(" not in page and "http" not in page


def shown(sweep: lrlab.Result) -> str:
    return notebook.html(sweep.folder, sweep.runs, sweep.verdicts, sweep.answer.text, sweep.notes)


def test_what_a_sweep_holds_is_no_markup(result: lrlab.Result) -> None:
    evil = "<script>x</script>"
    other = lrlab.load(result.folder, notes=(evil,))
    other.runs.loc[0, "state"] = evil
    page = shown(other)
    assert "<script" not in page and page.count("&lt;script&gt;") == 2


def test_a_thousand_runs_are_shown_by_their_ends(result: lrlab.Result) -> None:
    other = lrlab.load(result.folder)
    many = pd.concat([other.runs.iloc[[1]]] * 1000, ignore_index=True).assign(run=range(1000))
    other.__dict__["runs"] = many
    seen = Tags(shown(other))
    assert seen.tags.count("tr") == 1 + notebook.ROWS + 1
    assert {"0", "29", "970", "999"} <= set(seen.cells) and "30" not in seen.cells


def test_figures_by_name_and_what_there_is_none_of(result: lrlab.Result) -> None:
    figure = result.plot("loss_curves")
    assert isinstance(figure, Figure)
    png: Any = figure._repr_png_  # type: ignore[attr-defined]
    assert png().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"^plot=loss_curve: .*did you mean loss_curves\?.*mech"):
        result.plot("loss_curve")
    with pytest.raises(UserError, match=r"^plot=surface: nothing to draw, surface: the loss ar"):
        result.plot("surface")


def test_the_report_is_made_where_it_is_not_there(typed: str, home: Path) -> None:
    loaded = lrlab.load(home / "outputs" / "typed")
    assert not (loaded.folder / "report.html").exists()
    with mock.patch("lrlab.plots.draw") as draw:
        assert loaded.report() == loaded.folder / "report.html"
    draw.assert_called_once()
    page = loaded.report().read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "diverged" in page


@pytest.mark.parametrize("below", ["nowhere", "0"])
def test_what_is_no_sweep_is_refused(result: lrlab.Result, below: str) -> None:
    with pytest.raises(UserError, match="no such folder" if below == "nowhere" else "is a run's"):
        lrlab.load(result.folder / below)


# --- words ----------------------------------------------------------------------------------------


def test_the_package_imports_nothing_until_it_is_asked(result: lrlab.Result) -> None:
    code = (
        "import sys, lrlab\n"
        "assert not {'torch', 'hydra', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        f"found = lrlab.load({str(result.folder)!r})\n"
        "assert 'answer' in repr(found)\n"
        "assert not {'torch', 'optuna', 'matplotlib'} & set(sys.modules)\n"
    )
    done = process("-W", "error", "-c", code, cwd=Path(lrlab.__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"run_sweep", "load", "Result"} <= set(dir(lrlab))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lrlab.nothing  # type: ignore[attr-defined]
    assert re.fullmatch(r"\d+\.\d+\.\d+", lrlab.__version__)


def test_a_kernel_without_widgets_is_warned_of_nothing() -> None:
    code = (  # as in a kernel, which tqdm tells by these; optuna imports it
        "import sys, types\n"
        "sys.modules['ipykernel.zmqshell'] = types.ModuleType('zmqshell')\n"
        "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: None)\n"
        "sys.modules['ipywidgets'] = None\n"
        "from lrlab import api\n"
        "with api._logging_kept():\n"
        "    pass\n"
        "assert 'tqdm.auto' in sys.modules\n"
    )
    done = process("-c", code, cwd=Path(lrlab.__file__).parent.parent)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_of_the_documents_says_what_it_prints(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As written, but on few images: its table has the page's columns, runs and settings."""
    page = Path(lrlab.__file__).parent.parent / "docs" / "python.md"
    section = page.read_text(encoding="utf-8").partition("\n## ")[0]
    code = "\n".join(re.findall(r"^    (import lrlab|sweep = .*|print\(sweep\))$", section, re.M))
    assert code.count("\n") == 2
    few = {key: value for key, value in FEW.items() if key != "epochs"}
    whole = lrlab.run_sweep
    monkeypatch.setattr(lrlab, "run_sweep", lambda **told: whole(**told, **few), raising=False)
    monkeypatch.chdir(home)
    exec(code, {})
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    written = [line.split() for line in re.findall(r"^    (run .*|  \d .*)$", section, re.M)]
    # of so few images nothing may be said of the end
    assert shown[0] == written[0][: len(shown[0])] and "outcome" in shown[0]
    assert [row[:3] for row in shown[2:5]] == [row[:3] for row in written[1:]]
