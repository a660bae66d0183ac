# pyright: strict
"""Provide what the verbs share: an argument parser whose errors are one line, and checked paths."""

from __future__ import annotations

import argparse
import difflib
import errno
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
    """Begin a verb: make printing safe, and check that the current folder exists.

    Raises:
        SystemExit: with 2, if the current folder is gone.
    """
    broken_pipe.outlive()
    try:
        os.getcwd()
    except OSError:
        fail("the current folder no longer exists; cd to another one")


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
        # after -- these are paths, which argparse would take for flags
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
        found = re.fullmatch(r"argument ([^:]+): (.*)", message)
        flag, what = (found[1].split("/")[-1], found[2]) if found else ("", message)
        if value := re.fullmatch(r"invalid (float|int) value: '(.*)'", what):
            number = "a number" if value[1] == "float" else "a whole number"
            raise UserError(f"{flag}={value[2]}: must be {number}")
        if what in ("expected one argument", "expected at least one argument"):
            action = self._option_string_actions.get(flag)
            example = action.metavar if action and isinstance(action.metavar, str) else "VALUE"
            raise UserError(f"{flag}: needs a value, as {flag} {example}")
        subject = f"{flag}: {what}" if flag else what
        raise UserError(f"{subject}; {self.prog} --help shows the options")


def path(text: str) -> Path:
    """Return a path as it was typed.

    Raises:
        UserError: no file can have this path.
    """
    if not text:  # an unset variable; Python would take it for the current folder
        raise UserError("'': is no path; name a file or a folder, such as . for the current one")
    try:
        text.encode()
    except UnicodeEncodeError:  # the records name their folders, in UTF-8
        try:
            os.fsencode(text).decode()
        except UnicodeError:
            raise UserError(f"{text}: its name is not UTF-8; rename it") from None
        raise UserError(
            f"{text}: its name is UTF-8, but Python reads names as {sys.getfilesystemencoding()} "
            "here; set PYTHONUTF8=1"
        ) from None
    try:
        os.lstat(text)
    except ValueError:  # a null byte
        raise UserError(f"{text}: is no path, because it contains a null byte") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{text}: is too long for a path") from None
    return Path(text)  # other errors are reported where it is used


def output_file(flag: str, file: Path, example: str, is_ours: Callable[[str], bool]) -> Path:
    """Return the file that a flag's output goes to: the named one, or the target of a link.

    Args:
        flag: as it is typed, ``--output``.
        example: a file's name, to suggest one in a folder.
        is_ours: whether lrlab wrote the text of an existing file: only such files are replaced.

    Raises:
        UserError: it is a folder, a device, a pipe or another program's file, or has no folder.
    """
    try:
        file = file.resolve() if file.is_symlink() else file
        mode = file.stat().st_mode
    except RuntimeError:
        raise UserError(f"{flag}={file}: is a link that leads to itself; name a file") from None
    except OSError:  # it does not exist
        mode = None
    if not file.absolute().parent.is_dir():
        raise UserError(f"{flag}={file}: there is no folder {file.parent}; make it first")
    if mode is None:
        return file
    if stat.S_ISDIR(mode):
        inside = shlex.quote(str(file / example))
        raise UserError(f"{flag}={file}: is a folder; name a file, like {inside}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{flag}={file}: is a device or a pipe; name a file")
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(2**16)
    except OSError as error:
        raise UserError(f"{flag}={file}: cannot be read ({error.strerror}); name another") from None
    if text.strip() and not is_ours(text):
        raise UserError(
            f"{flag}={file}: exists, and lrlab did not write it; name another file, or remove it"
        )
    return file


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and end the program."""
    print(in_a_line(f"lrlab: {message}"), file=sys.stderr)
    sys.exit(code)


def near(flag: str, flags: Sequence[str]) -> str:
    """Return `` (did you mean --X?)``, or nothing if no flag is similar."""
    found = difflib.get_close_matches(flag, flags, n=1, cutoff=0.7)
    return f" (did you mean {found[0]}?)" if found else ""
