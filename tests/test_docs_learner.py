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
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import command, summaries
from matplotlib.figure import Figure

import lrlab
from lrlab import analysis, sweep
from lrlab.data import Dataset, torchvision_images
from lrlab.losses import chance_loss, mse_one_hot, nll
from lrlab.networks import ACTIVATIONS, MLP, Perceptron
from lrlab.records.thresholds import THRESHOLDS
from lrlab.tables.frames import PARTS
from lrlab.verdicts import recommend
from lrlab.verdicts.judging import verdicts
from lrlab.verdicts.printed.answer_words import text

DOCS = Path(__file__).parent.parent / "docs"
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
PAGES = ("learning-rate.md", "verdicts.md", "analysis.md")
TEXT = {page: (DOCS / page).read_text(encoding="utf-8") for page in PAGES}
# Of two runs of the page's commands: 40 mean losses a run, all val losses, and what was measured.
TWO_SWEEPS = Path(__file__).parent / "documents" / "two_sweeps.csv"

VERBS: dict[str, Callable[[], None]] = {"sweep": sweep.main, "analysis": analysis.main}
FEW = ("data.train_size=640", "data.val_size=200", "epochs=1", "threads=1", "plots=false")


def commands(page: str) -> list[tuple[str, list[str]]]:
    """The verb and the words behind it of each command that a reader types."""
    typed = re.findall(r"^    \$ python -m lrlab\.(\w+)(.*)$", TEXT[page], re.MULTILINE)
    return [(verb, shlex.split(words)) for verb, words in typed]


def run(verb: str, words: Sequence[str], folder: Path) -> str:
    ended = command(VERBS[verb], words, folder)
    # of fewer epochs than the page has, a schedule may never fire
    said = re.sub(r"lrlab: schedule=.*\n", "", ended.err)
    assert (ended.code, said) == (0, ""), (verb, words)
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


@pytest.mark.full
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


@pytest.mark.full
def test_the_commands_of_verdicts_run_as_written(tmp_path: Path) -> None:
    printed = [
        run(verb, [*words, *(FEW if verb == "sweep" else ())], tmp_path)
        for verb, words in commands("verdicts.md")
    ]
    assert printed[0].split()[:2] == ["end", "0.05"]
    for name, number, out in (("bowl", 10, printed[-2]), ("cliff", 9, printed[-1])):
        assert len(summaries(tmp_path / "outputs" / name)) == number
        assert out.count(" lr ") >= number  # a line of evidence each
        assert "answer  " in out


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
    assert len(told) >= len(rows)
    for name, number, percent in told:
        value = float(number.replace("−", "-")) / (100 if percent else 1)
        assert value == pytest.approx(getattr(THRESHOLDS, name)), name
    assert {name for name, _, _ in told} >= {name for name, _, _ in rows} - {"target"}


def two_sweeps(name: str) -> pd.DataFrame:
    curves = pd.read_csv(TWO_SWEEPS)
    curves = curves.loc[curves["sweep"] == name].drop(columns="sweep")
    found = verdicts(curves.drop(columns=PARTS))
    parts = curves.groupby("run")[PARTS].first()
    return found.assign(**{PARTS: parts.reindex(found["run"]).to_numpy()})


OUTCOMES = (
    *("diverged", "collapsed", "nothing learned", "not compared"),
    *("converged", "undershooting", "overshooting"),
)
SENTENCE = rf": ({'|'.join(OUTCOMES)})(?:; at the end .*)? \(steps:? [^()]*\)"


def examples() -> dict[str, list[str]]:
    """The sentences of the page, by outcome."""
    shown = re.findall(r"^> (.*)$", TEXT["verdicts.md"], re.MULTILINE)
    found: dict[str, list[str]] = {}
    for sentence in shown:
        (outcome,) = re.findall(f"{SENTENCE}$", sentence)
        found.setdefault(outcome, []).append(sentence)
    return found


def test_the_examples_are_what_is_said_of_these_runs() -> None:
    """Each sentence of the page is what lrlab says today of the recorded run."""
    bowl, cliff = two_sweeps("bowl"), two_sweeps("cliff")
    said = [*bowl["evidence"], *cliff["evidence"]]
    shown = examples()
    assert set(shown) == set(OUTCOMES)
    elsewhere = {"nothing learned", "not compared"}  # of other sweeps, see below
    for outcome in set(OUTCOMES) - elsewhere:
        assert any(sentence in said for sentence in shown[outcome]), outcome
    for outcome in elsewhere:
        assert not any(sentence in said for sentence in shown[outcome])
    # The other sentence of overshooting is that of a run that overfits.
    others = [s for o in set(OUTCOMES) - elsewhere for s in shown[o] if s not in said]
    assert len(others) == 1 and "at the end overfitting" in others[0]
    assert list(bowl["outcome"]) == [
        *["undershooting"] * 4, *["converged"] * 2, "overshooting", *["diverged"] * 3,
    ]  # fmt: skip
    places = {0: "collapsed", 1: "converged", 2: "converged", 6: "diverged", 7: "overshooting"}
    assert {number: cliff.loc[number, "outcome"] for number in places} == places


def test_a_run_alone_is_not_compared() -> None:
    """Run 4 of the bowl by itself is the run of the page's example."""
    curves = pd.read_csv(TWO_SWEEPS)
    alone = curves.loc[(curves["sweep"] == "bowl") & (curves["run"] == 4)]
    (found,) = verdicts(alone.drop(columns=["sweep", PARTS])).to_dict("records")
    assert [found["evidence"]] == examples()["not compared"]


@pytest.mark.parametrize("name", ["bowl", "cliff"])
def test_the_answers_are_what_is_said_of_these_runs(name: str) -> None:
    said = text(recommend.recommend(two_sweeps(name)))
    page = TEXT["verdicts.md"]
    shown = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)]
    assert f"{said}\n" in shown


def blocks(page: str) -> list[tuple[str, str]]:
    """The programs of a page, each with its name."""
    found = re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", TEXT[page], re.DOTALL | re.MULTILINE)
    return [(name, code) for name, code in found]


@pytest.mark.full
@pytest.mark.parametrize("number", range(2))
def test_the_programs_of_verdicts_show_what_the_page_says(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, code = blocks("verdicts.md")[number]
    few = functools.partial(lrlab.run_sweep, threads=1, plots=False)
    monkeypatch.setattr(lrlab, "run_sweep", few)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {"__name__": "__main__"})
    table = pd.read_csv(tmp_path / "outputs" / name / "verdicts.csv")
    if name == "random_labels":
        assert set(table["outcome"]) == {"nothing learned"}
        assert "no lr is recommended: nothing was learned" in printed.getvalue()
        guess = float(table["chance_loss"].iloc[0])
        assert 0.98 * guess < table["end_loss"].min() < math.log(2)
        assert f"guessing ({guess:.4g})" in TEXT["verdicts.md"]
    else:
        assert name == "noisy_labels"
        worst = table.iloc[4]
        assert (worst["outcome"], worst["at_end"]) == ("overshooting", "overfitting")
        assert worst["lr"] == pytest.approx(0.25, rel=0.01)


def test_the_worked_numbers() -> None:
    page, bowl = TEXT["verdicts.md"], two_sweeps("bowl")
    assert f"1 − e⁻⁰·¹⁸ = {-math.expm1(-0.18):.0%} less loss" in page
    assert bowl.loc[4, "gain_low"] == pytest.approx(0.18, abs=0.005)
    assert f"falls by {1 - 2**-0.2:.0%} when the steps double" in page
    assert f"ln 2 is {math.log(2):.3f}" in page
    above = bowl.loc[5, "end_loss"] / bowl.loc[4, "end_loss"] - 1
    assert f"lr 0.3, ended {above:.1%} above the best" in page
    # learning-rate.md: alpha + 1 is the share of the way to the lowest point.
    ways = {0: "0.03%", 4: "79%", 6: "103%"}
    for run, shown in ways.items():
        digits = 2 if run == 0 else 0
        assert shown == f"{bowl.loc[run, 'alpha'] + 1:.{digits}%}"
        assert f"the median step goes {shown}" in re.sub(
            r"\s+", " ", TEXT["learning-rate.md"]
        ).replace("The median", "the median")


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
            led_to = (DOCS / (file or page)).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", led_to, re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, (page, anchor)
