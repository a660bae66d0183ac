"""Print safely: ignore closed pipes (``| head``) and full disks, and neutralise escapes.

Everything that is printed passes one gate, whether from lrlab, a library's warning or a traceback.
A terminal then shows control characters and does not obey them. A library that draws on the
terminal itself, such as rich, takes the stream with ``ungated`` and cleans its own words.
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
                said = f"lrlab: what is printed cannot be written ({error.strerror})"
                print(said, file=sys.stderr)
            # From now on the descriptor itself leads nowhere, also for processes that inherit it.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


class _Gated(io.TextIOWrapper):
    """A stream that neutralises control characters, and wraps lrlab's own lines to its width."""

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
    """As ``errors.printable``, with a new line in place of a return to the line's start.

    So a library's progress bar becomes lines.
    """
    if text.isprintable():
        return text
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def ungated(stream: TextIO) -> TextIO:
    """Return the stream as a terminal obeys it: for drawings of lrlab or rich, no other words."""
    return cast("TextIO", _Proxy(stream, gated=False)) if isinstance(stream, _Gated) else stream


def gated(stream: TextIO) -> TextIO:
    """Return another stream, such as rich's, after the same gate."""
    return stream if isinstance(stream, _Gated) else cast("TextIO", _Proxy(stream, gated=True))


def outlive() -> None:
    """Drop all text that is printed after the reader of stdout or stderr has left.

    Also pass everything printed through the gate from now on. Streams that are no file descriptors
    of this process, as in a notebook or a test, are left alone.
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
