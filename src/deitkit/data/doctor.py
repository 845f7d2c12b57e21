"""What is wrong with a data set, before anything is trained on it, and what to do."""

# Shapes: N images.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deitkit.data.alike_findings import exact_findings, exact_pairs, near_findings
from deitkit.data.findings import LEVELS, Finding, plain_findings
from deitkit.data.image_set import ImageSet
from deitkit.data.near_duplicates import SIDE, groups_of, look_at, near_pairs
from deitkit.data.split import group_digests, split_validation
from deitkit.data.whole_source import WholeSource


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A data set after its examination."""

    whole: WholeSource
    groups_N: np.ndarray
    """The lowest place among the pictures that look the same; its own where none does."""
    findings: tuple[Finding, ...]
    """The serious ones first."""

    @property
    def images(self) -> ImageSet:
        return self.whole.images

    def split_together(self, fraction: float) -> np.ndarray:
        """bool [T], which training images should validate, what looks alike on one side.

        Raises:
            ValueError: a class has nothing to give to one of the sides.
        """
        is_train_N = self.whole.splits_N == 0
        # Training images stand first, so the lowest of a group with one of them is one of them.
        alike_T16 = self.images.digests[self.groups_N[is_train_N]]
        return split_validation(self.images.labels[is_train_N], alike_T16, fraction=fraction)


def examine(
    whole: WholeSource, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Examined:
    """Look at every picture. Nothing is changed anywhere.

    Raises:
        DataError: an image cannot be read any more.
    """
    images = whole.images
    looks = look_at(images, progress=progress)
    same_N, _ = group_digests(images.digests)
    pairs_P2 = near_pairs(looks)
    # Pictures of hardly more pixels than their thumbnails look alike whatever they show.
    is_large_N = images.sizes.min(axis=1) >= 2 * SIDE
    pairs_P2 = pairs_P2[is_large_N[pairs_P2].all(axis=1)]
    is_other = same_N[pairs_P2[:, 0]] != same_N[pairs_P2[:, 1]]
    groups_N = groups_of(np.concatenate([pairs_P2, exact_pairs(same_N)]), len(images))
    found = [
        *exact_findings(same_N, images.labels, whole.splits_N),
        *near_findings(pairs_P2[is_other], images.labels, whole.splits_N),
        *plain_findings(whole, looks),
    ]
    found.sort(key=lambda finding: LEVELS.index(finding.level))
    return Examined(whole=whole, groups_N=groups_N, findings=tuple(found))
