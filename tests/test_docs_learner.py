"""learning-rate.md, verdicts.md and analysis.md: their commands are run, their numbers computed.

The commands that only read a sweep, and `python -m lrlab.find`, are README's too: test_readme.py
runs them, those of analysis.md among them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import runpy
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from test_sweep import command, summaries

from lrlab import answer, judge, sweep
from lrlab.data import Dataset, torchvision_images
from lrlab.losses import chance_loss, mse_one_hot, nll
from lrlab.networks import ACTIVATIONS, MLP, Perceptron
from lrlab.thresholds import THRESHOLDS
from lrlab.verdicts import verdicts

DOCS = Path(__file__).parent.parent / "docs"
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
PAGES = ("learning-rate.md", "verdicts.md", "analysis.md")
TEXT = {page: (DOCS / page).read_text(encoding="utf-8") for page in PAGES}
# Of two runs of the page's commands: 40 mean losses a run, all val losses, and what was measured.
TWO_SWEEPS = Path(__file__).parent / "documents" / "two_sweeps.csv"

VERBS: dict[str, Callable[[], None]] = {"sweep": sweep.main, "analysis": judge.main}
FEW = ("data.train_size=640", "data.val_size=200", "epochs=1", "threads=1", "plots=false")


def commands(page: str) -> list[tuple[str, list[str]]]:
    """The verb and the words behind it of each command that a reader types."""
    typed = re.findall(r"^    \$ python -m lrlab\.(\w+)(.*)$", TEXT[page], re.MULTILINE)
    return [(verb, shlex.split(words)) for verb, words in typed]


def run(verb: str, words: Sequence[str], folder: Path) -> str:
    ended = command(VERBS[verb], words, folder)
    assert (ended.code, ended.err) == (0, ""), (verb, words)
    return ended.out


def test_each_command_is_found() -> None:
    for page in PAGES:
        assert len(commands(page)) == TEXT[page].count("    $ ") >= 4, page
    (elsewhere,) = [words for verb, words in commands("learning-rate.md") if verb not in VERBS]
    assert elsewhere == [] and "    python -m lrlab.find\n" in README
    assert {verb for verb, _ in commands("verdicts.md")} == set(VERBS)
    assert ["lr=0.001,0.1,1.0", "name=three"] in [w for _, w in commands("learning-rate.md")]
    assert "python -m lrlab.sweep lr=0.001,0.1,1.0\n" in README


# --- learning-rate.md -----------------------------------------------------------------------------

# Two of them are run elsewhere: one is a command of verdicts.md too, one is README's first.
ELSEWHERE = [
    *(words for _, words in commands("verdicts.md")),
    ["lr=0.001,0.1,1.0", "name=three"],
]
SWEEPS = [
    words
    for verb, words in commands("learning-rate.md")
    if verb == "sweep" and words not in ELSEWHERE
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SWEEPS)))
def test_a_learners_sweep_runs_as_written(number: int, tmp_path: Path) -> None:
    words = SWEEPS[number]
    off = [] if any("diagnostics" in word for word in words) else ["diagnostics=off"]
    named = [word.removeprefix("name=") for word in words if word.startswith("name=")]
    name = named[0] if named else "mine"
    out = run("sweep", [*words, *FEW, *off, *([] if named else ["name=mine"])], tmp_path)
    runs = summaries(tmp_path / "outputs" / name)
    expected = 1
    for word in words:
        key, _, values = word.partition("=")
        if key == "points":
            expected *= int(values)
        elif key != "lr" or ".." not in values:
            expected *= len(re.sub(r"\[[^]]*\]", "list", values).split(","))
    assert len(runs) == expected
    assert {each["state"] for each in runs} <= {"finished", "diverged"}
    assert "answer  " in out
    if off == []:  # the page names columns of it
        measured = pd.read_csv(tmp_path / "outputs" / name / "0" / "diagnostics.csv")
        assert {"grad_norm", "update_ratio", "distance"} <= set(measured)


@pytest.mark.parametrize("number", range(2))
def test_a_block_of_python_prints_what_the_page_shows(number: int) -> None:
    block = re.compile(r"^```python\n(.*?)^```\n\n((?:    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
    blocks = block.findall(TEXT["learning-rate.md"])
    assert len(blocks) == 2
    code, shown = blocks[number]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert [line.strip() for line in printed.getvalue().splitlines()] == [
        line.strip() for line in shown.splitlines()
    ]


@functools.cache
def mnist() -> Dataset:
    return torchvision_images()


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_table_of_parameters_is_that_of_the_network() -> None:
    page = TEXT["learning-rate.md"]
    network = MLP((1, 28, 28), 10)
    shapes = [p.shape for p in network.parameters()]
    rows = re.findall(r"^\| (\d+) → (\d+) \|.*?\| (\d+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 4 == len(shapes) / 2
    for i, (inputs, outputs, biases, together) in enumerate(rows):
        assert (int(outputs), int(inputs)) == tuple(shapes[2 * i])
        assert int(biases) == shapes[2 * i + 1].numel()
        assert int(together.replace(",", "")) == shapes[2 * i].numel() + int(biases)
    weights = sum(shape.numel() for shape in shapes[::2])
    biases = sum(shape.numel() for shape in shapes[1::2])
    assert f"| together | {weights:,} | {biases} | **{parameters(network):,}** |" in page
    assert f"784·10 + 10 = {parameters(Perceptron((1, 28, 28), 10)):,}." in page
    one_layer = parameters(MLP((1, 28, 28), 10, hidden=[64]))
    assert f"784·64 + 64 + 64·10 + 10 = {one_layer:,}." in page
    assert f"each of the {parameters(network):,} parameters" in page


def test_activations_and_losses_are_as_the_page_says() -> None:
    page = TEXT["learning-rate.md"]
    steepest = {
        name: float(torch.func.grad(ACTIVATIONS[name])(torch.tensor(1e-6)))
        for name in ("step", "sigmoid", "tanh", "relu")
    }
    assert steepest == pytest.approx({"step": 1, "sigmoid": 0.25, "tanh": 1, "relu": 1}, abs=1e-4)
    assert "¼·¼·¼ = 1/64" in page and steepest["sigmoid"] ** 3 == pytest.approx(1 / 64)
    assert f"ln C for nll, {math.log(10):.3f} for ten digits" in page
    assert f"for the squared error, {(10 - 1) / 10**2:g}." in page
    even = torch.arange(10)
    assert chance_loss(nll, even, (10,)) == pytest.approx(math.log(10))
    assert chance_loss(mse_one_hot, even, (10,)) == pytest.approx(0.09)
    assert f"−log 0.5 = {-math.log(0.5):.3f}. −log 0.1 = {-math.log(0.1):.3f}" in page
    right = torch.tensor([0])
    even, tenth = torch.zeros(1, 2), torch.zeros(1, 10)
    assert float(nll(even, right)) == pytest.approx(0.693, abs=5e-4)
    assert float(nll(tenth, right)) == pytest.approx(math.log(10))
    # a score of 3 is as far from 1 as −1 is
    far, near = torch.tensor([[3.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert float(mse_one_hot(far, right)) == float(mse_one_hot(near, right))


def test_the_counts_of_images_and_steps() -> None:
    page = TEXT["learning-rate.md"]
    data = mnist()
    sizes = [len(part) for part in (data.train_y, data.val_y, data.test_y)]
    assert sizes == [55_000, 5_000, 10_000] and "70,000 grey images" in page
    steps, left = divmod(sizes[0], 64)
    assert f"55,000 / 64, that is {steps} steps and {left} images left out" in page
    each = [sizes[0] // batch for batch in (16, 64, 256)]
    assert f"One epoch is {each[0]:,}, {each[1]} and {each[2]} steps" in page


def test_the_small_sums_of_the_page() -> None:
    page = TEXT["learning-rate.md"]
    relu = ACTIVATIONS["relu"]
    outputs = [
        float(relu(torch.tensor(2.0 * a - 1.0 * b + 0.5))) for a, b in ((1.0, 1.0), (0.0, 1.0))
    ]
    assert outputs == [1.5, 0] and "= 1.5, so 1.5. z = 2·0 − 1·1 + 0.5 = −0.5, so 0." in page
    assert [2.0 - lr * 0.5 for lr in (0.1, 10)] == [1.95, -3] and "*Answer.* 1.95. And −3" in page
    assert "lr·λ = 2 and λ = 4" in page and abs(1 - 0.5 * 4) == 1 and 1 - 0.25 * 4 == 0
    assert "1/(1 − β) = 10" in page and math.isclose(1 / (1 - 0.9), 10)
    assert "0.2·(1 − 0.9) = 0.02; 0.2·(1 − 0.99) = 0.002" in page


def pictures() -> dict[str, Figure]:
    module = runpy.run_path(str(DOCS / "make_pictures.py"))
    return {name: module[name]() for name in ("digits", "noise_floor", "valley")}


def test_the_pictures_show_what_the_page_says() -> None:
    drawn = pictures()
    # In the valley a step makes (1 − lr·λ)·w of w.
    for axes, product in zip(drawn["valley"].axes, (0.2, 1.0, 1.8, 2.2), strict=True):
        assert axes.get_title().startswith(f"lr·λ = {product:g}\n")
        at = np.asarray(axes.lines[1].get_xdata(), float)
        np.testing.assert_allclose(at, (1 - product) ** np.arange(6.0), atol=1e-6)
    # The walks end on their floors, ½σ²·lr·λ/(2 − lr·λ) at σ = 0.3.
    (axes,) = drawn["noise_floor"].axes
    for line, lr in zip(axes.lines[:3], (0.5, 0.05, 0.05), strict=True):
        ends = np.asarray(line.get_ydata(), float)[-10:]
        assert ends.mean() == pytest.approx(0.5 * 0.3**2 * lr / (2 - lr), rel=0.15), lr
    # Columns of images: each of its own digit, that is at the label's place in the data.
    data = mnist()
    panels = [axes for axes in drawn["digits"].axes if axes.images and axes.axison is False]
    assert len(panels) == 40
    titles = [axes.get_title() for axes in panels if axes.get_title()]
    assert titles == [str(digit) for digit in range(10)]
    for number, axes in enumerate(panels):
        row, digit = divmod(number, 10)
        place = (data.train_y == digit).nonzero()[row, 0]
        shown = torch.from_numpy(np.asarray(axes.images[0].get_array(), np.float32))
        np.testing.assert_allclose(
            shown, data.train_x[place, 0] * 0.3081 + 0.1307, atol=1e-5, err_msg=str(digit)
        )


# --- verdicts.md and analysis.md ------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands_of_verdicts_run_as_written(tmp_path: Path) -> None:
    printed = [
        run(verb, [*words, *(FEW if verb == "sweep" else ())], tmp_path)
        for verb, words in commands("verdicts.md")
    ]
    assert printed[0].split()[:2] == ["end", "0.05"]
    for name, number, text in (("bowl", 10, printed[-2]), ("cliff", 9, printed[-1])):
        assert len(summaries(tmp_path / "outputs" / name)) == number
        assert text.count(" lr ") >= number  # a line of evidence each
        assert "answer  " in text


def test_the_page_has_every_threshold_with_its_value() -> None:
    page = TEXT["verdicts.md"]
    table = page.partition("## The thresholds")[2].partition("## Sources")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+) \|$", table, re.MULTILINE)
    assert rows == [
        (each.name, f"{getattr(THRESHOLDS, each.name):g}", each.metadata["means"])
        for each in fields(THRESHOLDS)
    ]
    told = re.findall(r"`(\w+)` (?:\(|= )(−?[\d.]*\d)(%?)", page)
    told = [each for each in told if each[0] in {name for name, _, _ in rows}]
    assert len(told) >= 30
    for name, number, percent in told:
        value = float(number.replace("−", "-")) / (100 if percent else 1)
        assert value == pytest.approx(getattr(THRESHOLDS, name)), name
    assert {name for name, _, _ in told} >= {name for name, _, _ in rows} - {"target"}


def two_sweeps(name: str) -> pd.DataFrame:
    curves = pd.read_csv(TWO_SWEEPS)
    return verdicts(curves.loc[curves["sweep"] == name].drop(columns="sweep"))


def test_the_examples_are_what_is_said_of_these_runs() -> None:
    """Each sentence of the page is what lrlab says today of the recorded run."""
    page = TEXT["verdicts.md"]
    bowl, cliff = two_sweeps("bowl"), two_sweeps("cliff")
    said = [*bowl["evidence"], *cliff["evidence"]]
    shown = re.findall(r"^> (.*: (\w+) \(steps .*\))$", page, re.MULTILINE)
    assert len(shown) == 7
    for sentence, _ in shown:
        assert sentence in said
    outcomes = ("diverged", "collapsed", "converged", "overshooting", "undershooting", "plateau")
    assert {outcome for _, outcome in shown} == set(outcomes)
    places = {
        ("bowl", 7): "diverged", ("cliff", 0): "collapsed", ("bowl", 4): "converged",
        ("bowl", 0): "undershooting", ("bowl", 2): "undershooting", ("bowl", 5): "overshooting",
        ("bowl", 3): "overshooting", ("cliff", 1): "converged", ("cliff", 2): "plateau",
    }  # fmt: skip
    for (name, number), outcome in places.items():
        assert {"bowl": bowl, "cliff": cliff}[name].loc[number, "outcome"] == outcome


def test_the_answer_is_what_is_said_of_the_bowl() -> None:
    page = TEXT["verdicts.md"]
    shown = page.partition("For the bowl:\n\n")[2].partition("\n\n")[0]
    said = answer.text(answer.recommend(two_sweeps("bowl")))
    assert [line[4:] for line in shown.splitlines()] == said.splitlines()


def test_the_worked_numbers_of_converged() -> None:
    """By the page's own formula, from the runs' losses and gains."""
    page, bowl = TEXT["verdicts.md"], two_sweeps("bowl")
    found = {}
    for number in (4, 5):
        row = bowl.loc[number]
        epsilon = row["initial_loss"] / 1000
        reach = (row["end_loss"] + epsilon) * math.exp(-row["gain_low"]) - epsilon
        share = (row["initial_loss"] - row["end_loss"]) / (row["initial_loss"] - reach)
        found[number] = reach, share
    assert f"ε is {bowl.loc[4, 'initial_loss'] / 1000:.4f}" in page
    assert f"− 0.0023 = {found[4][0]:.3f}," in page and f"= {found[4][1]:.3f}. Run 5" in page
    assert f"a tenth would reach {found[5][0]:.3f}, and {found[5][1]:.3f} is below" in page
    assert found[4][1] >= THRESHOLDS.overtaken > found[5][1]
    assert f"1 − e⁻⁰·³¹ = {-math.expm1(-0.31):.0%} less loss" in page


def test_the_borders_of_stability() -> None:
    """A valley of unit curvature, stepped by the plain rules just below and above each border."""

    def grows(lr: float, beta: float, nesterov: bool) -> bool:
        w, b = 1.0, 0.0
        for _ in range(4000):
            b = beta * b + w
            w -= lr * (w + beta * b if nesterov else b)
            if abs(w) > 1e6:
                return True
        return False

    for beta in (0.0, 0.5, 0.9):
        for nesterov, border in ((False, 2 + 2 * beta), (True, (2 + 2 * beta) / (1 + 2 * beta))):
            assert not grows(0.98 * border, beta, nesterov) and grows(1.02 * border, beta, nesterov)
    adam = (2 + 2 * 0.9) / (1 - 0.9)
    assert "38/lr at β₁ = 0.9" in TEXT["verdicts.md"] and adam == pytest.approx(38)


def test_links_to_headings_lead_to_one() -> None:
    for page in PAGES:
        for file, anchor in re.findall(r"\]\(([\w-]*(?:\.md)?)#([\w-]+)\)", TEXT[page]):
            headings = re.findall(r"^#+ (.+)$", TEXT[file or page], re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, (page, anchor)
