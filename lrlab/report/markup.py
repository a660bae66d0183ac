"""Fill the HTML templates of this folder; escape all text that is not HTML already."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

# HTML forbids these control characters, and a terminal would obey some of them.
_CONTROLS = {code: "\ufffd" for code in (*range(9), 11, *range(13, 32), *range(127, 160))}


def part(name: str) -> str:
    """Return the text of a file in this folder."""
    return files("lrlab.report").joinpath(name).read_text(encoding="utf-8")


def render(template: str, **values: Any) -> Markup:
    """Fill in a template. Text that is not Markup is escaped; None becomes nothing."""
    return Markup(_templates().get_template(template).render(values))


@functools.cache
def _templates() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from lrlab.verdicts.outcomes import css_class

    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_content,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(part),
    )
    made.globals["css_class"] = css_class
    return made


def _content(value: Any) -> str:
    if isinstance(value, Markup):
        return value
    return "" if value is None else plain(value)


def plain(value: Any) -> str:
    """Return text that a UTF-8 file can hold: no lone surrogates, no control characters."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return text.translate(_CONTROLS)


def embedded_json(data: Any) -> Markup:
    """Return JSON for a ``<script type="application/json">``; nothing in it can end the element.

    Raises:
        ValueError: a number is not finite, which JSON does not have.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is escaped
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
