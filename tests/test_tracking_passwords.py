"""A tracking server's password: no file and no message has it, and the tracker gets it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.commands import command
from helpers.warm import DATA

from lrlab import tracking
from lrlab.config import passwords
from lrlab.find import main as find
from lrlab.sweep import main

SECRET = "s3cret"
URI = f"http://bob:{SECRET}@127.0.0.1:9/x"
TINY = (*DATA, "epochs=1", "threads=1", "network.hidden=[8]", "plots=false", "diagnostics=off")
MINE = """\
from pathlib import Path
class Mine:
    def __init__(self, sweep, uri=None):
        self.uri = uri
    def log(self, news):
        Path({told!r}).write_text(str(self.uri))
        raise RuntimeError("cannot reach " + str(self.uri))
    def close(self):
        pass
"""


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    "form", [f"tracking.uri={URI}", f'++tracking.uri="{URI}"', "tracking.uri=${oc.env:SERVER}"]
)
def test_no_record_and_no_line_has_a_trackers_password(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER", URI)
    told, home = tmp_path / "told", tmp_path / "home"
    home.mkdir()
    name = f"tracks_{abs(hash(form))}"
    (home / f"{name}.py").write_text(MINE.format(told=str(told)), "utf-8")
    monkeypatch.syspath_prepend(str(home))
    plus = form if form.startswith("+") else f"+{form}"
    words = [*TINY, "lr=0.1,0.2", "name=x", f"tracking._target_={name}.Mine", plus]
    ended = command(main, words, home)
    assert ended.code == 0, ended.err
    assert told.read_text("utf-8") == URI
    assert "cannot reach http://bob:***@127.0.0.1:9/x" in ended.err
    assert SECRET not in ended.out + ended.err and passwords.TRACKING not in os.environ
    for file in (home / "outputs").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (URI, "http://bob:***@127.0.0.1:9/x"),
        ("postgresql://bob:s3cr/et@h/db", "postgresql://bob:***@h/db"),
        ("http://h:5000/a@b", "http://h:5000/a@b"),
        ("/data/a:b@c/mlruns", "/data/a:b@c/mlruns"),
        ("file:///data/a:b@c", "file:///data/a:b@c"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
        ("databricks", "databricks"),
    ],
)
def test_only_a_password_is_masked(uri: str, shown: str) -> None:
    assert passwords.masked_tracking(uri) == shown


def test_a_trackers_error_repeats_no_credentials(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    tracking.Tracker(None)._give_up(None, RuntimeError(f"{URI} refuses t0ken"))
    told = capsys.readouterr().err
    assert "http://bob:***@127.0.0.1:9/x refuses ***" in told


def test_a_database_that_does_not_answer_ends_tracking_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    psycopg = pytest.importorskip("psycopg")
    tried = []

    def refuse(*given: object, **more: object) -> None:
        tried.append(given)
        raise psycopg.OperationalError("refused")

    monkeypatch.setattr(psycopg, "connect", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    sink = tracking.MLflow(tmp_path, "postgresql+psycopg://bob@127.0.0.1:9/x")
    with pytest.raises(Exception, match="refused"):
        sink._client()
    assert len(tried) == 1


@pytest.mark.parametrize("where", ["words", "file"])
def test_find_writes_and_prints_no_password_either(where: str, tmp_path: Path) -> None:
    database = f"postgresql://bob:{SECRET}@127.0.0.1:1/none"
    tiny = [word for word in TINY if word not in ("epochs=1", "diagnostics=off")]
    words = [*tiny, "lr=0.01..1", "points=2", "steps=10", "name=x"]
    if where == "words":
        words += [f"storage={database}", f"tracking.uri={URI}", "tracking=mlflow"]
    else:
        (tmp_path / "my.yaml").write_text(f"defaults: [config, _self_]\nstorage: {database}\n")
        words += ["--config-dir", str(tmp_path), "--config-name", "my"]
    ended = command(find, words, tmp_path)
    assert SECRET not in ended.out + ended.err
    if where == "words":  # which only a sweep uses
        assert ended.code == 2 and "bob:***@127.0.0.1:1/none\": only a sweep uses it" in ended.err
        return
    assert ended.code in (0, 1) and ended.out, ended.err
    folder = tmp_path / "outputs" / "x"
    assert "bob:***@127.0.0.1:1/none" in (folder / "config.yaml").read_text("utf-8")
    for file in folder.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
