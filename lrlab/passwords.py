# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""The password of a sweep's database: nothing that lrlab writes, prints or starts shows it.

Hydra notes a command's words in several places of its config, prints them in its errors, and its
launchers write them to files. So it never gets the password: from the first moment on it is in an
environment variable, and the word has ``***`` in its place.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote, unquote_plus

# The storage's URL with its password, of this command and of the processes that it starts.
VARIABLE = "LRLAB_STORAGE"

_WORD = re.compile(r"(?s)([+~]*storage)=(.*)")
_SECRET = re.compile(r"[^=&]*pass[^=&]*|[^=&]*pwd", re.IGNORECASE)  # a key of a URL's query
_FILE = ("sqlite", "sqlite+pysqlite")  # whose URLs are a path


@dataclass(frozen=True)
class Parts:
    """Of a database's URL."""

    scheme: str
    user: str
    password: str | None
    place: str
    query: str


@contextlib.contextmanager
def kept_apart(words: Sequence[str]) -> Generator[list[str], None, None]:
    """The words of a command without the password in ``storage=``, which the environment has.

    One that stands in an interpolation, like ``storage=${oc.env:DB}``, is in no word, and stays.
    """
    found, url = [], None
    for word in words:
        match = _WORD.fullmatch(word)
        text = _value(word, match[2]) if match else ""
        shown = masked(text)
        if match and shown != text and not _is_elsewhere(text):
            from lrlab.spelling import quoted

            url = text
            word = f"{match[1]}={quoted(shown)}"
        found.append(word)
    before = os.environ.get(VARIABLE)
    if url is not None:
        os.environ[VARIABLE] = url
    try:
        yield found
    finally:
        if url is not None:
            os.environ.pop(VARIABLE, None)
            if before is not None:
                os.environ[VARIABLE] = before


def _value(word: str, text: str) -> str:
    """What Hydra would make of an override; as it is typed where Hydra would not take it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(word).value()
    except (HydraException, ValueError):
        return text.strip("'\"")
    return value if isinstance(value, str) else text


def _is_elsewhere(url: str) -> bool:
    """Whether every password in it is an interpolation."""
    return all(re.fullmatch(r"\$\{.*\}", secret) for secret in _passwords(url))


def masked(storage: str) -> str:
    """A storage's URL as it may be shown: without its password."""
    parts = split(storage)
    query = re.sub(
        rf"(^|&)({_SECRET.pattern})=[^&]*", r"\1\2=***", parts.query, flags=re.IGNORECASE
    )
    user = parts.user + (":***" if parts.password is not None else "")
    start = storage[: len(storage) - len(_behind_scheme(storage))]
    return start + (f"{user}@" if user else "") + parts.place + (f"?{query}" if query else "")


def secrets(storage: str) -> list[str]:
    """The passwords in a URL, as they stand there and decoded, the longest first."""
    found = set[str]()
    for secret in _passwords(storage):
        for each in (secret, unquote(secret), unquote_plus(secret)):
            found |= {each, quote(each, safe=""), quote_plus(each)}
    return sorted(found - {""}, key=len, reverse=True)


def _passwords(storage: str) -> list[str]:
    parts = split(storage)
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    found = [value for key, _, value in pairs if _SECRET.fullmatch(key)]
    return found + ([parts.password] if parts.password else [])


def split(storage: str) -> Parts:
    """The parts of a URL; a password may hold any character, also such as should be quoted."""
    behind = _behind_scheme(storage)
    match = re.fullmatch(r"(?s)(.*?)(?:\?(\w+=.*))?", behind)
    assert match is not None
    main, query = match[1], match[2] or ""
    if "@" not in main and "@" in query and _begins_login(main):  # a password with "?a=" in it
        last = behind.rpartition("@")[2]
        place, _, query = last.partition("?")
        main = behind[: len(behind) - len(last)] + place
    scheme = storage[: len(storage) - len(behind)].rstrip(":/")
    login, at, place = main.rpartition("@")
    if not at or scheme in _FILE:
        return Parts(scheme, "", None, main, query)
    user, colon, password = login.partition(":")
    return Parts(scheme, user, password if colon else None, place, query)


def _begins_login(text: str) -> bool:
    """Whether it has a colon that no port follows."""
    return ":" in text and not re.fullmatch(r"(\[[^\]]*\]|[^:/]*)(:\d+)?(/.*)?", text)


def _behind_scheme(storage: str) -> str:
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:/+", "", storage, count=1)
