"""Processes of lrlab that start at once: forked from one that has imported all it needs.

A test can kill them, at a moment of its own or at their n-th change of the disk, and see what they
left.
Forked from pytest itself they would inherit its threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DATA = ("data.train_size=128", "data.val_size=100")  # is loaded already

# What a sweep is at, by the file that it writes.
TRAINING, TELLING, WRITING, PLOTTING = PHASES = "training", "telling", "writing", "plotting"

KILL, TEAR = "kill", "tear"


@dataclass(frozen=True)
class Moment:
    """The n-th change of the disk in a phase, counted from 1, and what happens then.

    Attributes:
        do: ``KILL`` the process just before it, ``TEAR``: with half of the file written; else
            Python to run.
    """

    phase: str
    at: int
    do: str = KILL


@dataclass(frozen=True)
class Done:
    """How a process ended.

    Attributes:
        code: its exit code; of one that was killed minus the signal's number.
        changes: how many times it changed the disk, by phase; empty where it was killed.
    """

    code: int
    out: str
    err: str
    changes: dict[str, int]


class Process:
    """A process that runs."""

    def __init__(self, server: Server, pid: int, files: Path) -> None:
        self.server, self.pid, self.files = server, pid, files
        self.done: Done | None = None

    def kill(self, number: int = signal.SIGKILL) -> None:
        # until it is waited for its number is nobody else's
        os.kill(self.pid, number)

    def until_lines(self, count: int, seconds: float = 120) -> None:
        """Wait until it has printed so many lines, or ended."""
        end = time.monotonic() + seconds
        out = self.files.with_suffix(".out")
        while not (out.exists() and out.read_text("utf-8").count("\n") >= count):
            if self.ended():
                return
            assert time.monotonic() < end
            time.sleep(0.002)

    def ended(self) -> bool:
        return self.done is not None or self.server.ended(self.pid)

    def wait(self) -> Done:
        if self.done is None:
            self.done = self._wait()
        return self.done

    def _wait(self) -> Done:
        code = self.server.ask({"wait": self.pid})["code"]
        out, err = (self.files.with_suffix(f".{end}").read_text("utf-8") for end in ("out", "err"))
        count = self.files.with_suffix(".changes")
        return Done(code, out, err, json.loads(count.read_text()) if count.exists() else {})


class Server:
    """Starts them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(
        self,
        module: str,
        *arguments: str,
        cwd: Path,
        at: Moment | None = None,
        prepare: str = "",
        **environment: str,
    ) -> Process:
        """Start ``python -m module arguments``.

        Args:
            at: when to do something, and what.
            arguments: of an option that is given twice, as besides a list for all, the last counts.
            prepare: Python that the process runs first.
        """
        from helpers.commands import last_words

        self.count += 1
        files = self.folder / str(self.count)
        wanted = {
            "module": module,
            "arguments": last_words(arguments),
            "cwd": str(cwd),
            "at": at and asdict(at),
            "prepare": prepare,
            "files": str(files),
            "environment": environment,
        }
        return Process(self, self.ask(wanted)["pid"], files)

    def run(self, module: str, *arguments: str, **how: Any) -> Done:
        return self.start(module, *arguments, **how).wait()

    def ended(self, pid: int) -> bool:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "ZX"

    def ask(self, wanted: Mapping[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


# --- in the server --------------------------------------------------------------------------------


def _serve() -> None:
    import importlib

    for name in ("resume", "reproduce", "analysis", "study.queue", "plan.best"):
        importlib.import_module(f"lrlab.{name}")
    for name in ("sweeping.sweeper", "probes.landscape", "probes.branches"):
        importlib.import_module(f"lrlab.{name}")
    for name in ("verdicts.printed.sweep_table", "verdicts.recommend", "report.page"):
        importlib.import_module(f"lrlab.{name}")
    for name in ("plots.writing", "plots.drawing"):
        importlib.import_module(f"lrlab.{name}")
    for name in ("optuna.samplers", "optuna.storages.journal", "torch", "hydra.utils", "filelock"):
        importlib.import_module(name)
    _warm_up()
    for line in sys.stdin:
        wanted = json.loads(line)
        if "wait" in wanted:
            status = os.waitpid(wanted["wait"], 0)[1]
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if not pid:
                _become(wanted)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _warm_up() -> None:
    """Fill the caches of Hydra's parser and of the data; nothing that starts a thread."""
    import contextlib
    import io

    import torch
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from lrlab import sweep
    from lrlab.plan import build

    torch.set_num_threads(1)
    # All are sweeps; Hydra would compose the whole config once more to find that out.
    Hydra.get_mode = lambda *_, **__: RunMode.MULTIRUN
    sys.argv = ["lrlab", "--cfg", "job", *DATA, "lr=0.1", 'name="x"', "optimizer=adam"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        sweep.main()
    GlobalHydra.instance().clear()
    os.environ.pop("HYDRA_FULL_ERROR", None)
    node = OmegaConf.to_container(OmegaConf.create(shown.getvalue()).data)
    build._load_data(json.dumps(node, sort_keys=True), build._files_of(node))


def _become(wanted: Mapping[str, Any]) -> None:
    import importlib
    import traceback

    files, code = Path(wanted["files"]), 0
    os.setsid()
    for number, end in ((0, None), (1, "out"), (2, "err")):
        file = os.devnull if end is None else str(files.with_suffix(f".{end}"))
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    try:
        os.chdir(wanted["cwd"])
        os.environ |= wanted["environment"]
        sys.path[0] = wanted["cwd"]
        sys.argv = [wanted["module"], *wanted["arguments"]]
        watch = _Watch(wanted["at"], Path(wanted["cwd"], "outputs"))
        exec(wanted["prepare"], {})
        try:
            importlib.import_module(wanted["module"]).main()
        finally:
            files.with_suffix(".changes").write_text(json.dumps(watch.counts))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# What changes a disk, as Python's own audit events tell it just before it is done.
_OPENS, _MOVES = "open", "os.rename"
_CHANGES = {_OPENS, _MOVES, "os.remove", "os.mkdir", "os.rmdir"}
_TO_WRITE = os.O_WRONLY | os.O_RDWR


class _Watch:
    """Sees each change below the outputs folder, and does at one of them what is asked for.

    So a test needs no clock, and the moment does not hang on how lrlab is written.
    """

    def __init__(self, wanted: Mapping[str, Any] | None, outputs: Path) -> None:
        self.wanted, self.outputs = wanted or {}, f"{outputs}{os.sep}"
        self.counts: dict[str, int] = {}
        self.writing: tuple[str, int] | None = None  # the file that was opened last, and its size
        self.tears = self.inside = False
        self.pid = os.getpid()
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES or self.inside or os.getpid() != self.pid:
            return
        if event == _OPENS and not (isinstance(arguments[2], int) and arguments[2] & _TO_WRITE):
            return
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        file = os.path.abspath(os.fsdecode(arguments[0]))
        if file.startswith(self.outputs) and not (event == _OPENS and os.path.isdir(file)):
            self.inside = True
            try:
                self.change(file, event == _OPENS)
            finally:
                self.inside = False

    def change(self, file: str, opens: bool) -> None:
        if self.tears:
            assert self.writing is not None
            half_done, before = self.writing
            size = os.path.getsize(half_done)
            os.truncate(half_done, before + (size - before) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        phase = _phase(file.removeprefix(self.outputs).split(os.sep)[1:])
        self.counts[phase] = self.counts.get(phase, 0) + 1
        if opens:
            self.writing = file, os.path.getsize(file) if os.path.exists(file) else 0
        if phase != self.wanted.get("phase") or self.counts[phase] != self.wanted["at"]:
            return
        if self.wanted["do"] == TEAR and opens:
            self.tears = True
        elif self.wanted["do"] in (TEAR, KILL):
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            exec(self.wanted["do"], {})


def _phase(parts: list[str]) -> str:
    """What a sweep is at when it writes a file, given by its parts below the sweep's folder."""
    first = parts[0] if parts else ""
    if first.startswith("study.journal") or first.endswith(".alive"):
        return TELLING
    if first.isdecimal():
        return TRAINING
    return PLOTTING if first == "plots" or "report.html" in first else WRITING


if __name__ == "__main__":
    _serve()
