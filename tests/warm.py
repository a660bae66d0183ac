"""Processes of lrlab that start at once: forked from one that has imported all it needs.

A test can kill them, at a moment of its own or at their n-th write, and see what they left.
Forked from pytest itself they would inherit its threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = ("data.train_size=128", "data.val_size=100")  # is loaded already


@dataclass(frozen=True)
class Done:
    """How a process ended.

    Attributes:
        code: its exit code; of one that was killed minus the signal's number.
        writes: how many times it wrote a record; 0 where it did not come to its end.
    """

    code: int
    out: str
    err: str
    writes: int


class Process:
    """A process that runs."""

    def __init__(self, server: Server, pid: int, files: Path) -> None:
        self.server, self.pid, self.files = server, pid, files

    def kill(self, number: int = signal.SIGKILL) -> None:
        # until it is waited for its number is nobody else's
        os.kill(self.pid, number)

    def until_lines(self, count: int, seconds: float = 120) -> None:
        """Wait until it has printed so many lines, or ended."""
        end = time.monotonic() + seconds
        out = self.files.with_suffix(".out")
        while not (out.exists() and out.read_text("utf-8").count("\n") >= count):
            if self.server.ended(self.pid):
                return
            assert time.monotonic() < end
            time.sleep(0.002)

    def wait(self) -> Done:
        code = self.server.ask({"wait": self.pid})["code"]
        out, err = (self.files.with_suffix(f".{end}").read_text("utf-8") for end in ("out", "err"))
        count = self.files.with_suffix(".writes")
        return Done(code, out, err, int(count.read_text()) if count.exists() else 0)


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
        crash: tuple[int, bool] | None = None,
        prepare: str = "",
        **environment: str,
    ) -> Process:
        """Start ``python -m module arguments``.

        Args:
            crash: be killed at this write, counted from 1; before it, or (True) with half of it
                done.
            prepare: Python that the process runs first.
        """
        self.count += 1
        files = self.folder / str(self.count)
        wanted = {
            "module": module,
            "arguments": arguments,
            "cwd": str(cwd),
            "crash": crash,
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

    for name in ("search", "study", "resume", "reproduce", "analysis", "table", "plots", "best"):
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
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from lrlab import plan, sweep

    torch.set_num_threads(1)
    sys.argv = ["lrlab", "--cfg", "job", *DATA, "lr=0.1", 'name="x"', "optimizer=adam"]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        sweep.main()
    GlobalHydra.instance().clear()
    os.environ.pop("HYDRA_FULL_ERROR", None)
    node = OmegaConf.to_container(OmegaConf.create(shown.getvalue()).data)
    plan._load_data(json.dumps(node, sort_keys=True), plan._files_of(node))


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
        written = _count_writes(wanted["crash"])
        exec(wanted["prepare"], {})
        try:
            importlib.import_module(wanted["module"]).main()
        finally:
            files.with_suffix(".writes").write_text(str(len(written)))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _count_writes(crash: tuple[int, bool] | None) -> list[str]:
    """Count what writes to the disk, and end the process at the one that is asked for."""
    from lrlab import checkpoints, records, storage

    written: list[str] = []
    last, torn = crash or (0, False)

    def counted(module: Any, name: str, half: Callable[..., Any]) -> None:
        whole = getattr(module, name)

        def write(*arguments: Any) -> Any:
            written.append(name)
            if len(written) != last:
                return whole(*arguments)
            if torn:
                half(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, name, write)

    def half_beside(file: Path, text: str) -> None:
        file.with_name(f".{file.name}.0.tmp").write_text(text[: len(text) // 2])

    def half_appended(file: Path, text: str) -> None:
        with file.open("a") as stream:
            stream.write(text[: len(text) // 2])

    def half_journal(file: Path, lines: bytes) -> None:
        with file.open("ab") as stream:
            stream.write(lines[: len(lines) * 2 // 3])  # some lines whole, one not

    counted(records, "write_whole", half_beside)
    counted(records, "_append", half_appended)
    counted(records, "make_folder", records.make_folder)
    counted(storage, "_append_whole", half_journal)
    counted(checkpoints, "save", checkpoints.save)
    counted(checkpoints, "drop", checkpoints.drop)
    return written


if __name__ == "__main__":
    _serve()
