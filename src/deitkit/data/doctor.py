"""What is wrong with a data set, before anything is trained on it, and what to do."""

# Shapes: N images, K classes.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deitkit.data.dataset import Dataset
from deitkit.data.faults import REASONS
from deitkit.data.image_set import ImageSet
from deitkit.data.near_duplicates import Looks, groups_of, look_at, near_pairs
from deitkit.data.split import group_digests, split_validation

SERIOUS, WORTH, NOTED = "serious", "worth a look", "good to know"
LEVELS = (SERIOUS, WORTH, NOTED)
MAX_GROUPS = 24
"""Groups of pictures kept as examples of a finding; the count goes on."""
MAX_IN_GROUP = 6
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A data set after its examination."""

    images: ImageSet
    """Training images, then validation images where the data has a split of its own."""
    num_train: int
    has_own_split: bool
    looks: Looks
    groups_N: np.ndarray
    """The lowest place among the pictures that look the same; its own where none does."""
    findings: tuple[Finding, ...]

    def describe(self, place: int) -> str:
        return self.images.describe(place)

    def split_together(self, fraction: float) -> np.ndarray:
        """bool [N], which images should validate so that what looks alike stays on one side.

        Raises:
            ValueError: a class has nothing to give to one of the sides.
        """
        alike_N16 = self.images.digests[self.groups_N]
        return split_validation(self.images.labels, alike_N16, fraction=fraction)


def examine(
    dataset: Dataset,
    *,
    has_own_split: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Examined:
    """Look at every training and validation picture. Nothing is changed anywhere.

    Raises:
        DataError: an image cannot be read any more.
    """
    images = dataset.train.joined(dataset.val)
    num_train = len(dataset.train)
    split_N = np.arange(len(images)) >= num_train if has_own_split else np.zeros(len(images), bool)
    looks = look_at(images, progress=progress)
    same_N, _ = group_digests(images.digests)
    pairs_P2 = near_pairs(looks)
    is_other = same_N[pairs_P2[:, 0]] != same_N[pairs_P2[:, 1]]
    exact_P2 = _exact_pairs(same_N)
    groups_N = groups_of(np.concatenate([pairs_P2, exact_P2]), len(images))
    found = [
        *_unreadable(dataset),
        *_exact(dataset, images, exact_P2, split_N),
        *_near(images, pairs_P2[is_other], split_N),
        *_balance(dataset),
        *_shapes(images),
        *_contents(dataset, looks),
    ]
    found.sort(key=lambda finding: LEVELS.index(finding.level))
    return Examined(
        images=images,
        num_train=num_train,
        has_own_split=has_own_split,
        looks=looks,
        groups_N=groups_N,
        findings=tuple(found),
    )


def _exact_pairs(same_N: np.ndarray) -> np.ndarray:
    """int64 [P, 2]: each picture with the first of the same content."""
    first_G = np.full(int(same_N.max(initial=-1)) + 1, len(same_N))
    np.minimum.at(first_G, same_N, np.arange(len(same_N)))
    places = np.flatnonzero(first_G[same_N] != np.arange(len(same_N)))
    return np.stack([first_G[same_N[places]], places], axis=1).reshape(-1, 2)


def _grouped(pairs_P2: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Pairs as groups of what is linked, the largest first."""
    if not len(pairs_P2):
        return ()
    places, compact = np.unique(pairs_P2, return_inverse=True)
    group_M = groups_of(compact.reshape(-1, 2), len(places))
    members: dict[int, list[int]] = {}
    for place, group in zip(places.tolist(), group_M.tolist(), strict=True):
        members.setdefault(group, []).append(place)
    ordered = sorted(members.values(), key=lambda group: (-len(group), group[0]))
    return tuple(tuple(group[:MAX_IN_GROUP]) for group in ordered[:MAX_GROUPS])


def _unreadable(dataset: Dataset) -> list[Finding]:
    skipped = dataset.report.skipped
    found = []
    for reason, count in sorted(skipped.counts.items(), key=lambda item: -item[1]):
        found.append(
            Finding(
                code=reason,
                level=WORTH if reason in ("too_small", "too_large") else SERIOUS,
                title=f"{count:,} left out: {REASONS[reason]}",
                why="Training does without them; if they are of one class, that class suffers.",
                do="Repair or remove these files.",
                count=count,
                names=tuple(skipped.paths[reason][: 4 * MAX_GROUPS]),
            )
        )
    return found


def _exact(
    dataset: Dataset, images: ImageSet, pairs_P2: np.ndarray, split_N: np.ndarray
) -> list[Finding]:
    labels_N = images.labels
    other_label = labels_N[pairs_P2[:, 0]] != labels_N[pairs_P2[:, 1]]
    other_split = split_N[pairs_P2[:, 0]] != split_N[pairs_P2[:, 1]]
    plain = ~other_label & ~other_split
    return _pair_findings(
        pairs_P2,
        (
            (
                "conflict",
                SERIOUS,
                other_label,
                "the same picture under different labels",
                "One of the labels is wrong, and the model is told both.",
                "Remove the wrong one, or drop it with `deitkit review`.",
            ),
            (
                "leak",
                SERIOUS,
                other_split & ~other_label,
                "the same picture in training and validation",
                "Validation then measures memory: the accuracy looks better than it is.",
                "Remove them from one side.",
            ),
            (
                "duplicate",
                NOTED,
                plain,
                "the same picture more than once",
                "It counts more than once in training; deitkit keeps copies on one side of a "
                "split that it makes itself.",
                "Remove the copies if they are not meant.",
            ),
        ),
    )


def _near(images: ImageSet, pairs_P2: np.ndarray, split_N: np.ndarray) -> list[Finding]:
    labels_N = images.labels
    other_label = labels_N[pairs_P2[:, 0]] != labels_N[pairs_P2[:, 1]]
    other_split = split_N[pairs_P2[:, 0]] != split_N[pairs_P2[:, 1]]
    return _pair_findings(
        pairs_P2,
        (
            (
                "near_leak",
                SERIOUS,
                other_split,
                "pictures that look the same in training and validation",
                "Bursts and copies across the split make the accuracy look better than it is.",
                "Split by what belongs together; split.csv, beside this report, does so where the "
                "data has no split of its own.",
            ),
            (
                "near_conflict",
                WORTH,
                other_label & ~other_split,
                "pictures that look the same under different labels",
                "Either the classes are hard to tell apart or a label is wrong.",
                "Look at them; correct with `deitkit review`.",
            ),
            (
                "near_duplicate",
                NOTED,
                ~other_label & ~other_split,
                "pictures that look the same within a class",
                "A split by chance would put some of them on both sides.",
                "Use split.csv, beside this report, as the data: it keeps them together.",
            ),
        ),
    )


def _pair_findings(pairs_P2: np.ndarray, kinds: Any) -> list[Finding]:
    found = []
    for code, level, chosen_P, what, why, do in kinds:
        count = len(np.unique(pairs_P2[chosen_P]))
        if count:
            found.append(
                Finding(
                    code=code,
                    level=level,
                    title=f"{count:,} {what}" if "pictures" in what else f"{count:,} times {what}",
                    why=why,
                    do=do,
                    count=count,
                    groups=_grouped(pairs_P2[chosen_P]),
                )
            )
    return found


def _balance(dataset: Dataset) -> list[Finding]:
    counts: Mapping[str, int] = dataset.report.class_counts["train"]
    found = []
    few = sorted((count, name) for name, count in counts.items() if count < FEW_IMAGES)
    if few:
        found.append(
            Finding(
                code="few_images",
                level=WORTH,
                title=f"{len(few):,} classes with fewer than {FEW_IMAGES} training images",
                why="Such a class is hardly learned, and its accuracy cannot be measured.",
                do="Collect more, join classes, or begin from trained weights (init=).",
                count=len(few),
                names=tuple(f"{name}: {count}" for count, name in few[:MAX_GROUPS]),
            )
        )
    least, most = min(counts.values()), max(counts.values())
    if least and most / least >= IMBALANCE:
        found.append(
            Finding(
                code="imbalance",
                level=WORTH,
                title=f"The largest class has {most / least:.0f} times the images of the smallest",
                why="Rare classes are overlooked; the accuracy hides it.",
                do="Read the accuracy of each class; collect more of the rare ones.",
                count=most,
                names=tuple(f"{name}: {count:,}" for name, count in counts.items())[:MAX_GROUPS],
            )
        )
    return found


def _shapes(images: ImageSet) -> list[Finding]:
    short_N, long_N = images.sizes.min(axis=1), images.sizes.max(axis=1)
    found = []
    # The side of the middle square is CROP_RATIO of the short side.
    seen_N = CROP_RATIO**2 * short_N / long_N
    cut = np.flatnonzero(seen_N < SEEN_SHARE)
    if len(cut):
        worst = cut[np.argsort(seen_N[cut], kind="stable")][:MAX_GROUPS]
        found.append(
            Finding(
                code="cut_off",
                level=WORTH if len(cut) > 0.05 * len(images) else NOTED,
                title=f"{len(cut):,} oblong pictures lose more than half to the middle crop",
                why="What is at their ends is never seen when the model is measured and used.",
                do="Crop them to what matters, or train with data.resize=squash, which keeps all.",
                count=len(cut),
                groups=tuple((int(place),) for place in worst),
            )
        )
    middle = float(np.median(short_N))
    small = np.flatnonzero((short_N < SMALL_SIDE) & (short_N < middle / 2))
    if len(small):
        found.append(
            Finding(
                code="tiny",
                level=NOTED,
                title=f"{len(small):,} tiny pictures among larger ones",
                why=f"Their short side is below {SMALL_SIDE} pixels, the median is {middle:.0f}: "
                "thumbnails, mostly.",
                do="Replace them by the originals.",
                count=len(small),
                groups=tuple((int(place),) for place in small[:MAX_GROUPS]),
            )
        )
    return found


def _contents(dataset: Dataset, looks: Looks) -> list[Finding]:
    found = []
    blank = np.flatnonzero(looks.is_flat)
    if len(blank):
        found.append(
            Finding(
                code="blank",
                level=WORTH,
                title=f"{len(blank):,} pictures with next to nothing on them",
                why="A blank picture teaches that its class looks like nothing.",
                do="Look at them and remove what is empty.",
                count=len(blank),
                groups=tuple((int(place),) for place in blank[:MAX_GROUPS]),
            )
        )
    tally = dataset.report.tally
    num_images = len(dataset.train) + len(dataset.val)
    if 0 < tally.greyscale < num_images / 2:
        found.append(
            Finding(
                code="grey",
                level=NOTED,
                title=f"{tally.greyscale:,} grey pictures among coloured ones",
                why="Where they are of one class, the model learns grey instead of the class.",
                do="Look whether they are spread over all classes.",
                count=tally.greyscale,
            )
        )
    for count, title in (
        (tally.extension_mismatch, "files whose name says another format than their content"),
        (tally.animated, "animations, of which the first frame is used"),
    ):
        if count:
            found.append(
                Finding(
                    code="odd_files",
                    level=NOTED,
                    title=f"{count:,} {title}",
                    why="deitkit reads them; other programs may not.",
                    do="Nothing, unless it surprises you.",
                    count=count,
                )
            )
    return found
