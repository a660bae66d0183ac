"""Print safely: ignore closed pipes (``| head``) and full disks, and replace control characters.

All printed text passes a gate, also warnings of libraries and tracebacks. A library that draws on
the terminal itself, such as rich, takes the stream from ``ungated`` and cleans its own words.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO, cast

from lrlab.errors import printable
from lrlab.process import fitting


class _Patient(io.FileIO):
    """A file that accepts everything written; text without a reader is dropped."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and self.fileno() != 2:
                told = f"lrlab: the output cannot be written ({error.strerror})"
                print(told, file=sys.stderr)
            # From now on drop all output, also that of processes that inherit the descriptor.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


class _Gated(io.TextIOWrapper):
    """A stream that replaces control characters, and wraps lrlab's own lines to its width."""

    def write(self, text: str) -> int:  # type: ignore[override]
        clean = shown(text)
        super().write(fitting.notices(clean, self) if fitting.NOTICE in clean else clean)
        return len(text)


class _Proxy:
    """A stream with another way to write."""

    def __init__(self, stream: Any, gated: bool) -> None:
        self._stream, self._gated = stream, gated

    def write(self, text: str) -> int:
        if self._gated:
            self._stream.write(shown(text))
        else:
            io.TextIOWrapper.write(self._stream, text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def shown(text: str) -> str:
    """Return ``errors.printable`` text, with line feeds for returns: progress bars become lines."""
    if text.isprintable():
        return text
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def ungated(stream: TextIO) -> TextIO:
    """Return the stream without the gate, for what lrlab or rich draws on a terminal."""
    return cast("TextIO", _Proxy(stream, gated=False)) if isinstance(stream, _Gated) else stream


def gated(stream: TextIO) -> TextIO:
    """Return a stream with the gate, for example rich's."""
    return stream if isinstance(stream, _Gated) else cast("TextIO", _Proxy(stream, gated=True))


def outlive() -> None:
    """Send stdout and stderr through the gate, and drop their text if its reader has left.

    Streams that are no file descriptors of this process, as in a notebook or a test, stay as they
    are.
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
        text = _Gated(
            patient if unbuffered else io.BufferedWriter(patient),  # type: ignore[arg-type]
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, text)
