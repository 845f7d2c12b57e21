"""Pictures without labels, of which only a teacher speaks, beside those with labels."""

# Shapes: N usable images, M images that are left out.

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from deitkit.data.decoding import DecodePolicy
from deitkit.data.display import printable
from deitkit.data.image_set import ImageSet
from deitkit.data.memory import take_pixels
from deitkit.data.report import DataReport
from deitkit.data.scan import BadImages, Progress, scan_store
from deitkit.data.scan_memory import ScanMemory
from deitkit.data.shards import Pictures, open_pictures
from deitkit.data.split import group_digests
from deitkit.data.stores import FileStore
from deitkit.data.walking import walk_folders
from deitkit.errors import ConfigError, DataError

NO_LABEL = -1


def open_unlabelled(
    folder: str | os.PathLike[str],
    *,
    class_names: tuple[str, ...],
    decode: DecodePolicy,
    exclude_digests_M16: np.ndarray,
    bad_images: BadImages = "skip",
    follow_symlinks_outside: bool = False,
    keep_bytes: int = 0,
    remember: bool = True,
    progress: Progress | None = None,
) -> ImageSet:
    """Every picture anywhere below `folder`, or in its shards, labels -1; names of folders in it
    mean nothing.

    Pictures whose content is in `exclude_digests_M16`, and copies of one another, are left out:
    the first would show validation images to the student, the second count one picture twice.
    `.report` says how many of each, and what could not be read.

    Raises:
        ConfigError: NO_DATA, there is no such folder.
        DataError: EMPTY without a single usable picture; BAD_IMAGE where one is to stop the run.
    """
    path = Path(folder).expanduser()
    shown = printable(path)
    if not path.is_dir():
        raise ConfigError("NO_DATA", shown, "is no folder", "give a folder of pictures")
    root = os.fsencode(path)
    found = open_pictures(path)
    if found is None:
        walk = walk_folders(root, [b""], boundary=root, follow_outside=follow_symlinks_outside)
        found = Pictures(FileStore(root, walk.files[0]), walk.ignored, walk.skipped)
    store = found.store
    scan = scan_store(
        store,
        decode,
        bad_images=bad_images,
        keep_bytes=keep_bytes,
        progress=progress,
        memory=ScanMemory.of(shown, "unlabelled", decode) if remember else None,
    )
    report = DataReport(shown, ignored=found.ignored)
    report.skipped.update(found.skipped)
    report.skipped.update(scan.skipped)
    groups, _ = group_digests(np.concatenate([scan.digests, exclude_digests_M16]))
    groups_N = groups[: len(scan.rows)]
    is_first_N = np.zeros(len(groups_N), dtype=bool)
    is_first_N[np.unique(groups_N, return_index=True)[1]] = True
    is_known_N = np.isin(groups_N, groups[len(groups_N) :])
    kept = np.flatnonzero(is_first_N & ~is_known_N)
    if len(kept) == 0:
        raise DataError(
            "EMPTY",
            shown,
            f"holds {len(groups_N):,} pictures, none of which is new",
            "give pictures that are not among the labelled ones, or leave unlabelled= out",
        )
    report.measure(scan.sizes[kept])
    left_out = {
        "are among the labelled ones": int(is_known_N.sum()),
        "are copies of another": int((~is_first_N & ~is_known_N).sum()),
        "could not be read": report.skipped.total,
    }
    said = [f"{num:,} {why}" for why, num in left_out.items() if num]
    if said:
        report.warnings.append(f"of the pictures in {shown} {', '.join(said)}: left out")
    return ImageSet(
        name="unlabelled",
        class_names=class_names,
        labels=np.full(len(kept), NO_LABEL, dtype=np.int64),
        digests=scan.digests[kept],
        sizes=scan.sizes[kept],
        store=store.take(scan.rows[kept]),
        decode=decode,
        kept=take_pixels(scan.pixels, kept),
        report=report,
    )
