"""report.html: what it does in a real Chromium."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import EVIL, chromium, launched
from helpers.images import png
from helpers.made_sweeps import write_run, write_sweep

from lrlab import report
from lrlab.report import figures

needs_browser = pytest.mark.skipif(
    chromium() is None, reason="no chromium, chromium-browser or google-chrome is installed"
)
pytestmark = pytest.mark.full


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


@needs_browser
def test_a_hundred_runs_are_drawn_and_leave_room_for_pictures(tmp_path: Path, opened: Any) -> None:
    file = report.write(write_sweep(tmp_path / "s", 100, steps=300), {})
    assert file.stat().st_size + figures.BUDGET * 4 / 3 < 8_000_000  # base64 takes a third more
    page = opened(file).chart()
    assert page.lines()[:100] == [True] * 100 and page.messages == []
    assert page.page.locator("#verdicts tbody").count() == 100
    page.page.locator("#legend .chip[aria-pressed]").first.click()  # a decade of them
    assert 20 < page.lines().count(False) < 50
