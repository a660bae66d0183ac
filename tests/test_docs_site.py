"""The documents as a site, and the commands of those pages that lead a user from step to step."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import chdir
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from helpers import browser
from helpers.commands import Ended, command
from helpers.documents import COMMANDS, FILES, rows

from lrlab.__main__ import VERBS
from lrlab.engine.step import captured, plain

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

# --- the site -------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a built page asks for, where its links lead, and the places that links may lead to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.places |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link":  # a style, an icon, a font, a connection made in advance
            self.requests.append(found.get("href", ""))
        elif tag != "form":
            self.requests += [found[key] for key in ("src", "data", "poster") if key in found]
            self.requests += found.get("srcset", "").split()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `mkdocs build` does it, where a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    words = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder))
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def pages(site: Path) -> dict[str, Page]:
    return {file.name: Page(file) for file in site.glob("*.html") if file.name != "404.html"}


@pytest.mark.full
def test_each_page_of_docs_is_in_the_site_and_no_program(site: Path) -> None:
    sources = {file.stem for file in DOCS.glob("*.md")} | {"studies", "changelog"}
    assert {Path(name).stem for name in pages(site)} == sources
    assert [*site.rglob("*.py"), *site.rglob("*.md")] == []


def test_no_page_and_no_style_asks_for_anything_from_elsewhere(site: Path) -> None:
    for name, page in pages(site).items():
        assert page.requests, name
        for asked in page.requests:
            parts = urlsplit(asked)
            assert (parts.scheme, parts.netloc) == ("", ""), f"{name}: {asked}"
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*[\"']?\s*(?:https?:)?//[^)]*", text) == [], style


def test_every_link_leads_to_a_file_and_a_place_in_it(site: Path) -> None:
    found = pages(site)
    for name, page in found.items():
        for link in [*page.links, *page.requests]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                assert link in page.links
                continue
            target = (site / unquote(parts.path)).resolve() if parts.path else site / name
            target = target / "index.html" if target.is_dir() else target
            assert target.is_relative_to(site) and target.is_file(), f"{name}: {link}"
            if target.name in found and not link.startswith("#__"):  # those are the theme's
                places = found[target.name].places
                assert unquote(parts.fragment) in places, f"{name}: {link}"


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "text", "in_the_site"),
    [
        ("experiments/README.md", "![x](../docs/images/find.png)", "![x](images/find.png)"),
        ("experiments/README.md", "[a](lr_search.yaml) is a file", "a is a file"),
        ("CHANGELOG.md", "[x](docs/faq.md#speed), [y](LICENSE)", "[x](faq.md#speed), y"),
        ("docs/index.md", "[s](../experiments/README.md#a)", "[s](studies.md#a)"),
        ("docs/index.md", "[c](../CHANGELOG.md) [d](../conf)", "[c](changelog.md) d"),
        ("docs/index.md", "[h](#here) [w](https://x.org/a)", "[h](#here) [w](https://x.org/a)"),
        ("docs/index.md", "`[c](../conf)` and [c](../conf)", "`[c](../conf)` and c"),
        # what is nowhere stays, so that mkdocs refuses it
        ("docs/index.md", "[x](no.md) [y](../no) ![z](no)", "[x](no.md) [y](../no) ![z](no)"),
    ],
)  # fmt: skip
def test_links_out_of_docs_become_words(source: str, text: str, in_the_site: str) -> None:
    there = {"faq.md", "index.md", "studies.md", "changelog.md", "images/find.png"}
    assert hooks().site_links(text, source, there) == in_the_site


@pytest.mark.full
@pytest.mark.skipif(browser.chromium() is None, reason="no Chromium")
def test_in_a_browser_it_is_whole_and_searchable_without_a_network(site: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            with browser.launched() as chromium:
                page = chromium.new_page(viewport={"width": 400, "height": 800})
                elsewhere: list[str] = []
                page.on(
                    "request",
                    lambda request: (
                        None
                        if request.url.startswith((base, "data:", "blob:"))
                        else elsewhere.append(request.url)
                    ),
                )
                said: list[str] = []
                page.on("console", lambda message: said.append(message.text))
                for name in sorted(pages(site)):
                    page.goto(f"{base}/{name}")
                    wider = "document.documentElement.scrollWidth - innerWidth"
                    assert page.evaluate(wider) <= 0, name
                    broken = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
                    assert page.evaluate(broken) == [], name
                page.set_viewport_size({"width": 1300, "height": 900})
                page.goto(f"{base}/index.html")
                page.click(".md-search__input")
                page.keyboard.type("checkpoint")
                page.wait_for_selector(".md-search-result__link[href*='resume.html']")
                assert (elsewhere, said) == ([], [])
        finally:
            server.shutdown()
            thread.join()


# --- the commands ---------------------------------------------------------------------------------

TYPED = re.compile(r"^    \$ python -m lrlab\.(.+)\n((?:    (?!\$ ).*\n)*)", re.MULTILINE)
# In a sentence; one with nothing behind the verb, or that breaks off, names it only.
NAMED = re.compile(r"`python -m lrlab\.(\w+ [^`…]*)`()")
FEW = ("data.train_size=640", "data.val_size=200", "threads=1")
QUICK = (*FEW, "epochs=1", "plots=false", "diagnostics=off")


def commands(page: str, inline: bool = True) -> list[tuple[str, str]]:
    """What is typed on a page and what it shows below, in the order of the text."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [*TYPED.finditer(text), *(NAMED.finditer(text) if inline else ())]
    in_order = sorted(found, key=lambda match: match.start())
    assert len(TYPED.findall(text)) == text.count("    $ ")
    # what README says too is run by its test
    elsewhere = {word.removeprefix("python -m lrlab.") for word in COMMANDS}
    return [(m[1], m[2]) for m in in_order if m[1] not in elsewhere]


def run(typed: str, folder: Path) -> Ended:
    """A command on few images, and a tenth of a search's trials."""
    fewer = re.sub(r"n_trials=(\d+)0\b", r"n_trials=\1", typed)
    verb, *words = shlex.split(fewer)
    more: tuple[str, ...] = ()
    if verb == "find":
        more = (*FEW, "steps=20", "points=8")
    elif "--config-name" in words:
        more = ("threads=1", "plots=false")  # the rest is in the file
    elif verb == "sweep" and not words[0].startswith("--"):
        more = QUICK
        words = [re.sub(r"^(points|n_trials)=\d+", r"\1=2", word) for word in words]
    # in a page "analysis" is `python -m lrlab.analysis`, whose work `lrlab.analysis` does
    return command(import_module(VERBS[verb][0]).main, [*words, *more], folder)


def latest(folder: Path) -> str:
    sweeps = [f for f in (folder / "outputs").glob("*") if (f / "multirun.yaml").is_file()]
    return max(sweeps, key=lambda sweep: sweep.stat().st_mtime_ns).name


def walk(page: str, folder: Path, inline: bool = True) -> None:
    """Run what a page says, in its order: each ends well and begins its lines as printed there."""
    found = commands(page, inline)
    assert found
    for typed, printed in found:
        if "<sweep>" in typed:
            typed = typed.replace("<sweep>", latest(folder))
        ended = run(typed, folder)
        shown = printed.replace("\n    ", "\n").strip()
        if "now 5" in shown:
            assert (ended.code, ended.out, ended.err) == (2, "", shown + "\n")
            continue
        assert (ended.code, ended.err) == (0, ""), typed
        if typed.startswith("sweep lr=") and not re.search(r"\.\.|--|\[", typed):
            lists = [word.count(",") + 1 for word in typed.split()[1:]]
            assert len(rows(ended.out)) == math.prod(lists), typed
        for line in printed.splitlines():
            if first := re.match(r"    ([a-z]+:?) ", line):  # numbers differ with fewer images
                assert re.search(rf"^{first[1]} ", ended.out, re.MULTILINE), (typed, line)


def python_files(page: str) -> dict[str, str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    found = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(found) == text.count("```") / 2
    return found


@pytest.mark.full
def test_choosing_step_by_step(tmp_path: Path) -> None:
    own = dict(FILES)["nets.py"]
    (tmp_path / "nets.py").write_text(own, encoding="utf-8")
    try:
        walk("choosing.md", tmp_path, inline=False)
    finally:
        sys.modules.pop("nets", None)
    (file,) = python_files("choosing.md").items()
    (tmp_path / file[0]).write_text(file[1], encoding="utf-8")
    runpy.run_path(str(tmp_path / file[0]))


@pytest.mark.full
def test_getting_started_and_its_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk("getting-started.md", tmp_path)
    (file,) = python_files("getting-started.md").items()
    quick = 'name="from_python", epochs=1, data__train_size=640, data__val_size=200, threads=1'
    text = file[1].replace('name="from_python"', quick + ', plots=False, diagnostics="off"')
    assert quick in text
    (tmp_path / file[0]).write_text(text, encoding="utf-8")
    with chdir(tmp_path):
        runpy.run_path(file[0])
    assert (tmp_path / "curves.png").is_file()
    assert (tmp_path / "outputs" / "from_python" / "report.html").is_file()
    assert "finished" in capsys.readouterr().out


@pytest.mark.full
def test_resume_after_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's broken sweep is made here: its Ctrl-C comes at a known step."""

    def pressed(before: Any) -> Any:
        def gradients(self: Any, i: int) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.undo()
            return before(self, i)

        return gradients

    for kind in (plain.PlainStep, captured.CapturedStep):
        monkeypatch.setattr(kind, "gradients", pressed(kind.gradients))
    words = ["lr=0.01,0.03,0.1", "name=broken", *QUICK, "epochs=2"]
    ended = command(import_module("lrlab.sweep").main, words, tmp_path)
    text = (DOCS / "resume.md").read_text(encoding="utf-8")
    assert ended.code == 130 and ended.err
    assert all(f"    {line}\n" in text for line in ended.err.splitlines())
    walk("resume.md", tmp_path)


@pytest.mark.full
def test_answers_to_questions_that_name_a_command(tmp_path: Path) -> None:
    rows = "".join(f"{r},{lr},{s},{2.3 / (1 + lr * s)}\n" for r, lr in ((0, 0.1), (1, 1.0))
                   for s in range(20))  # fmt: skip
    (tmp_path / "curves.csv").write_text("run,lr,step,train_loss\n" + rows, encoding="utf-8")
    assert run("sweep lr=0.01,0.1 name=before", tmp_path).code == 0
    walk("faq.md", tmp_path)
    (file,) = python_files("faq.md").items()
    with chdir(tmp_path):
        exec(compile(file[1], file[0], "exec"), {})


def test_every_question_ends_so_and_has_an_answer() -> None:
    text = (DOCS / "faq.md").read_text(encoding="utf-8")
    asked = re.findall(r"^### (.*)\n\n(.+)$", text, re.MULTILINE)
    assert len(asked) == text.count("\n### ") >= 15
    assert all(question.endswith("?") and answer[-1] in ".,:" for question, answer in asked)


def test_the_order_of_the_pages() -> None:
    """mkdocs.yml has tags of Python, so only its nav is read."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load(text.partition("\nnav:")[2].partition("\n\n")[0])
    first, *groups = nav
    assert first == {"Start here": "index.md"}
    inside = [page for group in groups for pages in group.values() for page in pages]
    names = [name for page in inside for name in page.values()]
    assert len(names) == len(set(names)) and names[0] == "getting-started.md"


@pytest.mark.full
def test_the_program_with_a_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((name, text),) = python_files("own-loop.md").items()
    assert "range(1000)" in text
    (tmp_path / name).write_text(text.replace("range(1000)", "range(200)"), encoding="utf-8")
    page = (DOCS / "own-loop.md").read_text(encoding="utf-8")
    (lrs,) = re.findall(rf"^    \$ python {name} (.*)$", page, re.MULTILINE)
    monkeypatch.setattr(sys, "argv", [name, *lrs.split()])
    with chdir(tmp_path):
        runpy.run_path(name, run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said] == [f"lr={lr}" for lr in lrs.split()]
    ended = command(import_module("lrlab.analysis").main, ["runs/spirals"], tmp_path)
    assert (ended.code, ended.err) == (0, "") and "answer  lr=" in ended.out
