"""Spell typed words so that Hydra's grammar reads the same texts.

Hydra reads ``name=1e5`` as the number 100000.0, and refuses letters outside ASCII. Both get Hydra's
quotes here: ``name="1e5"``, ``name="größe"``. Words that Hydra reads as typed stay unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from lrlab.errors import UserError

# The options that are always a text; and those of them that may be null.
TEXTS = (
    *("name", "output", "storage", "device", "objective", "precision", "source"),
    *("data.path", "data.test_path", "data.label", "data.drop", "data.sep", "data.columns"),
    *("data.decimal", "data.integers"),
    *("data.root", "data.test_root", "data.dataset", "tracking.uri", "tracking.experiment"),
    *("hydra.sweep.dir", "hydra.run.dir"),
)
OR_NULL = (
    *("storage", "device", "objective", "precision", "source", "data.test_path", "data.root"),
    *("data.test_root", "data.columns", "tracking.uri", "hydra.sweep.dir", "hydra.run.dir"),
)
GROUPS = "optimizer.groups"  # a mapping, whose keys are the user's
# Those that take one text or a list of them.
LISTS = ("data.label", "data.drop", "data.columns")

_PAIRS = {"[": "]", "{": "}", "(": ")"}
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=,\s])")
_CALL = re.compile(r"[A-Za-z_][\w-]*\s*\(.*\)", re.DOTALL)
# Letters that Hydra refuses without quotes, and that are never part of its notation.
_STRANGE = re.compile(r"[^\x00-\x7f]|[~#&!;<>^`']")


def spelled(words: Sequence[str]) -> list[str]:
    """Return a command line's words, each as Hydra's grammar takes it; flags stay as they are."""
    return [word if word.startswith("-") else _spelled(word) for word in words]


def quoted(text: str) -> str:
    """Return a text as Hydra's override grammar takes it, whatever its content."""
    escaped = re.sub(r'(\\*)"', lambda match: match[1] * 2 + '\\"', text)
    trailing = len(text) - len(text.rstrip("\\"))
    return '"' + escaped + "\\" * trailing + '"'


def literal(text: str) -> str:
    """Return a text that OmegaConf reads literally, ``${...}`` too, as in a folder's name."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)


def unquoted(text: str) -> str:
    """Return a value without Hydra's quotes, for people to read; unchanged if it has none."""
    if text[:1] in "\"'" and (override := parsed(text)) is not None:
        value = override._value  # pyright: ignore[reportPrivateUsage] (value() is a plain text)
        if isinstance(value, QuotedString):
            return value.text
    return text


def parsed(text: str, key: str = "key") -> Override | None:
    """Return a text as an override's value; None if Hydra's grammar does not take it."""
    try:
        return OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException:
        return None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise UserError(f"{text[:60]}…: a number with too many digits") from None


def _spelled(word: str) -> str:
    key, equals, text = word.partition("=")
    name = key.lstrip("+")
    if not equals or name.startswith("~"):
        return word
    if not name.isascii():
        raise UserError(
            f"{word}: no such option; the letters of an option's name are from a to z, and only "
            "its value may have others"
        )
    if name == GROUPS:  # Hydra takes no quotes around a mapping's keys
        text = re.sub(r"""(["'])([^"']*)\1(?=\s*:)""", r"\2", text)
        word = f"{key}={text}"
    elif name.startswith(f"{GROUPS}.") and key == name:  # no config has it before it is set
        key = f"++{name}"
        word = f"{key}={text}"
    is_text = name in TEXTS or name.endswith("._target_")
    if not is_text and parsed(text) is not None:
        return word
    parts = elements(text)
    if parts is None:  # its quotes or brackets do not match
        return f"{key}={quoted(text)}" if is_text and text else word
    if is_text and len(parts) > 1 and not all(map(str.strip, parts)):
        return f"{key}={quoted(text)}"  # a comma, but no list
    if is_text and len(parts) == 1:
        return f"{key}={_text(text, name)}"
    one: Callable[[str], str] = (lambda part: _listed(part.strip(), name)) if is_text else _strange
    new = f"{key}={','.join(map(one, parts))}"
    return new if parsed(new.partition("=")[2]) is not None else word


def elements(text: str) -> list[str] | None:
    """Return a value's parts between commas outside brackets and quotes, and after no \\.

    None: a bracket or quote at the beginning of a part is not closed.
    """
    parts: list[str] = []
    open_: list[str] = []
    part, quote = "", ""
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == "\\" and place + 1 < len(text):
            part += text[place : place + 2]
            place += 2
            continue
        begins = not part.strip() or part.rstrip()[-1:] in "[{(,:" or part.endswith("=")
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and begins:
            quote = letter
        elif letter in _PAIRS and (begins or open_ or (letter == "(" and _is_name(part))):
            open_.append(_PAIRS[letter])
        elif open_ and letter == open_[-1]:
            open_.pop()
        elif letter == "," and not open_:
            parts.append(part)
            part = ""
            place += 1
            continue
        part += letter
        place += 1
    return None if open_ or quote else [*parts, part]


def _is_name(part: str) -> bool:
    return re.fullmatch(r"\s*[A-Za-z_][\w-]*\s*", part) is not None


def _text(part: str, name: str, inside: bool = False) -> str:
    """Spell one value of a text option."""
    if not part:
        return '""' if inside else ""
    may_be_null = name in OR_NULL or name.endswith("._target_")
    if part.lower() == "null" and may_be_null and not inside:
        return part
    if part.startswith("[") and part.endswith("]") and name in LISTS and not inside:
        within = elements(part[1:-1])
        if within is not None:
            listed = [] if within == [""] else within
            return f"[{','.join(_text(one.strip(), name, inside=True) for one in listed)}]"
    override = parsed(part)
    if override is None:
        # with an escape as Hydra would have read it without the other letter
        return quoted(_ESCAPED.sub(r"\1", part))
    if override.is_sweep_override() and not inside:
        return part
    value = override.value()
    if unquoted(part) != part:
        return part
    if isinstance(value, str) and (value == part or "\\" in part or "${" in part):
        return part
    return quoted(part)


def _listed(part: str, name: str) -> str:
    """Spell one of several swept texts: Hydra puts a backslash before a space in one."""
    plain = parsed(part) is not None and re.fullmatch(r"[^\s\"'\\]+(\s+[^\s\"'\\]+)+", part)
    is_list = part.startswith("[") and part.endswith("]") and name in LISTS
    has_space = plain and not is_list and not _CALL.fullmatch(part)
    return quoted(part) if has_space else _text(part, name)


def _strange(part: str) -> str:
    """Spell one value of any option, in quotes if it holds letters that Hydra refuses."""
    bare = part.strip()
    if parsed(bare) is not None:
        return part
    if bare[:1] == "[" and bare[-1:] == "]":
        within = elements(bare[1:-1])
        return part if within is None else f"[{','.join(map(_strange, within))}]"
    if bare[:1] in "{\"'" or _CALL.fullmatch(bare) or not _STRANGE.search(bare):
        return part
    return quoted(_ESCAPED.sub(r"\1", bare))
