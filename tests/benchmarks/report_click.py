"""How long a click in report.html takes until the page shows what it does, in real Chromium.

A sweep of 100 runs of 2,800 steps, without pictures. Each kind of click is made by the mouse, as a
reader makes it, several times; from the event's own time to the end of the first frame that shows
its effect, in the chart too. Beside it the processor time of the page's main thread, which tells
what it would be on a machine that has nothing else to do.

    python tests/benchmarks/report_click.py [--runs 100]

Prints, and exits with 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from measure import REPOSITORY, machine, verdict

sys.path.insert(0, str(REPOSITORY / "tests"))

from helpers.browser import chromium, launched
from helpers.made_sweeps import write_sweep

from lrlab import report

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

TARGET = 200  # ms
REPEATS = 6
# What to click, and how often one click of each follows another: they lead there and back.
CLICKS = {
    "switch a run": ["#verdicts tbody:nth-of-type(3) td:nth-child(4)"],
    "switch a group": ["#legend .chip[aria-pressed]"],
    "switch all": ["#legend .chip:text-is('none')", "#legend .chip:text-is('all')"],
    "log, linear": ["input[name=scale][value=linear]", "input[name=scale][value=log]"],
    "colour by": ["input[name=by][value=outcome]", "input[name=by][value=lr]"],
    "train, validation": ["input[name=loss][value=val]", "input[name=loss][value=train]"],
    "sort by a number": ["#verdicts th:has-text('end loss') button"],
    "sort by a text": ["#verdicts th:has-text('outcome') button"],
    "filter by outcome": [".filters .chip[data-outcome=converged]"],
}
# Frames run what was asked for before them, so the timer that follows runs behind the paint.
WATCH = """
window.took = [];
addEventListener("click", (event) => requestAnimationFrame(() => setTimeout(() => {
  window.took.push(performance.now() - event.timeStamp);
}, 0)), true);
"""


def clicks(page: Page, processor: CDPSession, selectors: list[str]) -> tuple[list[float], float]:
    """Milliseconds of each click, and the median of the processor's."""
    page.evaluate("window.took.length = 0")
    busy = []
    for number in range(REPEATS):
        target = page.locator(selectors[number % len(selectors)]).first
        target.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        before, before_ms = page.evaluate("window.took.length"), busy_ms(processor)
        target.click()
        while page.evaluate("window.took.length") == before:  # its own waiting needs an eval
            page.wait_for_timeout(20)
        busy.append(busy_ms(processor) - before_ms)
    return page.evaluate("window.took"), statistics.median(busy)


def busy_ms(processor: CDPSession) -> float:
    metrics = processor.send("Performance.getMetrics")["metrics"]
    return 1000 * next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2800)
    arguments = parser.parse_args()
    print(machine())
    if chromium() is None:
        sys.exit("no chromium is installed; apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="lrlab-benchmark-") as folder:
        sweep = write_sweep(Path(folder) / "sweep", arguments.runs, arguments.steps)
        file = report.write(sweep, {})
        print(f"{arguments.runs} runs of {arguments.steps:,} steps: {file.stat().st_size:,} bytes")
        with launched() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(file.as_uri())
            page.locator("#chart").scroll_into_view_if_needed()
            page.wait_for_selector("#chart[data-ready]", timeout=60_000)
            page.evaluate(WATCH)
            processor = page.context.new_cdp_session(page)
            processor.send("Performance.enable", {"timeDomain": "threadTicks"})
            worst = 0.0
            for name, selectors in CLICKS.items():
                took, busy = clicks(page, processor, selectors)
                worst = max(worst, statistics.median(took))
                each = " ".join(f"{ms:.0f}" for ms in sorted(took))
                middle = f"{statistics.median(took):4.0f} ms, processor {busy:4.0f} ms"
                print(f"{name:18} median {middle}  ({each})")
    sys.exit(not verdict("slowest kind of click, ms", worst, TARGET, at_least=False))


if __name__ == "__main__":
    main()
