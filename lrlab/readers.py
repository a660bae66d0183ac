"""No command ends because what it prints has no reader (``| head``), or no room on a disk."""

from __future__ import annotations

import io
import os
import sys


class _Patient(io.FileIO):
    """A file that takes all that is written: what nobody reads any more goes nowhere."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and self.fileno() != 2:
                said = f"lrlab: what is printed cannot be written ({error.strerror})"
                print(said, file=sys.stderr)
            # The descriptor itself leads nowhere from now on, for processes that inherit it too.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlive() -> None:
    """From now on, what is printed after the reader of stdout or stderr has left goes nowhere.

    Leaves streams alone that are no file descriptors of this process, as in a notebook or a test.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before Python began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            continue
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        unbuffered = isinstance(stream.buffer, io.FileIO)  # python -u
        raw = stream.buffer if unbuffered else getattr(stream.buffer, "raw", None)
        if type(raw) is not io.FileIO:
            continue
        stream.flush()
        patient = _Patient(number, "w", closefd=False)
        text = io.TextIOWrapper(
            patient if unbuffered else io.BufferedWriter(patient),  # type: ignore[arg-type]
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, text)
