"""report.html: what the page holds."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.browser import EVIL
from helpers.images import png
from helpers.made_sweeps import CHANCE, INITIAL, write_run, write_sweep

from lrlab import report
from lrlab.report import __main__ as command
from lrlab.report import advice, chart, figures, markup
from lrlab.verdicts.answer import Answer


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
        ("sweep/multirun.yaml", "is a file, and no sweep"),
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
