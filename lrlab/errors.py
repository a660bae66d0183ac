"""The errors that a user can act on, and text made safe to print."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_LOGIN = re.compile(r"([A-Za-z][\w+.-]*://[^\s:/@?]*):[^\s]*@")  # start of a URL with a password


def printable(text: str) -> str:
    """Replace control characters by "?", so that a terminal shows the text and does not obey it.

    They are C0 and C1 controls, which begin escape sequences, and the marks that turn the direction
    of writing. Line ends, tabs and the joiners of letters stay, other spaces become plain ones. A
    record or a file name may come from anybody. `lrlab.process.broken_pipe` passes everything that
    is printed through here.
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(c: str) -> str:
    if c.isprintable() or c in "\n\t\u200c\u200d":
        return c
    return " " if unicodedata.category(c) == "Zs" else "?"


def in_a_line(text: str) -> str:
    """As ``printable``, on one line: values, file names and columns may hold line ends."""
    return printable(" ".join(text.splitlines()).replace("\t", " "))


class UserError(Exception):
    """Bad input that the user can correct. The message is one line that names the option, its value
    and what would work.

    Entry points print it as ``lrlab: <message>`` and exit with code 2, without a traceback.
    """

    def __init__(self, message: str = "") -> None:
        # a password in a URL after a misspelt option, like storag=
        super().__init__(_LOGIN.sub(r"\1:***@", in_a_line(str(message))))


def must_be(key: str, value: object, what: str, example: object = None) -> UserError:
    """Return the error for an option's value: what it must be, and a value that would work."""
    works = "" if example is None else f", for example {key}={example}"
    return UserError(f"{key}={value}: must be {what}{works}")


class NotWritten(Exception):
    """A record could not be written: the disk is full, the folder is gone or read-only.

    It ends the whole command, because no run could record its results. Records written before are
    unharmed, and the sweep can be resumed.

    Attributes:
        file: the record's path.
        reason: why, in the system's words.
        number: the system's number of the reason, 0 where it has none.
        remedy: what the user can do, one line; empty where that is not known.
    """

    remedy = ""

    def __init__(self, file: object, error: Exception, what: str = "written") -> None:
        self.file = str(file)
        self.reason = str(getattr(error, "strerror", None) or str(error).splitlines()[0])
        self.number: int = getattr(error, "errno", None) or 0
        super().__init__(in_a_line(f"{self.file}: cannot be {what} ({self.reason})"))

    def __reduce__(self) -> tuple[Any, ...]:  # pickled from a launcher's job to its parent
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[NotWritten], args: tuple[Any, ...], known: dict[str, Any]) -> NotWritten:
    error = kind.__new__(kind, *args)
    error.__dict__.update(known)
    return error


class NotOurs(NotWritten):
    """Another process has taken this run over, so this process writes nothing more of it."""

    remedy = "the others finish the sweep; python -m lrlab.resume shows what it came to"

    def __init__(self, file: object, reason: str) -> None:
        super().__init__(file, Exception(reason))


class Stopped(Exception):
    """The user or the system asked to stop; everything trained so far is written."""
