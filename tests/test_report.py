"""report.html: what the page holds, and what it does in a real Chromium."""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.browser import chromium, launched
from helpers.made_sweeps import CHANCE, INITIAL, write_run, write_sweep

from lrlab import report
from lrlab.errors import UserError
from lrlab.report import __main__ as command
from lrlab.report import advice, chart, figures, markup
from lrlab.verdicts.answer import Answer

EVIL = (
    '<script>window.hacked=1</script><img src=x onerror="window.hacked=2">\u2028"\'</script>&amp;'
)


def png(width: int = 60, height: int = 40, noise: bool = False) -> bytes:
    """A picture; of noise it is as large as one can be."""
    from PIL import Image

    shape = (height, width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape) if noise else np.full(shape, 200)
    written = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(written, "PNG")
    return written.getvalue()


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "lrlab.report", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_a_picture_with_few_colours_keeps_those_of_small_marks() -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from PIL import Image

    from lrlab.plots.style import OUTCOMES

    shades = colormaps["viridis"](np.linspace(0, 1, 300))[None, :, :3]
    pixels = shades * np.linspace(0.5, 1, 200)[:, None, None]  # a surface of many colours
    colours = [to_rgb(look.colour) for look in OUTCOMES.values()]
    for place, colour in enumerate(colours):
        pixels[5:9, 10 * place + 5 : 10 * place + 9] = colour
    written = io.BytesIO()
    Image.fromarray(np.round(255 * pixels).astype(np.uint8)).save(written, "PNG")
    with Image.open(io.BytesIO(figures._repainted(written.getvalue(), 1))) as image:
        assert image.mode == "P"
        seen = np.asarray(image.convert("RGB"))[7, 7 : 10 * len(colours) : 10] / 255
    np.testing.assert_allclose(seen, colours, atol=8 / 255)


# --- the text -------------------------------------------------------------------------------------


def test_content_is_escaped_unless_it_is_markup() -> None:
    figure = {"name": "x", "title": EVIL, "caption": None, "alt": '"', "data": markup.Markup("<b>")}
    made = markup.render("figures.html", figures=[{**figure, "width": 1, "height": 2}])
    inner = made.partition("<figcaption><b>")[2].partition("</b>")[0]
    assert "<" not in inner and html_module.unescape(inner) == EVIL
    assert 'base64,<b>" alt="&#34;"' in made and "</b>. </figcaption>" in made
    # what a UTF-8 file cannot hold, or a terminal would obey
    figure |= {"name": "a\ud800\x1b\x00b", "width": 1, "height": 2}
    assert 'id="figure-a?\ufffd\ufffdb"' in markup.render("figures.html", figures=[figure])


def test_templates_quote_each_attribute_and_switch_escaping_nowhere_off() -> None:
    for file in Path(markup.__file__).parent.glob("*.html"):
        text = file.read_text("utf-8")
        assert "safe" not in text and "autoescape" not in text, file.name
        assert not re.search(r"=\s*\{\{", text), f"{file.name}: an attribute without quotes"
        assert not re.search(r"'\s*\{\{[^}]*\}\}\s*'", text), file.name


def test_embedded_json_cannot_end_its_element_and_says_the_same() -> None:
    data = {"name": EVIL, "end": "]]>-->", "number": 0.1}
    text = markup.embedded_json(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data
    with pytest.raises(ValueError, match="JSON"):
        markup.embedded_json([math.nan])


def curves_of(losses: dict[int, list[float]], **more: Any) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {"run": run, "lr": 0.1 * (run + 1), "step": range(len(loss)), "train_loss": loss}
        )
        for run, loss in losses.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(
        initial_loss=INITIAL, chance_loss=CHANCE, **more
    )


def test_curves_are_smoothed_thinned_and_keep_their_ends() -> None:
    from lrlab.verdicts.judging import verdicts

    steps = 5000
    noisy = list(2.0 + np.random.default_rng(0).normal(0, 0.3, steps))
    table = curves_of({0: [1.5] * steps, 1: noisy, 2: [2.3, 9.0, 1e30, math.nan]})
    found = chart.data(table, verdicts(table), [])
    flat, rough, burst = found["runs"]
    assert set(flat["y"]) == {1.5}  # an average of equal losses is that loss, from the start on
    assert len(rough["x"]) <= chart.POINTS and rough["x"][0] == 0 and rough["x"][-1] == steps - 1
    assert rough["x"] == sorted(set(rough["x"]))
    late = np.array(rough["y"][40:])
    assert abs(late.mean() - 2.0) < 0.05 and late.std() < 0.08  # 0.3/√span and no bias
    assert burst["x"] == [0, 1, 2] and burst["stop"] == {"step": 3.0, "kind": "diverged"}
    assert max(burst["y"]) <= 30 * INITIAL  # one explosion does not set the frame
    assert found["high"] <= 3.3 * INITIAL
    assert flat["stop"] is None
    json.dumps(found, allow_nan=False)


def test_more_runs_are_drawn_with_fewer_points_and_at_most_so_many() -> None:
    from lrlab.verdicts.judging import verdicts

    table = curves_of({run: [2.3, 2.0] * 300 for run in range(260)})
    found = chart.data(table, verdicts(table), [])
    assert len(found["runs"]) == chart.RUNS and found["of"] == 260
    assert sum(len(run["x"]) for run in found["runs"]) <= 1.3 * chart.ALL_POINTS
    drawn = [int(run["run"]) for run in found["runs"]]
    assert drawn == sorted(drawn) and drawn[0] == 0 and drawn[-1] == 259


def bands_of(as_good: tuple[float, float], **more: Any) -> dict[str, tuple[float, float]]:
    """Begin and end of each band of a ruler over 0.001, 0.01 ... 10, in percent."""
    lrs = (0.001, 0.01, 0.1, 1.0, 10.0)
    rows = [{"run": i, "lr": lr, "outcome": "converged"} for i, lr in enumerate(lrs)]
    answer = Answer({}, best_lr=as_good[0], as_good=as_good, **more)
    text = str(advice.ruler(answer, rows, "a label"))
    found = re.findall(r'"band ([a-z ]+)" style="left:([\d.]+)%;width:([\d.]+)%', text)
    return {kind: (float(left), float(left) + float(width)) for kind, left, width in found}


def test_the_ruler_shades_what_was_tried_and_no_more() -> None:
    # The axis begins at 4 % and ends at 96 %: a decade is 23 %.
    many = bands_of((0.01, 1.0), too_small=0.001, too_large=10.0)
    assert many["good"] == (pytest.approx(27, abs=1), pytest.approx(73, abs=1))
    assert many["small"] == (0, pytest.approx(15.5)) and many["large"] == (84.5, 100)
    one = bands_of((0.1, 0.1), too_small=0.01, too_large=1.0)
    left, right = one["good mark"]
    assert left < 50 < right and right - left < 2, "0.1 alone, nothing beside it"
    assert one["small"] == (0, pytest.approx(38.5)) and one["large"] == (61.5, 100)
    assert bands_of((0.001, 0.001))["good mark"][0] > 3


def test_only_its_own_two_programs_may_run(tmp_path: Path) -> None:
    from plotly.offline import get_plotlyjs

    text = report.write(write_sweep(tmp_path / "s", 2), {}).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in html_module.unescape(policy[1]).split(";"))
    program = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
        for code in (program, get_plotlyjs())
    ]
    assert rules["script-src"].split() == hashes
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    addresses = re.findall(r'(?:src|href)="([^"#]+)', text)
    assert [address for address in addresses if not address.startswith("data:")] == []


def test_a_page_is_equal_however_often_it_is_made(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", 3)
    tables = report._tables(sweep)
    pictures = {"loss_curves": png()}
    once = report.html(tables, pictures, sweep)
    assert report.html(tables, pictures, sweep) == once
    assert once.startswith("<!doctype html>") and once.rstrip().endswith("</html>")


def test_pictures_by_bytes_or_path_in_the_order_of_the_plots(tmp_path: Path) -> None:
    (tmp_path / "own.png").write_bytes(png())
    made = figures.section(
        {
            "own": tmp_path / "own.png",
            "lr_against_loss": png(80, 50),
            "loss_curves": png(),
            "gone": tmp_path / "gone.png",
            "no_picture": b"<svg onload=alert(1)>",
        }
    )
    assert made is not None
    assert re.findall(r'id="figure-(\w+)"', made) == ["loss_curves", "lr_against_loss", "own"]
    assert re.findall(r'width="(\d+)" height="(\d+)"', made)[1] == ("80", "50")
    alts = re.findall(r'alt="([^"]*)" width', made)
    assert all(alts) and len(alts) == 3
    assert figures.section({}) is None


@pytest.mark.full
def test_pictures_that_are_too_large_together_are_made_smaller() -> None:
    from PIL import Image

    large, small = png(400, 300, noise=True), png()
    fitted = figures._fitted({"a": large, "b": small}, 200_000)
    assert fitted["b"] == small and len(fitted["a"]) <= 200_000 - len(small) < len(large)
    assert Image.open(io.BytesIO(fitted["a"])).size == (400, 300)
    tiny = figures._fitted({"a": large, "b": small}, 40_000)
    assert sum(map(len, tiny.values())) <= 40_000
    assert Image.open(io.BytesIO(tiny["a"])).size == (200, 150)


# --- the command and bad input --------------------------------------------------------------------


def test_the_command_says_where_the_page_is(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", 2)
    done = run_command(sweep)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"report {sweep / 'report.html'}\n",
        "",
    )
    assert (sweep / "report.html").stat().st_size > 1_000_000
    assert not list(sweep.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "no such folder"),
        ("empty", "holds no runs"),
        ("sweep/0", "is a run's folder; name its sweep's, "),
        ("sweep/multirun.yaml", "no such folder"),
    ],
)
def test_what_is_no_sweep_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_sweep(tmp_path / "sweep", 2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["report", str(tmp_path / name)])
        command.main()
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(lines) == 1
    assert lines[0].startswith("lrlab: ") and said in lines[0]
    assert not list(tmp_path.rglob("report.html"))


def test_neither_torch_nor_plotly_is_loaded_for_the_help() -> None:
    code = (
        "import sys; sys.argv=['r','--help']\n"
        "import lrlab.report.__main__ as m\n"
        "try: m.main()\n"
        "except SystemExit: pass\n"
        "print([x for x in ('torch','plotly','pandas','matplotlib') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_making_a_page_loads_no_torch(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", 2)
    code = (
        f"from pathlib import Path; from lrlab import report; report.write(Path({str(sweep)!r}))\n"
        "import sys; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_sweep_that_still_runs_shows_what_there_is(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    write_run(sweep, 0, 0.1)
    write_run(sweep, 1, 0.2, state="training")
    torn = sweep / "1" / "metrics.csv"
    torn.write_text(torn.read_text()[:2000] + "\n99,0,0.2,0.4")  # the last line is torn
    (sweep / "2").mkdir()  # has not begun
    text = visible(report.write(sweep).read_text(encoding="utf-8"))
    assert "This sweep is not over. 1 training, 1 waiting of 3 runs" in text
    assert f"python -m lrlab.report {sweep}" in text
    assert "damaged" not in text


def test_damaged_records_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", 3)
    (sweep / "1" / "metrics.csv").write_text("nonsense\n1\n")
    (sweep / "2" / "summary.json").write_text("{")
    (sweep / "0" / ".hydra" / "config.yaml").write_text("a: [")
    (sweep / "multirun.yaml").write_text(": :")
    text = visible(report.write(sweep).read_text(encoding="utf-8"))
    assert "The records of run 1, 2 are damaged" in text
    assert "its config cannot be read" in text


def test_a_sweep_of_one_step_and_one_without_any_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 0, 0.1, steps=1, epochs=1, measured=False)
    (tmp_path / "none" / "0").mkdir(parents=True)
    assert "lr 0.1" in visible(report.write(tmp_path / "one").read_text(encoding="utf-8"))
    none = visible(report.write(tmp_path / "none").read_text(encoding="utf-8"))
    assert (
        "No run has recorded a finite loss." in none and "no run has been trained" in none.lower()
    )


def test_write_passes_on_that_a_folder_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no runs"):
        report.write(tmp_path)


def visible(page: str) -> str:
    """The text of the page's body as one reads it, roughly."""
    body = page[page.index("<body>") :]
    body = re.sub(r"<script.*?</script>", "", body, flags=re.S)
    return " ".join(html_module.unescape(re.sub(r"<[^>]+>", "", body)).split())


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    bare = write_sweep(tmp_path / "bare", 3, measured=False)
    text = visible(report.write(bare).read_text(encoding="utf-8"))
    assert "alpha and the stability ratio were not measured" in text
    assert "there was no branch test" in text and "decay gain" not in text
    whole = write_sweep(tmp_path / "whole", 3)
    text = visible(report.write(whole).read_text(encoding="utf-8"))
    assert "Not in these records" not in text and "decay gain" in text


def test_every_outcome_has_a_place_a_colour_and_a_shape() -> None:
    from lrlab.plots import style
    from lrlab.verdicts.outcomes import OUTCOMES, css_class

    assert tuple(style.OUTCOMES) == OUTCOMES
    assert OUTCOMES.index("undershooting") < OUTCOMES.index("converged") < len(OUTCOMES) - 3
    css = (Path(chart.__file__).parent / "page.css").read_text(encoding="utf-8")
    rules = re.findall(r"^\.(o-[a-z-]+) \{ (.*) \}$", css, re.MULTILINE)
    assert sorted(name for name, _ in rules) == sorted(map(css_class, OUTCOMES))
    shapes = [re.sub(r"background: [^;]+;", "", rule).strip() for _, rule in rules]
    assert len(set(shapes)) == len(shapes), "no two have one shape"
    for name in OUTCOMES:  # on light and on dark, as page.js asks for them
        assert css.count(f"--{name.replace(' ', '-')}: #") == 2


def test_the_answer_is_told_in_the_words_of_the_terminal(tmp_path: Path) -> None:
    from lrlab.verdicts.printed.answer_words import details, headline

    sweep = write_sweep(tmp_path / "s", 9)
    (answer,) = report._tables(sweep).answers
    text = visible(report.write(sweep, {}).read_text(encoding="utf-8"))
    lines = details(answer)
    assert len(lines) >= 4
    for line in lines:
        name, _, told = line.partition(": ")
        assert name + told in text, "each line with its name before it"
    assert f"Use lr {answer.best_lr:g}" in text
    assert headline(answer).partition(": e")[2] in text  # "nd loss 0.1 (val loss), one seed ..."
    # the same number in the runs' table
    assert f"{answer.best_loss:.4g}" in text[text.index("Runs and verdicts") :]


def test_the_runs_table_says_how_each_run_stood_at_its_end(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", 5)
    judged = report._tables(sweep).verdicts
    assert judged is not None and set(judged["at_end"]) - {""}
    page = report.write(sweep, {}).read_text(encoding="utf-8")
    assert 'data-name="at the end"' in page
    for row in judged.to_dict("records"):
        (body,) = re.findall(rf'<tbody data-run="{row["run"]}".*?</tbody>', page, flags=re.S)
        assert f">{row['at_end'] or '–'}</td>" in body


@pytest.mark.parametrize(
    ("command_line", "settings", "said"),
    [
        (
            "python -m lrlab.sweep lr=1e-3..3 points=9 seed=0,1 epochs=1 name=grid output=/tmp/x",
            {},
            "python -m lrlab.sweep lr=3..30 points=9 seed=0,1 epochs=1",
        ),
        (
            "python -m lrlab.sweep lr=1,3 optimizer.momentum=0,0.9 'network.hidden=[8]'",
            {"optimizer.momentum": 0.9},
            "python -m lrlab.sweep lr=3..30 optimizer.momentum=0.9 'network.hidden=[8]' points=7",
        ),
        ("python -m lrlab.sweep +experiment=first_look", {}, ""),
        ("", {}, ""),
    ],
)
def test_the_command_to_run_next_has_the_range_and_the_best_settings(
    command_line: str, settings: dict[str, Any], said: str
) -> None:
    answer = Answer(settings, best_lr=3.0, edge="high", try_next=(3.0, 30.0))
    assert advice.next_command(answer, command_line) == said


def test_an_answer_at_the_edge_ends_with_the_command_to_run(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    write_sweep(sweep, 2, command="lr=0.03,0.1 name=s")
    for run, lr in enumerate((0.03, 0.1)):  # the larger is better, and the last that was tried
        shutil.rmtree(sweep / str(run))
        write_run(sweep, run, lr)
    text = visible(report.write(sweep, {}).read_text(encoding="utf-8"))
    assert "edgelr 0.1 is the largest lr tried" in text
    assert "to run nextpython -m lrlab.sweep lr=0.03..1 points=7" in text
    refused = Answer({}, refusal="every run diverged or collapsed", runs=2, try_next=(1e-3, 1.0))
    made = visible("<body>" + str(advice.section([refused], [], "python -m lrlab.sweep lr=2,3")))
    assert "Every run diverged or collapsed; try lr=0.001..1 next." in made
    assert "to run nextpython -m lrlab.sweep lr=0.001..1 points=7" in made


def test_of_a_search_the_ruler_shows_all_runs_and_the_good_range() -> None:
    from lrlab.verdicts.pooled import Bin, Search

    found = Search(3, 4, [Bin(0.05, 0.2, 0.3, 3)], (0.06, 0.2), 3, {}, "", None)
    answer = Answer(
        {"optimizer.momentum": 0.9}, best_lr=0.1, best_run=1, as_good=(0.06, 0.2), search=found
    )
    rows = [
        {"run": i, "lr": lr, "outcome": "pruned" if i else "converged", "optimizer.momentum": i}
        for i, lr in enumerate((0.01, 0.1, 0.3, 1.0))
    ]
    made = str(advice.section([answer], rows))
    assert made.count('class="stack"') == 4 and made.count("dot o-pruned") == 3
    assert "band good" in made and "search the best of 3 configurations" in visible(
        "<body>" + made.replace("</dt>", " ")
    )


def test_configs_are_told_once_and_differences_by_run(tmp_path: Path) -> None:
    sweep = tmp_path / "my sweep"
    for run, momentum in enumerate((0.0, 0.9)):
        write_run(sweep, run, 0.1, config={"optimizer": {"momentum": momentum, "nesterov": True}})
    page = report.write(sweep).read_text(encoding="utf-8")
    text = visible(page)
    assert page.count("optimizer.nesterov") == 1
    assert page.count("optimizer.momentum") == 2
    assert "optimizer.momentum=0.0" in text and "optimizer.momentum=0.9" in text
    # as a shell takes it
    assert f"python -m lrlab.reproduce '{sweep}/1'" in text


# --- in a browser ---------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(
    chromium() is None, reason="no chromium, chromium-browser or google-chrome is installed"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep of 8 lrs, two schedules and 16 runs, of which two diverge."""
    sweep = tmp_path_factory.mktemp("report") / "made"
    lrs = (0.002, 0.01, 0.03, 0.1, 0.2, 0.4, 1.0, 3.2)
    for number in range(16):
        schedule = ("fixed", "cosine")[number % 2]
        write_run(sweep, number, lrs[number // 2], schedule=schedule)
    return report.write(sweep, {"loss_curves": png(), "lr_against_loss": png(90, 60)})


RESET = """
for (const box of document.querySelectorAll("#verdicts input")) box.checked = true;
for (const chip of document.querySelectorAll(".filters .chip")) chip.ariaPressed = "false";
for (const field of document.querySelectorAll(".filters select, #search")) field.value = "";
for (const name of ["by", "loss", "scale"]) document.querySelector(`input[name=${name}]`).click();
document.querySelector("#search").dispatchEvent(new Event("input"));
document.querySelector("#verdicts th button").click();
if (document.querySelector("#verdicts th[aria-sort]").ariaSort === "descending")
  document.querySelector("#verdicts th button").click();
document.activeElement.blur();
scrollTo(0, 0);
"""


class Opened:
    """A page in the browser, and all that it asked for and complained of."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}, **options}
        )
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(file.as_uri())

    def chart(self) -> Opened:
        self.page.locator("#chart").scroll_into_view_if_needed()
        self.page.wait_for_selector("#chart[data-ready]")
        self.settle()
        return self

    def settle(self) -> None:
        """Until what was asked for is drawn: two frames."""
        self.page.evaluate(
            "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r())))"
        )

    def column(self, name: str) -> list[str]:
        """The cells of the rows that are to be seen."""
        heads = self.page.locator("#verdicts thead th").all_inner_texts()
        place = next(i for i, head in enumerate(heads) if head.strip().startswith(name))
        rows = self.page.locator("#verdicts tbody:visible tr:first-child")
        return [row.locator("td, th").nth(place).inner_text().strip() for row in rows.all()]

    def lines(self) -> list[bool]:
        """Whether each run's curve is to be seen, from the drawing itself."""
        self.settle()
        opacity = "all => all.map(each => getComputedStyle(each).opacity)"
        found = self.page.locator("#plot .xy .scatterlayer .trace").evaluate_all(opacity)
        return [float(each) > 0 for each in found]

    def strokes(self) -> list[str]:
        self.settle()
        stroke = "all => all.map(each => getComputedStyle(each).stroke)"
        return self.page.locator("#plot .xy .js-line").evaluate_all(stroke)


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    pages: list[Opened] = []

    def opened(file: Path, **options: Any) -> Opened:
        pages.append(Opened(browser, file, **options))
        return pages[-1]

    yield opened
    for each in pages:
        each.context.close()


@pytest.fixture(scope="module")
def kept(browser: Any, made: Path) -> Iterator[Opened]:
    page = Opened(browser, made, permissions=["clipboard-read", "clipboard-write"])
    yield page.chart()
    page.context.close()


@pytest.fixture
def page(kept: Opened) -> Opened:
    """The page of `made` with its chart, as if just opened: to open one takes seconds."""
    kept.page.set_viewport_size({"width": 1200, "height": 900})
    kept.page.emulate_media(media="screen", color_scheme="light")
    kept.page.evaluate(RESET)
    kept.settle()
    return kept


@pytest.mark.full
@needs_browser
def test_it_opens_without_a_complaint_and_asks_for_nothing(made: Path, page: Opened) -> None:
    assert page.requests == [made.as_uri()] and page.messages == []
    assert page.page.locator("h1").inner_text() == "made"
    assert page.page.locator("#answer h2").inner_text().startswith("Use lr 0.")
    assert len(page.strokes()) == 16
    broken = "all => all.filter(each => !each.naturalWidth).length"
    assert page.page.locator(".plots img").evaluate_all(broken) == 0


@needs_browser
def test_columns_sort_by_number_or_text_by_mouse_and_keyboard(page: Opened) -> None:
    head = page.page.locator("#verdicts th:has(button)")
    ends = head.filter(has_text="val loss")
    ends.locator("button").click()
    assert ends.get_attribute("aria-sort") == "ascending"
    assert head.filter(has_text="run").get_attribute("aria-sort") == "none"
    losses = [math.inf if cell == "∞" else float(cell) for cell in page.column("val loss")]
    assert losses == sorted(losses) and losses[-2:] == [math.inf] * 2
    ends.locator("button").focus()
    page.page.keyboard.press("Enter")
    assert ends.get_attribute("aria-sort") == "descending"
    falling = [math.inf if cell == "∞" else float(cell) for cell in page.column("val loss")]
    assert falling == sorted(losses, reverse=True)
    # what is missing comes last, whichever way
    gains = head.filter(has_text="decay gain").locator("button")
    for sign in (1, -1):
        gains.click()
        cells = page.column("decay gain")
        numbers = [float(cell.replace("−", "-")) for cell in cells if cell != "–"]
        assert numbers == sorted(numbers, reverse=sign < 0) and cells[-2:] == ["–", "–"]
    head.filter(has_text="outcome").locator("button").click()
    assert page.column("outcome") == sorted(page.column("outcome"))
    head.filter(has_text="run").locator("button").click()
    assert page.column("run")[0].startswith("0") and len(page.column("run")) == 16


@needs_browser
def test_filters_hide_rows_and_their_curves(page: Opened) -> None:
    count = page.page.locator("#count")
    chip = page.page.locator(".filters .chip[data-outcome=diverged]")
    chip.click()
    assert (
        set(page.column("outcome")) == {"diverged"} and chip.get_attribute("aria-pressed") == "true"
    )
    assert count.inner_text().startswith("2 of 16 runs")
    assert page.lines()[:16] == [False] * 14 + [True] * 2
    chip.focus()
    page.page.keyboard.press("Space")
    assert len(page.column("run")) == 16 and count.inner_text() == "16 runs"
    page.page.locator("select[data-setting]").first.select_option("cosine")
    assert set(page.column("schedule")) == {"cosine"}
    assert page.lines()[:16] == [False, True] * 8
    page.page.locator("#search").fill("Guessing diverged")
    assert page.column("run") == []
    page.page.locator("#search").fill("COSINE overshooting")
    rows = page.page.locator("#verdicts tbody")
    cells = "all => all.map(each => [...each.querySelectorAll('td, th')].map(x => x.textContent))"
    words = [re.findall(r"\w+", " ".join(row).lower()) for row in rows.evaluate_all(cells)]
    matching = ["cosine" in row and "overshooting" in row for row in words]
    assert page.lines()[:16] == matching and 0 < sum(matching) < 8
    page.page.locator("#search").fill("nothing like it")
    assert page.column("lr") == [] and sum(page.lines()) == 0
    assert page.messages == []


@needs_browser
def test_rows_and_groups_switch_curves_on_and_off(page: Opened) -> None:
    rows = page.page.locator("#verdicts tbody")
    rows.nth(3).locator("td").nth(2).click()
    assert not rows.nth(3).locator("input").is_checked()
    assert [i for i, seen in enumerate(page.lines()) if not seen] == [3]
    rows.nth(5).locator("input").focus()
    page.page.keyboard.press("Space")
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Space")
    assert [i for i, seen in enumerate(page.lines()[:16]) if not seen] == [3, 5, 6]
    group = page.page.locator("#legend .chip[aria-pressed]").nth(
        1
    )  # runs 2 and 3, of which 3 is off
    assert group.get_attribute("aria-pressed") == "mixed"
    group.click()
    assert not any(page.lines()[2:4]) and group.get_attribute("aria-pressed") == "false"
    group.focus()
    page.page.keyboard.press("Enter")
    assert all(page.lines()[2:4]) and group.get_attribute("aria-pressed") == "true"
    page.page.locator("#legend .chip", has_text="none").click()
    assert not any(page.lines())
    page.page.locator("#legend .chip", has_text="all").click()
    assert all(page.lines())
    assert page.page.locator("#verdicts input:checked").count() == 16


@needs_browser
def test_axis_colours_and_loss_change_by_mouse_and_keyboard(page: Opened) -> None:
    kind = "document.querySelector('#plot').layout.yaxis.type"
    assert page.page.evaluate(kind) == "log"
    page.page.locator("label:has(input[value=linear])").click()
    assert page.page.evaluate(kind) == "linear"
    page.page.locator("input[value=linear]").focus()
    page.page.keyboard.press("ArrowLeft")
    page.settle()
    assert page.page.evaluate(kind) == "log"
    by_lr = page.strokes()
    assert by_lr[0] == by_lr[1] and len(set(by_lr)) == 8
    page.page.locator("label:has(input[value=outcome])").click()
    outcomes = page.column("outcome")
    by_outcome = dict(zip(outcomes, page.strokes(), strict=True))
    assert len(set(by_outcome.values())) == len(by_outcome) == len(set(outcomes))
    assert [by_outcome[each] for each in outcomes] == page.strokes()
    page.page.locator("input[value=outcome]").focus()
    page.page.keyboard.press("ArrowRight")
    by_schedule = page.strokes()
    assert by_schedule[0::2] == [by_schedule[0]] * 8 and len(set(by_schedule)) == 2
    assert page.page.locator("#legend .chip[aria-pressed]").all_inner_texts() == ["cosine", "fixed"]
    page.page.locator("label:has(input[value=val])").click()
    assert page.page.locator("#plot .xy .js-line").count() == 14  # the diverged have none
    page.page.locator("label:has(input[value=both])").click()
    assert page.page.locator("#plot .xy .js-line").count() == 30
    assert page.messages == []


@needs_browser
def test_a_drag_zooms_and_the_button_or_two_clicks_show_all_again(page: Opened) -> None:
    ranges = "(() => { const l = document.querySelector('#plot').layout;"
    ranges += " return [...l.xaxis.range, ...l.yaxis.range]; })()"
    page.page.locator("#plot").scroll_into_view_if_needed()
    whole = page.page.evaluate(ranges)
    box = page.page.locator("#plot .nsewdrag").first.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for way in ("button", "clicks"):
        page.page.mouse.move(*middle)
        page.page.mouse.down()
        page.page.mouse.move(middle[0] + 150, middle[1] + 90, steps=4)
        page.page.mouse.up()
        page.page.wait_for_timeout(100)
        zoomed = page.page.evaluate(ranges)
        assert whole[0] < zoomed[0] < zoomed[1] < whole[1]
        assert whole[2] < zoomed[2] < zoomed[3] < whole[3]
        if way == "button":
            page.page.locator("#reset").click()
        else:
            page.page.mouse.dblclick(*middle)
        page.page.wait_for_timeout(500)  # Plotly waits whether a second click follows
        assert page.page.evaluate(ranges) == pytest.approx(whole), way
    assert page.messages == []


@needs_browser
def test_a_point_is_told_under_the_mouse_and_by_the_arrow_keys(page: Opened) -> None:
    page.page.locator("#plot").scroll_into_view_if_needed()
    tip = page.page.locator("#tip")
    where = page.page.evaluate(
        """() => { const {xaxis, yaxis} = document.querySelector("#plot")._fullLayout;
        const line = document.querySelector("#plot").data[0];
        const box = document.querySelector("#plot").getBoundingClientRect();
        const i = line.x.length - 1;
        return [box.left + xaxis._offset + xaxis.d2p(line.x[i]),
                box.top + yaxis._offset + yaxis.d2p(line.y[i]), line.y[i]]; }"""
    )
    page.page.mouse.move(where[0] - 2, where[1] + 2)
    assert "run 0, lr 0.002" in tip.inner_text()
    assert f"train loss {where[2]:.4g} at step 209" in tip.inner_text()
    page.page.mouse.move(5, 5)
    assert not tip.is_visible()
    page.page.locator("#chart").focus()
    page.page.keyboard.press("End")
    readout = page.page.locator("#readout")
    assert "run 0, lr 0.002, train loss" in readout.inner_text()
    assert "at step 209" in readout.inner_text()
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("ArrowLeft")
    assert "run 1, lr 0.002" in readout.inner_text() and "step 208" in readout.inner_text()
    assert tip.is_visible()
    page.page.keyboard.press("Escape")
    assert not tip.is_visible()


@needs_browser
def test_it_follows_light_and_dark_and_prints_light(page: Opened) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    behind = "getComputedStyle(document.querySelector('#plot .main-svg')).backgroundColor"
    page.page.emulate_media(color_scheme="dark")
    page.settle()
    dark = page.page.evaluate(paper), page.page.evaluate(behind), page.strokes()[0]
    assert dark[0] == dark[1] == "rgb(20, 23, 27)"
    page.page.emulate_media(color_scheme="light")
    page.settle()
    light = page.page.evaluate(paper), page.page.evaluate(behind), page.strokes()[0]
    assert light[0] == light[1] == "rgb(255, 255, 255)"
    assert dark[2] != light[2]
    page.page.emulate_media(color_scheme="dark", media="print")
    page.settle()
    assert page.page.evaluate(paper) == "rgb(255, 255, 255)"
    for hidden in (".filters", "nav", "#loss-curves", ".copy", "#verdicts input"):
        assert not page.page.locator(hidden).first.is_visible(), hidden
    assert page.page.locator("#figure-loss_curves img").is_visible()  # stands for the chart
    assert page.page.locator("#verdicts tbody").last.is_visible()
    page.page.emulate_media(media="screen")
    page.settle()
    assert page.page.evaluate(behind) == "rgb(20, 23, 27)"
    paged = page.page.pdf(format="A4")
    assert paged.startswith(b"%PDF") and paged.count(b"/Type /Page\n") >= 2


@pytest.mark.full
@needs_browser
def test_it_prints_the_chart_where_no_picture_stands_for_it(made: Path, opened: Any) -> None:
    file = made.with_name("bare.html")
    sweep = made.parent
    file.write_text(report.html(report._tables(sweep), {}, sweep), encoding="utf-8")
    page = opened(file, color_scheme="dark").chart()
    page.page.emulate_media(media="print", color_scheme="dark")
    page.settle()
    assert page.page.locator("#plot").is_visible()
    behind = "getComputedStyle(document.querySelector('#plot .main-svg')).backgroundColor"
    assert page.page.evaluate(behind) == "rgb(255, 255, 255)"


@needs_browser
@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_window_does_not_scroll_sideways(page: Opened, width: int) -> None:
    page.page.set_viewport_size({"width": width, "height": 800})
    page.page.wait_for_timeout(300)  # the chart follows the window with some delay
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    inside = page.page.locator("#plot").bounding_box()
    assert inside["x"] >= 0 and inside["x"] + inside["width"] <= width


@pytest.mark.full
@needs_browser
def test_all_is_reached_by_tab_and_seen_when_it_is(made: Path, opened: Any) -> None:
    page = opened(made).chart()
    page.page.keyboard.press("Tab")
    skip = page.page.locator(".skip")
    assert skip.evaluate("each => each === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    page.page.keyboard.press("Enter")
    assert page.page.evaluate("document.activeElement.id") == "answer"
    reached = set()
    for _ in range(120):
        page.page.keyboard.press("Tab")
        found = page.page.evaluate(
            """() => { const at = document.activeElement;
            const seen = at.matches("fieldset input") ? at.nextElementSibling : at;
            return [at.name || at.id || at.dataset.outcome || at.className || at.tagName,
                    getComputedStyle(seen).outlineStyle]; }"""
        )
        if found[0] != "BODY":
            assert found[1] != "none", found
        reached.add(found[0])
    wanted = {
        "by",
        "loss",
        "scale",
        "reset",
        "chart",
        "search",
        "diverged",
        "enlarge",
        "copy no-print needs-js",
    }
    assert wanted <= reached, wanted - reached


@needs_browser
def test_a_command_is_copied_and_a_figure_enlarged(page: Opened) -> None:
    button = page.page.locator("#configs .copy").nth(2)
    button.click()
    page.page.wait_for_timeout(50)
    assert button.inner_text() == "copied"
    assert page.page.evaluate("navigator.clipboard.readText()").endswith("/made/2")
    page.page.locator(".enlarge").nth(1).focus()
    page.page.keyboard.press("Enter")
    large = page.page.locator("dialog")
    assert large.is_visible() and large.locator("img").evaluate("each => each.naturalWidth") == 90
    page.page.keyboard.press("Escape")
    assert not large.is_visible()


@pytest.mark.full
@needs_browser
def test_what_a_record_holds_is_text_and_nothing_else(tmp_path: Path, opened: Any) -> None:
    sweep = tmp_path / "a<img src=x onerror=alert(1)>&'\"b"
    config = {"network": {"_target_": EVIL, EVIL: "</script><script>window.hacked=3</script>"}}
    write_run(sweep, 0, 0.1, config=config, schedule=EVIL, optimizer="a</style><b>")
    write_run(sweep, 1, 0.2, state="failed", error=f"RuntimeError: {EVIL}", network="<i>mlp")
    more: dict[str, Any] = {"environment": {"device_name": EVIL}, "optimizer.momentum": EVIL}
    write_run(sweep, 2, 0.3, **more)
    (sweep / "multirun.yaml").write_text(
        json.dumps({"hydra": {"overrides": {"task": [f"name={EVIL}"]}}}), encoding="utf-8"
    )
    page = opened(report.write(sweep, {"<b>x</b>": png()})).chart()
    for by in page.page.locator("input[name=by]").all():
        by.check(force=True)
    page.page.locator("#chart").focus()
    page.page.keyboard.press("End")
    assert page.page.evaluate("window.hacked") is None and page.messages == []
    assert page.page.locator("img[src=x]").count() == 0
    assert page.page.locator("h1").inner_text() == sweep.name
    body = page.page.locator("body").text_content()
    assert f"failed: RuntimeError: {EVIL}" in body
    assert EVIL in page.page.locator("#environment").text_content()
    assert f"network._target_={EVIL}" in page.page.locator("#configs").text_content()
    assert EVIL in page.page.locator("#readout").text_content()
    assert page.page.locator("select[data-setting] option").filter(has_text="window.hacked").count()


@pytest.mark.full
@needs_browser
def test_a_sweep_that_failed_altogether_says_so(tmp_path: Path, opened: Any) -> None:
    for number, lr in enumerate((2.5, 3.2, 10.0)):
        write_run(tmp_path / "s", number, lr)
    page = opened(report.write(tmp_path / "s")).chart()
    assert page.page.locator("#answer h2").inner_text() == "No learning rate is recommended"
    assert "every step was too large" in page.page.locator("#answer .lead").inner_text()
    assert page.page.locator("#plot .xy2 .point").count() == 3  # on the rail
    assert page.messages == []


@needs_browser
def test_without_scripts_it_can_still_be_read(made: Path, opened: Any) -> None:
    page = opened(made, java_script_enabled=False)
    assert page.page.locator("#verdicts tbody").count() == 16
    assert page.page.locator("noscript").first.is_visible()
    assert not page.page.locator(".filters").is_visible()
    assert page.requests == [made.as_uri()]


@pytest.mark.full
@needs_browser
def test_a_hundred_runs_are_drawn_and_leave_room_for_pictures(tmp_path: Path, opened: Any) -> None:
    file = report.write(write_sweep(tmp_path / "s", 100, steps=300), {})
    assert file.stat().st_size + figures.BUDGET * 4 / 3 < 8_000_000  # base64 takes a third more
    page = opened(file).chart()
    assert page.lines()[:100] == [True] * 100 and page.messages == []
    assert page.page.locator("#verdicts tbody").count() == 100
    page.page.locator("#legend .chip[aria-pressed]").first.click()  # a decade of them
    assert 20 < page.lines().count(False) < 50


def test_the_browser_is_looked_for_by_its_usual_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if "google" in name else None)
    assert chromium() == "/bin/google-chrome"
