"""What can be wrong with a data set apart from copies: files, classes, shapes, empty pictures."""

# Shapes: N images.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from deitkit.data.faults import REASONS
from deitkit.data.image_set import ImageSet
from deitkit.data.near_duplicates import Looks
from deitkit.data.whole_source import WholeSource

SERIOUS, WORTH, NOTED = "serious", "worth a look", "good to know"
LEVELS = (SERIOUS, WORTH, NOTED)
MAX_GROUPS = 24
"""Groups of pictures kept as examples of a finding; the count goes on."""
MAX_NAMES = 4 * MAX_GROUPS
FEW_IMAGES = 10
IMBALANCE = 10.0
SMALL_SIDE = 32
SEEN_SHARE = 0.5
"""Of a picture's area: where the evaluation crop shows less, the object may be outside."""
CROP_RATIO = 0.875


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """One thing that was found, with pictures that show it."""

    code: str
    level: str
    """serious, worth a look, or good to know."""
    title: str
    """With its count."""
    why: str
    """What it does to training or to the measured accuracy."""
    do: str
    count: int
    groups: tuple[tuple[int, ...], ...] = ()
    """Places in `Examined.images`; each group belongs together."""
    names: tuple[str, ...] = ()
    """Files that cannot be shown, or classes."""


def counted(count: int, one: str, many: str) -> str:
    """`1 picture`, `2,000 pictures`."""
    return f"{count:,} {one if count == 1 else many}"


def plain_findings(whole: WholeSource, looks: Looks) -> list[Finding]:
    """All that is found without comparing pictures with each other."""
    return [
        *_unreadable(whole),
        *_unknown(whole),
        *_balance(whole),
        *_shapes(whole.images),
        *_contents(whole, looks),
    ]


def _unreadable(whole: WholeSource) -> Iterable[Finding]:
    skipped = whole.report.skipped
    for reason, count in sorted(skipped.counts.items(), key=lambda item: -item[1]):
        yield Finding(
            code=reason,
            level=WORTH if reason in ("too_small", "too_large") else SERIOUS,
            title=f"{counted(count, 'file', 'files')} left out: {REASONS[reason]}",
            why="Training does without them; if they are of one class, that class suffers.",
            do="Repair or remove these files.",
            count=count,
            names=tuple(skipped.paths[reason][:MAX_NAMES]),
        )


def _unknown(whole: WholeSource) -> Iterable[Finding]:
    if whole.unknown:
        yield Finding(
            code="unknown_class",
            level=SERIOUS,
            title=f"{counted(len(whole.unknown), 'class', 'classes')} without a training image",
            why="Other splits hold pictures of a class that nothing is trained on.",
            do="Rename or remove these classes, or add training images.",
            count=len(whole.unknown),
            names=tuple(f"{name}: {count:,}" for name, count in whole.unknown.items())[:MAX_NAMES],
        )


def _balance(whole: WholeSource) -> Iterable[Finding]:
    counts = whole.report.class_counts[whole.splits[0]]
    few = sorted((count, name) for name, count in counts.items() if count < FEW_IMAGES)
    if few:
        what = counted(len(few), "class", "classes")
        yield Finding(
            code="few_images",
            level=WORTH,
            title=f"{what} with fewer than {FEW_IMAGES} training images",
            why="Such a class is hardly learned, and its accuracy cannot be measured.",
            do="Collect more, join classes, or begin from trained weights (init=).",
            count=len(few),
            names=tuple(f"{name}: {count}" for count, name in few[:MAX_NAMES]),
        )
    least, most = min(counts.values()), max(counts.values())
    if least and most / least >= IMBALANCE:
        by_count = sorted(counts.items(), key=lambda item: item[1])
        yield Finding(
            code="imbalance",
            level=WORTH,
            title=f"The largest class has {most / least:.0f} times the images of the smallest",
            why="Rare classes are overlooked; the accuracy hides it.",
            do="Read the accuracy of each class; collect more of the rare ones.",
            count=most,
            names=tuple(f"{name}: {count:,}" for name, count in by_count)[:MAX_NAMES],
        )


def _shapes(images: ImageSet) -> Iterable[Finding]:
    short_N, long_N = images.sizes.min(axis=1), images.sizes.max(axis=1)
    # The side of the middle square is CROP_RATIO of the short side.
    seen_N = CROP_RATIO**2 * short_N / long_N
    cut = np.flatnonzero(seen_N < SEEN_SHARE)
    if len(cut):
        what = counted(len(cut), "oblong picture loses", "oblong pictures lose")
        yield Finding(
            code="cut_off",
            level=WORTH if len(cut) > 0.05 * len(images) else NOTED,
            title=f"{what} more than half to the middle crop",
            why="What is at their ends is never seen when the model is measured and used.",
            do="Crop them to what matters, or train with data.resize=squash, which keeps all.",
            count=len(cut),
            groups=_singly(cut[np.argsort(seen_N[cut], kind="stable")]),
        )
    middle = float(np.median(short_N))
    small = np.flatnonzero((short_N < SMALL_SIDE) & (short_N < middle / 2))
    if len(small):
        yield Finding(
            code="tiny",
            level=NOTED,
            title=f"{counted(len(small), 'tiny picture', 'tiny pictures')} among larger ones",
            why=f"Their short side is below {SMALL_SIDE} pixels, the median is {middle:.0f}: "
            "thumbnails, mostly.",
            do="Replace them by the originals.",
            count=len(small),
            groups=_singly(small),
        )


def _contents(whole: WholeSource, looks: Looks) -> Iterable[Finding]:
    blank = np.flatnonzero(looks.is_flat)
    if len(blank):
        what = counted(len(blank), "picture", "pictures")
        yield Finding(
            code="blank",
            level=WORTH,
            title=f"{what} with next to nothing to see",
            why="A blank picture teaches that its class looks like nothing.",
            do="Look at them and remove what is empty.",
            count=len(blank),
            groups=_singly(blank),
        )
    tally = whole.report.tally
    if 0 < tally.greyscale < len(whole.images) / 2:
        what = counted(tally.greyscale, "grey picture", "grey pictures")
        yield Finding(
            code="grey",
            level=NOTED,
            title=f"{what} among coloured ones",
            why="Where they are of one class, the model learns grey instead of the class.",
            do="Look whether they are spread over all classes.",
            count=tally.greyscale,
        )
    for code, count, one, many in (
        (
            "extension_mismatch",
            tally.extension_mismatch,
            "file whose name says another format than its content",
            "files whose names say another format than their content",
        ),
        (
            "animated",
            tally.animated,
            "animation, of which the first frame is used",
            "animations, of which the first frame is used",
        ),
    ):
        if count:
            yield Finding(
                code=code,
                level=NOTED,
                title=counted(count, one, many),
                why="deitkit reads them; other programs may not.",
                do="Nothing, unless it surprises you.",
                count=count,
            )


def _singly(places: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple((int(place),) for place in places[:MAX_GROUPS])
