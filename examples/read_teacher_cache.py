"""timm's DeiT learns from the teacher logits that deitkit stored, without the teacher.

    python examples/read_teacher_cache.py ~/.cache/deitkit/teachers/0123...-4567... photos/

`stored_logits` needs numpy, json and zlib only (docs/teacher-cache.md). The images are deitkit's
views: the logits are the teacher's answer to those very pixels. Erasing is left out for brevity.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from torch.nn import functional as F

from deitkit.augmentation import ViewPolicy, draw_views, epoch_order, render
from deitkit.augmentation.mixing import mix_images
from deitkit.augmentation.view_words import record_ids
from deitkit.data import open_dataset


def stored_logits(folder: Path, view_epoch: int) -> dict[int, np.ndarray]:
    """The teacher's logits by record id; a whole cache has one for each image."""
    header = json.loads((folder / "header.json").read_text(encoding="ascii"))
    fields = np.dtype([tuple(field) for field in header["record"]])
    ids = np.fromfile(folder / "sample_ids.bin", "<u8")
    records = np.fromfile(folder / f"epoch-{view_epoch:05d}.bin", fields)
    logits = records["logits"].astype(np.float32)
    if "exponent" in records.dtype.names:
        logits = np.ldexp(logits, records["exponent"][:, None])
    whole = np.array([zlib.crc32(record.tobytes()[:-4]) == record["crc"] for record in records])
    return dict(zip(ids[whole].tolist(), logits[whole], strict=True))


def train(folder: Path, data: str, student: torch.nn.Module, side: int) -> Iterator[float]:
    """One stored epoch of soft distillation into timm's distillation token; yields the losses."""
    about = json.loads((folder / "header.json").read_text(encoding="ascii"))["about"]
    images, logits = open_dataset(data).train, stored_logits(folder, 0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4)
    order = epoch_order(about["view_seed"], 0, images.sample_ids)
    for rows in np.split(order, range(64, len(order), 64)):
        views = draw_views(
            ViewPolicy(**about["policy"]),
            view_seed=about["view_seed"],
            epoch=0,
            sample_ids_B=images.sample_ids[rows],
            sizes_B2=images.sizes[rows],
        )
        pixels = render([images.image(int(row)) for row in rows], views, (side, side))
        mixed = mix_images(torch.from_numpy(pixels).float() / 255, views)
        ids = record_ids(images.sample_ids)[rows].tolist()
        teacher = torch.from_numpy(np.stack([logits[i] for i in ids]))
        _, dist_logits = student((mixed - 0.5) / 0.5)
        answers = F.log_softmax(dist_logits / 3, dim=1), F.softmax(teacher / 3, dim=1)
        loss = 9 * F.kl_div(*answers, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


if __name__ == "__main__":
    cache = Path(sys.argv[1])
    num_classes = json.loads((cache / "header.json").read_text(encoding="ascii"))["num_classes"]
    deit = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=num_classes)
    deit.train()
    deit.set_distilled_training(True)
    for step, loss in enumerate(train(cache, sys.argv[2], deit, side=224)):
        print(step, loss)
