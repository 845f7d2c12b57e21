"""How many planted near duplicates `deitkit check` finds, and how many pairs it invents.

    python benchmarks/near_duplicates.py [--data ../shared/data] [--num 1000]

Pictures of imagenette, and of each tenth one more by one change: scaled to 60 %, JPEG of quality
30, 4 % cropped off each side, lighter by 20 %, turned into grey, saved twice. A pair of a picture
and its copy should be found (recall); any other pair is counted as invented, although a few
pictures of the data set are near duplicates of each other.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from distillation import read_pairs
from PIL import Image, ImageEnhance

from deitkit.data.near_duplicates import Looks, hash_and_thumb, near_pairs


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    across, down = 0.04 * image.width, 0.04 * image.height
    return image.crop((across, down, image.width - across, image.height - down))


CHANGES = {
    "scaled to 60 %": lambda i: i.resize((int(0.6 * i.width), int(0.6 * i.height))),
    "JPEG of quality 30": lambda i: jpeg(i, 30),
    "4 % cropped off each side": cropped,
    "lighter by 20 %": lambda i: ImageEnhance.Brightness(i).enhance(1.2),
    "grey": lambda i: i.convert("L").convert("RGB"),
    "mirrored (another picture)": lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--num", type=int, default=1000)
    a = parser.parse_args()
    pairs = read_pairs(a.data / "imagenette", "train")[:: max(1, 3200 // a.num)][: a.num]
    originals = [Image.open(io.BytesIO(content)).convert("RGB") for content, _ in pairs]
    pictures, kind_of = list(originals), {}
    for place in range(0, len(originals), 10):
        for name, change in CHANGES.items():
            kind_of[place, len(pictures)] = name
            pictures.append(change(originals[place]))
    looked = [hash_and_thumb(np.asarray(picture)) for picture in pictures]
    looks = Looks(
        hashes_N=np.array([one for one, _ in looked]),
        thumbs_NSS=np.stack([thumb for _, thumb in looked]),
    )
    start = time.perf_counter()
    found = {tuple(pair) for pair in near_pairs(looks).tolist()}
    seconds = time.perf_counter() - start
    counts: dict[str, list[bool]] = defaultdict(list)
    for pair, name in kind_of.items():
        counts[name].append(pair in found)
    print("| change | found |\n|---|---|")
    for name, hits in counts.items():
        print(f"| {name} | {sum(hits)} of {len(hits)} |")
    source = {copy: place for place, copy in kind_of}
    invented = [p for p in found if source.get(p[0], p[0]) != source.get(p[1], p[1])]
    print(f"\n{len(pictures):,} pictures, {len(found):,} pairs, {len(invented)} between different")
    print(f"pictures: {invented[:5]}; paired in {seconds:.2f} s")
    large = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    thumbs = np.random.default_rng(1).integers(0, 256, (100_000, 16, 16), dtype=np.uint8)
    start = time.perf_counter()
    num = len(near_pairs(Looks(hashes_N=large, thumbs_NSS=thumbs)))
    print(f"100,000 random hashes: {num} pairs in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
