"""deitkit explain"""

from __future__ import annotations

import io
import json as json_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deitkit.errors import ConfigError, DataError


def explain(
    run: str,
    *images: str,
    out: str = "why.png",
    class_name: Annotated[str | None, Parameter(name=["--class", "--class-name"])] = None,
    json: bool = False,
) -> int:
    """Show what a run looked at: maps over pictures, for each head of the model.

    deitkit explain runs/flowers rose.jpg out=why.png
    deitkit explain runs/flowers new/ class-name=tulip

    "For this class" marks what speaks for the class in one head (Chefer et al. 2021), "all it read"
    what flowed into its token whatever the class (attention rollout). Below each map stands how
    far the class's probability falls when the marked patches are deleted first, and when patches
    are deleted at random: a map that does no better than chance explains nothing.

    Parameters
    ----------
    run
        A run folder, or the bundle in it; a transformer.
    images
        Pictures, or folders of them; at most 24.
    out
        The sheet, a PNG file.
    class_name
        Explain this class instead of the likeliest one.
    json
        Print maps and scores as JSON besides.
    """
    from deitkit.api.explaining import explain as explain_pictures
    from deitkit.api.explaining import explanation_sheet
    from deitkit.data import printable
    from deitkit.reporting.console import TrainingConsole
    from deitkit.runtime.durable import write_file

    if not images:
        raise DataError("NO_IMAGES", "explain", "no picture is named", "add files or folders")
    target = Path(out).expanduser()
    if target.suffix.lower() != ".png":
        raise ConfigError("BAD_VALUE", "out", f"got {out}", "give a name that ends in .png")
    if any(target.resolve() == Path(name).expanduser().resolve() for name in images):
        raise ConfigError("BAD_VALUE", "out", f"{out} is one of the pictures", "give another name")
    console = TrainingConsole()
    try:
        explained = explain_pictures(
            run, list(images), class_name=class_name, progress=console.progress
        )
    finally:
        console.close()
    stream = io.BytesIO()
    explanation_sheet(explained).save(stream, "PNG")
    write_file(target, stream.getvalue())
    if json:
        print(json_module.dumps([one.to_dict() for one in explained], indent=1))
        return 0
    for one in explained:
        said = one.explanation
        print(
            f"{printable(one.source)}\t{printable(said.class_name)} {100 * said.probability:.1f} %"
        )
    print(f"maps in {printable(target)}")
    return 0
