"""HTML from nested calls, in which every text is escaped unless it is HTML already."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

_VOID = ("img", "input", "meta", "br")
# An HTML file may not hold these, and a console would obey some of them.
_CONTROLS = {code: "\ufffd" for code in (*range(9), 11, *range(13, 32), *range(127, 160))}


class Markup(str):
    """Text that is HTML already."""


def markup(content: Any) -> Markup:
    """Markup as it is, a list of contents joined, None as nothing, anything else escaped."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup("")
    if isinstance(content, Iterable) and not isinstance(content, str | bytes):
        return Markup("".join(markup(each) for each in content))
    return Markup(html.escape(plain(content)))


def plain(value: Any) -> str:
    """As text that a UTF-8 file can hold: no lone surrogates, no control characters."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return text.translate(_CONTROLS)


def tag(name: str, /, *content: Any, **attributes: Any) -> Markup:
    """``tag("a", "text", href="#x")``: content as for `markup`.

    An attribute that is None or False is left out, one that is True has no value; ``class_`` is
    class, ``data_x`` is data-x.
    """
    told = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        told.append(f" {key}" if value is True else f' {key}="{html.escape(plain(value))}"')
    opening = f"<{name}{''.join(told)}>"
    return Markup(opening if name in _VOID else f"{opening}{markup(content)}</{name}>")


def copyable(command: str) -> Markup:
    """A command line with a button that copies it."""
    button = tag(
        "button",
        "copy",
        type="button",
        class_="copy no-print needs-js",
        aria_label=f"Copy: {command}",
    )
    return tag("span", tag("code", command), button, class_="copyable")


def embedded_json(data: Any) -> Markup:
    """For a ``<script type="application/json">``: nothing in it can end the element.

    Raises:
        ValueError: a number is not finite; JSON has no such.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
