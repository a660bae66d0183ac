"""Where a queue is kept: what does not fit, a damaged journal, and URLs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import optuna
import pytest
from helpers.studies import (
    PRUNERS,
    SAMPLERS,
    Opener,
    finish,
    grid,
    pool,
    search,
    states,
    take,
    take_all,
)

from lrlab.config.passwords import masked
from lrlab.errors import NotWritten, UserError

pytestmark = pytest.mark.unit


# --- what does not fit ----------------------------------------------------------------------------


def test_a_study_of_the_other_direction_is_refused(opened: Opener) -> None:
    opened(grid(lr="1"), "new")
    with pytest.raises(UserError, match=r"^objective=val_acc: is to be maximized, but the"):
        opened(grid(lr="1"), direction="maximize", settings={"objective": "val_acc"})


def test_other_settings_are_listed(opened: Opener) -> None:
    settings = {"epochs": 3, "optimizer": {"momentum": 0.9, "nesterov": False}, "data": "mnist"}
    opened(grid(lr="1"), "new", settings=settings)
    opened(grid(lr="1"), "resume", settings=json.loads(json.dumps(settings)))
    other = {"epochs": 5, "optimizer": {"momentum": 0.9, "nesterov": True}, "loss": None}
    with pytest.raises(UserError) as caught:
        opened(grid(lr="1"), "resume", settings=other)
    assert str(caught.value) == (
        "name=sweep: was made with other settings: epochs=3 (now 5), "
        "optimizer.nesterov=False (now True), data=mnist (now not given), "
        "loss=not given (now None); keep them as they were, or begin another sweep"
    )


def test_new_must_not_be_there_and_resume_must(opened: Opener) -> None:
    with pytest.raises(UserError, match=r"is not there, so there is nothing to resume"):
        opened(grid(lr="1"), "resume")
    assert not opened.journal.exists()
    opened(grid(lr="1"), "new")
    with pytest.raises(UserError, match=r"^name=sweep: the storage has such a sweep already"):
        opened(grid(lr="1"), "new")
    opened.journal.with_name("empty").touch()
    with pytest.raises(UserError, match=r"^name=sweep: there is no such sweep in the storage"):
        opened(grid(lr="1"), "resume", journal=opened.journal.with_name("empty"))


@pytest.mark.default
def test_a_creator_that_died_at_any_write_is_completed(opened: Opener, tmp_path: Path) -> None:
    space = grid(lr="1,2,3")
    opened.close(opened(space, "new"))
    lines = opened.journal.read_bytes().splitlines(keepends=True)
    for end in range(len(lines)):
        journal = tmp_path / f"{end}"
        journal.write_bytes(b"".join(lines[:end]))
        queue = opened(space, "join", journal=journal)
        assert [trial.overrides["lr"] for trial in take_all(queue)] == ["1", "2", "3"]


# --- the journal ----------------------------------------------------------------------------------


def test_a_torn_line_is_cut_off_before_the_next_is_written(opened: Opener) -> None:
    queue = opened(grid(lr="1,2"), "new")
    with opened.journal.open("ab") as stream:
        stream.write(b'{"op_code":6,"trial')
    assert finish(queue) == [0, 1]
    opened.close(queue)
    for line in opened.journal.read_bytes().splitlines():
        json.loads(line)
    assert states(opened(grid(lr="1,2"), "resume")) == {0: "finished", 1: "finished"}


def test_a_torn_first_line_is_cut_off(opened: Opener) -> None:
    opened.journal.write_bytes(b'{"op_code":0,"wor' + 5000 * b"x")
    assert finish(opened(grid(lr="1"), "join")) == [0]


def test_a_full_disk_is_told_and_leaves_a_whole_journal(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = opened(grid(lr="1,2"), "new")
    trial = take(queue)
    whole = opened.journal.read_bytes()
    really = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return really(descriptor, data[: len(data) - 15])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NotWritten, match=r"study.journal: cannot be written .No space left"):
        queue.tell(trial.number, "finished", 1.0)
    monkeypatch.undo()
    assert opened.journal.read_bytes() == whole
    assert queue.tell(trial.number, "finished", 1.0)
    assert finish(queue) == [1]


def test_a_journal_that_cannot_be_made_is_told(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match=r"cannot be written"):
        opened(grid(lr="1"), "new", journal=tmp_path / "no" / "such" / "folder")


def test_the_journal_is_never_written_without_its_lock(opened: Opener) -> None:
    queue = opened(grid(lr="1"), "new")
    with pytest.raises(RuntimeError, match=r"without its lock"):
        queue._study.storage.set_study_user_attr(queue._study.id, "a", 1)


def test_optuna_itself_can_read_the_journal(opened: Opener, tmp_path: Path) -> None:
    finish(queue := opened(search(), "new"), 0.5)
    opened.close(queue)
    copied = shutil.copy(opened.journal, tmp_path / "copy")
    backend = optuna.storages.journal.JournalFileBackend(str(copied))
    loaded = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [trial.value for trial in loaded.trials] == [0.5] * 6
    assert all(trial.params.keys() == {"lr"} for trial in loaded.trials)


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("journal", "journal"),
        ("postgresql://u:pw@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://h:5432/db", "postgresql://h:5432/db"),
        ("postgresql://u:p/w@:?x{%@h:1/db", "postgresql://u:***@h:1/db"),
        ("postgresql://u:pw@h/db?sslmode=require", "postgresql://u:***@h/db?sslmode=require"),
        ("postgresql://u@h/db?password=p@w&a=b", "postgresql://u@h/db?password=***&a=b"),
        ("postgresql://h/db?user=u&sslpassword=pw", "postgresql://h/db?user=u&sslpassword=***"),
        ("postgresql+psycopg://u:pw@/db?host=/run", "postgresql+psycopg://u:***@/db?host=/run"),
        ("u:pw@h/db", "u:***@h/db"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("postgresql://u:p?a=b@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:p?a=b@h/db?sslmode=require", "postgresql://u:***@h/db?sslmode=require"),
        ("postgresql://h:5432/db?user=a@b", "postgresql://h:5432/db?user=a@b"),
        ("postgresql://[::1]:5432/db?user=a@b", "postgresql://[::1]:5432/db?user=a@b"),
        ("sqlite+pysqlcipher://:pw@/x.db", "sqlite+pysqlcipher://:***@/x.db"),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("foo", "must be journal, or a database's URL"),
        ("secret:secret@host/db", "must be journal, or a database's URL"),
        ("postgresql://u:secret@h:port/db", "must be journal, or a database's URL"),
        ("nosql://u:secret@h/db", "there is no database of this kind"),
        ("mysql://u:secret@h/db", "its driver is not installed; pip install 'pymysql'"),
        ("sqlite://", "a database in memory ends with its process; name a file"),
    ],
)
def test_a_wrong_storage_is_told_in_one_line(opened: Opener, url: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        opened(grid(lr="1"), storage=url)
    line = str(caught.value)
    assert line.startswith(f"storage={masked(url)}: ") and says in line
    assert len(line.splitlines()) == 1 and "secret@" not in line


@pytest.mark.default
def test_a_database_in_a_file_works_as_well(opened: Opener, tmp_path: Path) -> None:
    space, url = search(seeds="0,1"), f"sqlite:///{tmp_path}/sweeps.db"
    options = {"sampler": SAMPLERS["tpe"], "pruner": PRUNERS["asha"], "n_trials": 6}
    pool(queue := opened(space, storage=url, **options))
    expected = queue.trials()
    assert {"finished", "pruned"} <= {run.state for run in expected}
    pool(other := opened(space, **options))
    assert other.trials() == expected  # wherever it is kept
