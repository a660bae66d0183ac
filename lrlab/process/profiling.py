"""Record with ``profile=true`` where the time goes, as traces for Perfetto and TensorBoard.

Only short windows are recorded, so that traces of long sweeps stay small: some steps after the
start, after a segment's end, when records are written, and after an epoch's end. The decorator
`phase` marks functions that are phases of training: in the trace, a bar of that name is over the
operations (and on a GPU the kernels) that they call. No phase may be called while operations are
captured, because the bar would be captured, too. Profiling changes no number of a run except its
timings, which include the profiler.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch.profiler import profile

PREFIX = "lrlab: "  # of the phases' names in a trace
FIRST = 3  # steps before the first window
STEPS = 20  # steps in it
BEHIND = 5  # steps in a later window
SECONDS = 5.0  # after which a window ends with its step
SUFFIX = ".pt.trace.json.gz"  # TensorBoard looks for this ending

STEP = "gradients"  # the phase with which a step begins
# The phases with which the later windows begin.
ENDS = {"record": "segment_end", "evaluate": "epoch_end"}

P = ParamSpec("P")
R = TypeVar("R")


def phase(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as a phase of training; without profiling it costs next to nothing."""

    def made(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def named(*arguments: P.args, **keywords: P.kwargs) -> R:
            if _recorder is None:
                return function(*arguments, **keywords)
            with _recorder.phase(name):
                return function(*arguments, **keywords)

        return named

    return made


@contextlib.contextmanager
def traces(folder: Path | None, name: str = "") -> Iterator[None]:
    """Record the training while the block runs, and write the traces when it ends.

    If the profiler fails, one line says so, and training continues.

    Args:
        folder: where the traces go; None: nothing is recorded.
        name: of this process or run, if others write traces there, too.
    """
    global _recorder
    if folder is None or _recorder is not None:
        yield
        return
    if worker := os.environ.get("LRLAB_WORKER"):
        name = f"worker{worker.partition('/')[0]}"
    _recorder = _Recorder()
    try:
        yield
    finally:
        recorder, _recorder = _recorder, None
        recorder.close()
        recorder.write(folder, f"_{name}" if name else "")
        if recorder.problem:
            print(f"lrlab: profile=true: no trace: {recorder.problem}", file=sys.stderr)


class _Recorder:
    """The windows of a process.

    Attributes:
        problem: the profiler's first error; "" if there was none.
    """

    def __init__(self) -> None:
        self.problem = ""
        # Keep Kineto from writing to stderr what it does.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._steps = 0  # begun so far
        self._windows: dict[str, profile] = {}
        self._open: str | None = None
        self._last = 0  # the step with which the open window ends
        self._until = 0.0

    def phase(self, name: str) -> Any:
        import torch

        if name == STEP:
            self._steps += 1
            if self._open and (self._steps > self._last or time.monotonic() > self._until):
                self.close()
            if self._steps > FIRST and not self._windows:
                self._begin("steps", STEPS - 1)
        elif name in ENDS and self._windows and not self._open:
            self._begin(ENDS[name], BEHIND)
        if self._open:
            return torch.profiler.record_function(PREFIX + name)
        return contextlib.nullcontext()

    def _begin(self, window: str, more_steps: int) -> None:
        from torch.profiler import ProfilerActivity, profile

        if window in self._windows or self.problem:
            return
        import torch

        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        one = profile(activities=activities)
        with self._noting():
            one.start()
            self._windows[window] = one
            self._open = window
            self._last = self._steps + more_steps
            self._until = time.monotonic() + SECONDS

    def close(self) -> None:
        """End the open window."""
        if self._open is not None:
            with self._noting():
                self._windows[self._open].stop()
            self._open = None

    def write(self, folder: Path, name: str) -> None:
        """Write each window as folder/WINDOW+name+SUFFIX, whole and then renamed."""
        for window, one in self._windows.items():
            with self._noting():
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / f"{window}{name}{SUFFIX}"
                part = folder / f".{os.getpid()}.{file.name}"
                try:
                    one.export_chrome_trace(str(part))
                    os.replace(part, file)
                finally:
                    part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.problem = self.problem or " ".join(f"{type(error).__name__}: {error}".split())


_recorder: _Recorder | None = None
