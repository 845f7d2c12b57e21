"""deitkit import"""

from __future__ import annotations

from deitkit.errors import ConfigError


def import_weights(
    source: str,
    *,
    out: str,
    classes: str | None = None,
    model: str | None = None,
    image_size: str | None = None,
    overwrite: bool = False,
) -> int:
    """Make a bundle of anybody's trained classifier, to evaluate, predict and teach with.

    deitkit import vit-flowers/ out=models/flowers
    deitkit import deit_tiny.pth classes=names.txt out=models/tiny
    deitkit import timm:deit_small_patch16_224 classes=names.txt out=models/small

    Parameters
    ----------
    source
        A weights file, a folder of Hugging Face or timm, hf:owner/name or timm:name.
    out
        Folder for the bundle.
    classes
        Where the source names no classes: a .txt with one name a line in their order, or images
        in such classes.
    model
        A name of `deitkit models`, where the weights do not tell what they are of.
    image_size
        Pixels a side, or height,width; other than the source's resizes the position embeddings.
    overwrite
        Replace a bundle that is there.
    """
    from deitkit import api
    from deitkit.data import printable
    from deitkit.reporting.console import TrainingConsole

    console = TrainingConsole()
    try:
        imported = api.import_weights(
            source,
            out=out,
            classes=classes,
            model=model,
            image_size=_size(image_size),
            overwrite=overwrite,
            progress=console.progress,
        )
    finally:
        console.close()
    print(f"read {printable(imported.source)}")
    for line in imported.lines:
        print(printable(line))
    for note in imported.notes:
        print(f"note: {note}")
    folder = printable(imported.run.folder)
    print(f"{len(imported.run.class_names):,} classes, in {folder}; now")
    print(f"  deitkit evaluate {folder} data=photos/test")
    return 0


def _size(text: str | None) -> tuple[int, ...] | None:
    """224 or 224,160 or 224x160: height and width in pixels."""
    if text is None:
        return None
    sides = text.lower().replace("x", ",").split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise ConfigError("BAD_VALUE", "image_size", f"got {text!r}", "give 224, or height,width")
    pixels = tuple(int(side) for side in sides)
    return pixels if len(pixels) == 2 else pixels * 2
