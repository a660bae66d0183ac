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
    """Return all figures, in the order of `lrlab.plots`, and unknown ones last."""
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
    width, height = struct.unpack(">II", image[16:24])
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


def _fitted(images: Mapping[str, bytes], budget: int) -> dict[str, bytes]:
    """Return the same pictures; while they are too large together, shrink the largest.

    It first gets 256 colours, which is hardly seen in a plot, then half its width and height.
    """
    fitted = dict(images)
    for part in (1, 2, 2):
        for name in sorted(fitted, key=lambda name: -len(fitted[name])):
            if sum(map(len, fitted.values())) <= budget:
                return fitted
            fitted[name] = min(fitted[name], _repainted(fitted[name], part), key=len)
    return fitted


def _repainted(png: bytes, part: int) -> bytes:
    """Repaint with 256 colours, at 1/part of its size; keep the picture if that fails."""
    from PIL import Image

    written = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png)) as image:
            size = max(1, image.width // part), max(1, image.height // part)
            small = image.convert("RGB").resize(size)
        # the default gives most colours to large surfaces, and small marks lose theirs
        of_all = Image.Quantize.MAXCOVERAGE
        small = small.quantize(256, of_all, dither=Image.Dither.NONE)
        small.save(written, "PNG", optimize=True)
    except (OSError, ValueError):
        return png
    return written.getvalue()
