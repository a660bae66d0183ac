# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Hide the password of a sweep's database or tracking server.

Nothing that lrlab writes, prints or starts shows it.

Hydra notes a command's words in several places of its config, prints them in its errors, and its
launchers write them to files. So it never gets the password. From the first moment on it is in an
environment variable, and the word has ``***`` in its place.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote, unquote_plus

# The storage's URL with its password, of this command and of the processes that it starts.
VARIABLE = "LRLAB_STORAGE"
# The same of a tracking server's URL.
TRACKING = "LRLAB_TRACKING"

_WORD = re.compile(r"(?s)([+~]*(storage|tracking\.uri))=(.*)")
_SECRET = re.compile(r"[^=&]*pass[^=&]*|[^=&]*pwd", re.IGNORECASE)  # a key of a URL's query
_FILE = ("sqlite", "sqlite+pysqlite")  # their URLs are a path


@dataclass(frozen=True)
class Parts:
    """The parts of a database's URL."""

    scheme: str
    user: str
    password: str | None
    place: str
    query: str


@contextlib.contextmanager
def kept_apart(words: Sequence[str]) -> Generator[list[str], None, None]:
    """Return a command's words without the password in ``storage=``, which the environment holds.

    A password in an interpolation, like ``storage=${oc.env:DB}``, is in no word, and stays.
    """
    found, urls = [], dict[str, str]()
    for word in words:
        match = _WORD.fullmatch(word)
        text = _value(word, match[3]) if match else ""
        hide, variable = (masked, VARIABLE) if match and match[2] == "storage" else _TRACKING
        shown = hide(text)
        if match and shown != text and not _is_elsewhere(text):
            from lrlab.config.words.spelling import quoted

            urls[variable] = text
            word = f"{match[1]}={quoted(shown)}"
        found.append(word)
    with _known(urls):
        yield found


@contextlib.contextmanager
def _known(urls: Mapping[str, str]) -> Generator[None, None, None]:
    """While the block runs, set these in the environment of this process and its children."""
    before = {variable: os.environ.get(variable) for variable in urls}
    os.environ.update(urls)
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def _value(word: str, text: str) -> str:
    """Return an override's value as Hydra reads it; as typed if Hydra would refuse it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(word).value()
    except (HydraException, ValueError):
        return text.strip("'\"")
    return value if isinstance(value, str) else text


def _is_elsewhere(url: str) -> bool:
    """Return whether every password in it is an interpolation."""
    return all(re.fullmatch(r"\$\{.*\}", secret) for secret in _passwords(url))


def masked(storage: str) -> str:
    """Return a storage's URL in a form that may be shown: without its password."""
    parts = split(storage)
    query = re.sub(
        rf"(^|&)({_SECRET.pattern})=[^&]*", r"\1\2=***", parts.query, flags=re.IGNORECASE
    )
    user = parts.user + (":***" if parts.password is not None else "")
    start = storage[: len(storage) - len(_behind_scheme(storage))]
    return start + (f"{user}@" if user else "") + parts.place + (f"?{query}" if query else "")


def masked_tracking(uri: str) -> str:
    """Return a tracking server's address without its password; a folder's name stays."""
    scheme, colon, behind = uri.partition("://")
    if not colon or scheme.lower() in (*_FILE, "file"):
        return uri
    if scheme.lower() in ("http", "https") and "@" not in re.split("[/?#]", behind)[0]:
        return uri  # an @ further on belongs to a path
    return masked(uri)


_TRACKING = (masked_tracking, TRACKING)


def tracking_kept(uri: str | None) -> contextlib.AbstractContextManager[None]:
    """While the block runs, let this process and its children know a tracker's whole address."""
    return _known({} if uri is None else {TRACKING: uri})


def whole_tracking(uri: str) -> str:
    """Return the address that was shown in this form."""
    whole = os.environ.get(TRACKING, "")
    return whole if "***" in uri and masked_tracking(whole) == uri else uri


def without_secrets(text: str, uri: str) -> str:
    """Return another program's text, such as an error, without the passwords of an address."""
    if masked_tracking(uri) != uri:
        for secret in secrets(uri):
            text = text.replace(secret, "***")
    return text


def secrets(storage: str) -> list[str]:
    """Return the passwords in a URL, as written and decoded, the longest first."""
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
    """Return the parts of a URL; the password may hold any character, also unquoted ones."""
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
    """Return whether it has a colon without a port after it."""
    return ":" in text and not re.fullmatch(r"(\[[^\]]*\]|[^:/]*)(:\d+)?(/.*)?", text)


def _behind_scheme(storage: str) -> str:
    return re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:/+", "", storage, count=1)
