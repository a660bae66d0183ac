"""Draw several figures at once, in fresh processes that import no torch.

    with Drawing(folder) as drawing:
        drawing.add(("loss_curves", "heat_map"), tables)
        ...  # other work meanwhile
        drawn = drawing.wait()

The tables go to the processes through files in a temporary folder that only this user can read. A
process draws one figure after another: it reads a request as a line, and writes the result as one.
With only one core, this process draws everything.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from lrlab.errors import NotWritten
from lrlab.plots import leftovers
from lrlab.plots.tables import NAMES, Drawn, NothingToDraw, Tables

MOST = 4  # processes: to draw a figure takes half a second, to start a process a whole one

Answer = dict[str, Any]  # the result of a figure, see `attempt`

_START = "import sys; sys.path[:] = sys.argv[1:]; from lrlab.plots.drawing import main; main()"


class Drawing:
    """Draw figures into a folder. All its processes have ended when the block ends.

    Args:
        folder: where the figures go.
        formats: "png", "svg" or "pdf".
        free: how many cores are free to draw; below 1 this process draws everything.

    Attributes:
        processes: the most that draw at once; 0: only this one.
    """

    def __init__(self, folder: Path, formats: Sequence[str] = ("png",), free: int = 1) -> None:
        self.folder, self.formats = folder, list(formats)
        self.processes = max(0, min(free, MOST))
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._idle: list[subprocess.Popen[str]] = []
        self._started: list[subprocess.Popen[str]] = []
        self._closed = False
        self._threads = ThreadPoolExecutor(max(1, self.processes), "lrlab-drawing")
        self._answers: dict[str, Future[Answer] | Answer] = {}
        self._handed: dict[int, tuple[Any, str]] = {}  # each table by its id, and its file

    def __enter__(self) -> Drawing:
        # a process may still read from the folder when it is removed
        self._files = tempfile.TemporaryDirectory(prefix="lrlab-", ignore_cleanup_errors=True)
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._started:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._started:
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with contextlib.suppress(OSError):  # the last request is still in the pipe
                    stream.close()
            process.wait()
        self._files.cleanup()
        if error[0] is not None and self._started:
            with contextlib.suppress(NotWritten):
                leftovers.remove(self.folder, (), ())  # left by killed processes

    def add(self, names: Sequence[str], tables: Tables) -> None:
        """Request these figures of the tables."""
        handed: Mapping[str, str] | None = None
        if self.processes:
            with contextlib.suppress(OSError):  # if the disk is full, this process draws
                handed = self._hand_over(tables)
        for name in names:
            if handed is None:
                self._answers[name] = attempt(name, tables, self.folder, self.formats)
            else:
                self._answers[name] = self._threads.submit(self._ask, name, tables, handed)

    def wait(self) -> Drawn:
        """Wait for all requested figures; return their results in the order of `NAMES`.

        If every figure was requested, also remove older pictures, in these formats, of those that
        were not drawn now, and the parts of pictures from killed writers.
        """
        paths: list[Path] = []
        left_out: dict[str, str] = {}
        failed: dict[str, str] = {}
        unwritten: NotWritten | None = None
        for name in sorted(self._answers, key=NAMES.index):
            answer = self._answers[name]
            answer = answer.result() if isinstance(answer, Future) else answer
            paths += map(Path, answer.get("paths", ()))
            if "left_out" in answer:
                left_out[name] = answer["left_out"]
            elif "failed" in answer:
                failed[name] = answer["failed"]
            elif "file" in answer:
                error = NotWritten(answer["file"], OSError(answer["number"], answer["reason"]))
                unwritten = unwritten or error
        if set(self._answers) == set(NAMES):
            written = {path.stem for path in paths}
            stale = [name for name in NAMES if name not in written]
            try:
                leftovers.remove(self.folder, stale, self.formats)
            except NotWritten as error:
                unwritten = unwritten or error
        return Drawn(paths, left_out, failed, unwritten)

    def _hand_over(self, tables: Tables) -> dict[str, str]:
        """Return each table's file, by the table's name; written once, for all figures."""
        files = {}
        for one in fields(tables):
            table = getattr(tables, one.name)
            if id(table) not in self._handed:
                file = Path(self._files.name) / str(len(self._handed))
                with file.open("wb") as out:
                    pickle.dump(table, out, pickle.HIGHEST_PROTOCOL)
                self._handed[id(table)] = table, str(file)  # kept, so that no other gets its id
            files[one.name] = self._handed[id(table)][1]
        return files

    def _ask(self, name: str, tables: Tables, handed: Mapping[str, str]) -> Answer:
        """Let an idle process, or a new one, draw a figure."""
        try:
            process = self._take()
        except OSError:  # none can be started
            with self._alone:
                return attempt(name, tables, self.folder, self.formats)
        if process is None:
            return {}
        folder = str(self.folder.absolute())
        wanted = {"name": name, "tables": handed, "folder": folder, "formats": self.formats}
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(wanted) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            return {"failed": _end(process.wait(), self._said(process))}
        with self._lock:
            self._idle.append(process)
        answer: Answer = json.loads(line)
        answer["paths"] = [self.folder / file for file in answer.get("paths", ())]
        return answer

    def _take(self) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()
            said = Path(self._files.name) / f"stderr-{len(self._started)}"
            with said.open("wb") as stderr:
                # With -m the process would import from the current folder, which may be another's
                # sweep. In a session of its own, it does not receive this terminal's Ctrl-C.
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _START, *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    encoding="utf-8",
                    start_new_session=True,
                )
            self._started.append(process)
            return process

    def _said(self, process: subprocess.Popen[str]) -> str:
        file = Path(self._files.name) / f"stderr-{self._started.index(process)}"
        lines = file.read_text("utf-8", errors="replace").split("\n") if file.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def attempt(name: str, tables: Tables, folder: Path, formats: Sequence[str]) -> Answer:
    """Draw one figure; return paths, or left_out, or failed, or file, reason and number."""
    from lrlab.plots import writing

    try:
        return {"paths": writing.written(name, writing.figure(name, tables), folder, formats)}
    except NothingToDraw as reason:
        return {"left_out": str(reason)}
    except NotWritten as error:
        return {"file": error.file, "reason": error.reason, "number": error.number}
    except Exception as error:  # an error in one figure spoils no other
        return {"failed": described(error)}


def described(error: Exception) -> str:
    """Return an unexpected error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _end(code: int, said: str) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with {code}{f' ({said})' if said else ''}"


# --- in a process that draws ----------------------------------------------------------------------


def main() -> None:
    """Draw the figures that are named on stdin, a line each, until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # send what libraries print to stderr
    from lrlab.plots import writing

    assert writing  # import before the first request
    for line in sys.stdin:
        wanted = json.loads(line)
        tables = Tables(**{name: _table(file) for name, file in wanted["tables"].items()})
        folder = Path(wanted["folder"])
        answer = attempt(wanted["name"], tables, folder, wanted["formats"])
        answer["paths"] = [path.name for path in answer.get("paths", ())]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


@functools.cache
def _table(file: str) -> Any:
    with open(file, "rb") as table:
        return pickle.load(table)


if __name__ == "__main__":
    main()
