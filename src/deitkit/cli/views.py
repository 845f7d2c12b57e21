"""deitkit views"""

from __future__ import annotations

import io
import json as json_module
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deitkit.cli.tokens import read_pairs
from deitkit.errors import ConfigError


def views(
    *settings: Annotated[str, Parameter(name="PICTURES")],
    recipe: str | None = None,
    out: str = "sheet.png",
    count: int = 24,
    seed: int = 0,
    image_size: str | None = None,
    json: bool = False,
) -> int:
    """Show what training does to pictures: a sheet of drawn views, and their parameters.

    deitkit views cat.jpg dog.jpg out=sheet.png
    deitkit views photos/ recipe=deit3_small count=40
    deitkit views cat.jpg dog.jpg views.auto_augment=trivial views.erasing=1

    Without a recipe the views are the paper's, which train chooses for long runs on photographs.

    Parameters
    ----------
    settings
        Pictures, or folders of them, and settings of the section views (see `deitkit settings
        views`).
    recipe
        Views of this recipe (see `deitkit recipes`), or of a YAML file of your own.
    out
        The sheet, a PNG file.
    count
        Views to draw.
    seed
        Another seed draws other views; the same seed the same.
    image_size
        Pixels a side of a view: 224, or what the recipe says.
    json
        Print the parameters as JSON.
    """
    pictures = [word for word in settings if "=" not in word or os.path.lexists(word)]
    pairs = read_pairs(tuple(word for word in settings if word not in pictures))
    if not pictures:
        raise ConfigError("NO_IMAGES", "views", "no picture is named", "add files or folders")
    target = Path(out).expanduser()
    if target.suffix.lower() != ".png":
        raise ConfigError("BAD_VALUE", "out", f"got {out}", "give a name that ends in .png")
    if target.exists() and any(
        target.samefile(picture) for picture in pictures if _is_file(picture)
    ):
        raise ConfigError("BAD_VALUE", "out", f"{out} is one of the pictures", "choose another")

    from deitkit.api.draw_sheet import draw_sheet
    from deitkit.data import printable
    from deitkit.reporting.console import make_console
    from deitkit.reporting.contact_sheet import print_views
    from deitkit.runtime.durable import write_file

    sheet = draw_sheet(
        pictures, recipe=recipe, count=count, seed=seed, image_size=image_size, **pairs
    )
    stream = io.BytesIO()
    sheet.image.save(stream, "PNG")
    write_file(target, stream.getvalue())
    for note in sheet.notes:
        print(f"note: {note}", file=sys.stderr)
    if json:
        print(json_module.dumps([view.to_dict() for view in sheet.views], indent=1))
        return 0
    print_views(make_console(), sheet.views)
    print(f"{len(sheet.views)} views are in {printable(target)}")
    return 0


def _is_file(path: str) -> bool:
    return Path(path).expanduser().is_file()
