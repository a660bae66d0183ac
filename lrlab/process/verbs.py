# pyright: strict
"""Provide the argument parser that the verbs share: one line for words that are refused."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lrlab.errors import UserError, in_a_line
from lrlab.process import broken_pipe


def begin() -> None:
    """Begin a verb: check that its folder exists, and send all printed text through the gate.

    Raises:
        SystemExit: with 2, if the current folder is gone.
    """
    broken_pipe.outlive()
    try:
        os.getcwd()
    except OSError:
        print("lrlab: the current folder is no longer there; cd to another one", file=sys.stderr)
        sys.exit(2)


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, as all of lrlab does.

    Raises:
        UserError: words that it does not take.
    """

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse as argparse does, but allow words after flags, and name an unknown flag first."""
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        end = words.index("--") if "--" in words else len(words)
        for word in words[:end]:
            self._check_flag(word)
        # only paths begin with a sign there, and argparse would take them for flags again
        words[end:] = [f"./{word}" if word[:1] == "-" else word for word in words[end + 1 :]]
        return self.parse_intermixed_args(words, namespace)

    def _check_flag(self, word: str) -> None:
        flag = word.partition("=")[0]
        known = [each for each in self._option_string_actions if each.startswith("--")]
        if not re.match(r"--?[^\W\d]", flag) or flag in self._option_string_actions:
            return
        if flag.startswith("--") and any(each.startswith(flag) for each in known):
            return
        if os.path.lexists(word):
            raise UserError(f"{word}: a path that begins with - is written ./{word}")
        raise UserError(
            f"{flag}: no such flag{near(flag, known)}; choose from {', '.join(sorted(known))}"
        )

    def error(self, message: str) -> NoReturn:
        told = re.fullmatch(r"argument ([^:]+): (.*)", message)
        flag, what = (told[1].split("/")[-1], told[2]) if told else ("", message)
        value = re.fullmatch(r"invalid (float|int) value: '(.*)'", what)
        if value is not None:
            number = "a number" if value[1] == "float" else "a whole number"
            raise UserError(f"{flag}={value[2]}: must be {number}")
        if what in ("expected one argument", "expected at least one argument"):
            action = self._option_string_actions.get(flag)
            example = action.metavar if action and isinstance(action.metavar, str) else "VALUE"
            raise UserError(f"{flag}: needs a value, as {flag} {example}")
        told_of = f"{flag}: {what}" if flag else what
        raise UserError(f"{told_of}; {self.prog} --help shows the options")


def path(text: str) -> Path:
    """Return a path as it was typed.

    Raises:
        UserError: no file can have this path.
    """
    if not text:  # from a variable that is not set; Python would take it for the current folder
        raise UserError("'': is no path; name a file or a folder, such as . for the current one")
    try:
        text.encode()
    except UnicodeEncodeError:  # the records name their folders, in UTF-8
        try:
            os.fsencode(text).decode()
        except UnicodeError:
            raise UserError(f"{text}: has a name that is no UTF-8; rename it") from None
        raise UserError(
            f"{text}: its name is UTF-8, but Python reads names as {sys.getfilesystemencoding()} "
            "here; set PYTHONUTF8=1"
        ) from None
    try:
        os.lstat(text)
    except ValueError:  # a null byte
        raise UserError(f"{text}: is no path, it holds a null byte") from None
    except OSError as error:
        if too_long(error):
            raise UserError(f"{text}: is too long for a path") from None
    return Path(text)  # other errors are reported where it is used


def output_file(flag: str, file: Path, example: str, is_ours: Callable[[str], bool]) -> Path:
    """Return the file for a flag's output: the one that it names, or the target of a link.

    Only files that lrlab wrote are replaced.

    Args:
        flag: as it is typed, ``--output``.
        example: a file's name, for a line about a folder.
        is_ours: whether the text of an existing file is such as lrlab writes here.

    Raises:
        UserError: a folder, a device, a pipe, another program's file, or nowhere.
    """
    try:
        file = file.resolve() if file.is_symlink() else file
        mode = file.stat().st_mode
    except RuntimeError:
        raise UserError(f"{flag}={file}: is a link that leads to itself; name a file") from None
    except OSError:  # it does not exist; if it cannot, the next check says so
        mode = None
    if not file.absolute().parent.is_dir():
        raise UserError(f"{flag}={file}: there is no folder {file.parent}; make it first")
    if mode is None:
        return file
    if stat.S_ISDIR(mode):
        inside = shlex.quote(str(file / example))
        raise UserError(f"{flag}={file}: is a folder; name a file, like {inside}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{flag}={file}: is no file but a device or a pipe; name a file")
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(2**16)
    except OSError as error:
        raise UserError(f"{flag}={file}: cannot be read ({error.strerror}); name another") from None
    if text.strip() and not is_ours(text):
        raise UserError(
            f"{flag}={file}: is there, and lrlab did not write it; name another file, or remove it"
        )
    return file


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and end the program."""
    print(in_a_line(f"lrlab: {message}"), file=sys.stderr)
    sys.exit(code)


def too_long(error: OSError) -> bool:
    """Return whether a name or a path is longer than the file system takes."""
    import errno

    return error.errno == errno.ENAMETOOLONG


def near(flag: str, flags: Sequence[str]) -> str:
    """Return `` (did you mean --X?)``, or nothing if no flag is similar."""
    found = difflib.get_close_matches(flag, flags, n=1, cutoff=0.7)
    return f" (did you mean {found[0]}?)" if found else ""
