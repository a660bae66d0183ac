"""Put the plots into the page as pictures, each with its caption."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrlab.report.markup import Markup, plain, render

BUDGET = 3_500_000  # bytes of all pictures: the page of 100 runs stays well below 8 MB


def section(pictures: Mapping[str, bytes | Path]) -> Markup | None:
    """Return all figures, in the order of `lrlab.plots`, with unknown ones last."""
    from lrlab.plots.tables import CAPTIONS

    order = list(CAPTIONS)
    names = sorted(pictures, key=lambda n: (order.index(n) if n in order else len(order), n))
    images = {name: image for name in names if (image := _read(pictures[name]))}
    if not images:
        return None
    images = _fitted(images, BUDGET)
    shown = [_figure(name, image, CAPTIONS.get(name, "")) for name, image in images.items()]
    return render("figures.html", figures=shown)


def _figure(name: str, image: bytes, caption: str) -> dict[str, Any]:
    title = plain(name).replace("_", " ")
    title = (title[:1].upper() + title[1:]).replace("Lr", "lr").replace(" lr", " lr")
    width, height = _size(image)
    return {
        "name": name,
        "title": title,
        "caption": caption,
        "alt": f"{title}: {caption}" if caption else title,
        "width": width,
        "height": height,
        "data": base64.b64encode(image).decode(),
    }


def _read(picture: bytes | Path) -> bytes | None:
    """Return the PNG; None if it is none, or cannot be read."""
    if isinstance(picture, Path):
        try:
            picture = picture.read_bytes()
        except OSError:
            return None
    return picture if picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 33 else None


def _size(png: bytes) -> tuple[int, int]:
    """Return width and height in pixels, from the header."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _fitted(images: Mapping[str, bytes], budget: int) -> dict[str, bytes]:
    """Return the same pictures; while they are too large together, shrink the largest.

    First it gets 256 colours, which hardly shows in a plot, then half its width and height.
    """
    fitted = dict(images)
    for smaller in (_with_few_colours, _halved, _halved):
        for name in sorted(fitted, key=lambda name: -len(fitted[name])):
            if sum(map(len, fitted.values())) <= budget:
                return fitted
            fitted[name] = min(fitted[name], smaller(fitted[name]), key=len)
    return fitted


def _with_few_colours(png: bytes) -> bytes:
    return _repainted(png, 1)


def _halved(png: bytes) -> bytes:
    return _repainted(png, 2)


def _repainted(png: bytes, part: int) -> bytes:
    """Repaint with 256 colours, at this part of its size; keep the picture if that fails."""
    from PIL import Image

    written = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png)) as image:
            size = max(1, image.width // part), max(1, image.height // part)
            small = image.convert("RGB").resize(size)
        # by default small marks lose their colours to large surfaces
        of_all = Image.Quantize.MAXCOVERAGE
        small = small.quantize(256, of_all, dither=Image.Dither.NONE)
        small.save(written, "PNG", optimize=True)
    except (OSError, ValueError):
        return png
    return written.getvalue()
