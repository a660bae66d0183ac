# pyright: strict
"""What the verbs share that parse their words by argparse: one line for what is refused."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from lrlab.errors import UserError


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line, as all of lrlab does.

    Raises:
        UserError: words that it does not take.
    """

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help shows the options")


def path(text: str) -> Path:
    """A path as it was typed.

    Raises:
        UserError: one that no file can have.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # what lrlab writes names its folders, in UTF-8
        raise UserError(f"{text}: has a name that is no UTF-8; rename it") from None
    try:
        os.lstat(text)
    except ValueError:  # a null byte
        raise UserError(f"{text}: is no path, it holds a null byte") from None
    except OSError as error:
        if too_long(error):
            raise UserError(f"{text}: is too long for a path") from None
    return Path(text)  # what else is wrong with it is said where it is used


def too_long(error: OSError) -> bool:
    """Whether a name or a path is longer than the file system takes."""
    import errno

    return error.errno == errno.ENAMETOOLONG
