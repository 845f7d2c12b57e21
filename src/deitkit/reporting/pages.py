"""Self-contained HTML pages: one file each, no script, nothing fetched, whatever a class is called.

Templates are Jinja2's with everything escaped, control and direction marks too; charts are inline
SVG, pictures small JPEG data.
"""

# Shapes: H height, W width.

from __future__ import annotations

import base64
import io
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from deitkit.data import printable

PICTURE_SIDE = 160
JPEG_QUALITY = 80


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("deitkit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "count": lambda number: f"{number:,}",
        "duration": duration,
    }
    return environment


def _shown(value: Any) -> Any:
    """What is put into a page: of text one line, in which nothing hides or turns what follows."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render_page(template: str, facts: dict[str, Any]) -> bytes:
    """The page of one template, as UTF-8."""
    return _environment().get_template(template).render(facts).encode()


def chart(svg: str, number: int) -> Markup:
    """A chart of `reporting.charts`, whose text is escaped, with ids of its own on the page."""
    own = svg.replace('"title desc"', f'"title{number} desc{number}"')
    own = own.replace('id="title"', f'id="title{number}"').replace(
        'id="desc"', f'id="desc{number}"'
    )
    return Markup(own)


def picture(pixels_HWC: NDArray[np.uint8], *, side: int = PICTURE_SIDE) -> str:
    """A data address of the picture, its longer side at most `side` pixels."""
    channels = pixels_HWC.shape[2]
    image = Image.fromarray(pixels_HWC[:, :, 0] if channels == 1 else pixels_HWC).convert("RGB")
    longest = max(image.size)
    if longest > side:
        scale = side / longest
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    elif longest * 2 <= side:
        factor = side // longest
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0 to 1 in words."""
    return "n/a" if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of shares in words."""
    return f"{100 * difference:+.1f} points"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
