"""A database's password in ``storage=``: no file, no message and no child's command line has it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import Ended, command
from helpers.postgres import PASSWORD, QUOTED, Server, postgres, postgres_url
from helpers.warm import DATA

from lrlab import plots, resume
from lrlab.config import passwords
from lrlab.plots import drawing
from lrlab.sweep import main

pytestmark = pytest.mark.full

__all__ = ["postgres", "postgres_url"]  # fixtures

SECRET = "s3cret"  # how it begins, quoted or not
assert PASSWORD.startswith(SECRET) and QUOTED.startswith(SECRET)
TINY = (*DATA, "epochs=1", "threads=1", "network.hidden=[8]", "plots=false", "diagnostics=off")


def assert_nowhere(folder: Path, ended: Ended) -> None:
    """That the password is in nothing that was printed, and in no file below the folder."""
    assert SECRET not in ended.out + ended.err
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file
        assert SECRET not in file.name


def raw(url: str) -> str:
    return url.replace(QUOTED, PASSWORD.replace("%", "%25"))


def place(url: str) -> str:
    return url.rpartition("@")[2]


def in_query(url: str) -> str:
    return f"postgresql://lrlab@{place(url)}?password={QUOTED}"


@pytest.mark.parametrize(
    ("form", "again"),
    [
        (lambda url: f"storage={raw(url)}", True),  # with braces, which Hydra does not read
        (lambda url: f'++storage="{in_query(url)}"', True),
        # where a variable or a file has the password, nothing else is needed to go on
        (lambda url: "storage=${oc.env:SWEEPS}", False),
        (lambda url: "+experiments=mine", False),
    ],
    ids=["as-is", "query", "env", "file"],
)
def test_no_record_and_no_line_has_the_password(
    form: Callable[[str], str],
    again: bool,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, configs = tmp_path / "home", tmp_path / "configs"
    home.mkdir()
    (configs / "experiments").mkdir(parents=True)
    (configs / "experiments" / "mine.yaml").write_text(
        f"# @package _global_\nstorage: '{postgres_url}'\n"
    )
    monkeypatch.setenv("SWEEPS", postgres_url)
    typed = form(postgres_url)
    ended = command(main, [f"--config-dir={configs}", *TINY, typed, "lr=0.1,0.2", "name=x"], home)
    assert (ended.code, ended.err) == (0, "")
    sweep = home / "outputs" / "x"
    assert (sweep / "1" / ".hydra" / "hydra.yaml").is_file() and (sweep / "best.yaml").is_file()
    assert_nowhere(home, ended)
    ended = command(
        resume.main, ["outputs/x", "trust=true", *[typed] * again, "lr=0.1,0.2,0.3"], home
    )
    assert ended.code == 0, ended
    assert (sweep / "2" / "summary.json").is_file()
    assert_nowhere(home, ended)


def test_no_child_is_started_with_the_password(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (plots, drawing):
        monkeypatch.setattr(module, "NAMES", ("loss_curves", "textbook"))  # enough to start one
    monkeypatch.setattr(plots, "OF_LANDSCAPE", ("textbook",))
    seen, done = set[bytes](), threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            for listed in Path("/proc/self/task").glob("*/children"):
                with contextlib.suppress(OSError):  # a thread or a process that has just ended
                    for pid in listed.read_text().split():
                        seen.add(Path("/proc", pid, "cmdline").read_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        drawn = [word for word in TINY if word != "plots=false"]
        typed = [*drawn, f"storage={postgres_url}", "lr=0.1,0.2", "name=x", "workers=2"]
        ended = command(main, typed, tmp_path)
    finally:
        done.set()
        watcher.join()
    assert ended.code == 0, ended
    assert any(b"lrlab" in line for line in seen)
    assert not any(SECRET.encode() in line for line in seen)
    assert (tmp_path / "outputs" / "x" / "report.html").is_file()
    assert_nowhere(tmp_path, ended)


def test_no_launchers_files_have_the_password(postgres_url: str, tmp_path: Path) -> None:
    launcher = "hydra/launcher=submitit_local"  # which pickles what it is given
    typed = [*TINY, f"storage='{raw(postgres_url)}'", "lr=0.1", launcher]
    ended = command(main, [*typed, "name=x"], tmp_path)
    assert ended.code == 0, ended
    assert_nowhere(tmp_path, ended)


@pytest.mark.parametrize(
    "typed",
    [
        "storage=postgresql://u:s3cret@h:port/db",
        "storage=Postgresql://u:s3cret@h/db",
        "storage=nosql://u:s3cret@h/db",
        "storage=postgresql://u:s3cret{@127.0.0.1:9/db",
        "storage=postgresql://u@127.0.0.1:9/db?password=s3cret",
        "storage=postgresql://u:p,s3cret@127.0.0.1:9/db",
        "storage=[postgresql://u:s3cret@h/db]",
        "storage=postgresql://u:s3cret@127.0.0.1:9/db lr=}",
        "storage=postgresql://u:s3cret@127.0.0.1:9/db nosuch=1",
        "storage=postgresql://u:s3cret@127.0.0.1:9/db --cfg=job",
    ],
)
def test_no_refusal_says_the_password(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # Hydra's own words and ours
    try:
        ended = command(main, [*TINY, *typed.split()], tmp_path)
    except Exception as error:
        ended = Ended(1, "", f"{error!r} {error.__cause__!r} {error.__context__!r}")
    assert ended.out or ended.err
    assert_nowhere(tmp_path, ended)


@pytest.mark.parametrize(("key", "says"), [("storag", "storage?"), ("lr", "u:***@h")])
def test_a_line_about_another_option_shows_no_password(key: str, says: str, tmp_path: Path) -> None:
    ended = command(main, [*TINY, f"{key}=postgresql://u:s3cret@h/db"], tmp_path)
    assert ended.code == 2 and says in ended.err
    assert_nowhere(tmp_path, ended)


def test_a_driver_that_repeats_the_password_is_not_quoted(postgres: Server) -> None:
    url = "postgresql://u:a%2Fs3cret+x@h/db?sslpassword=other%20s3cret"
    for text in ("a%2Fs3cret+x", "a/s3cret+x", "other s3cret", "other%20s3cret"):
        assert text in passwords.secrets(url)
