"""The pictures of docs/concepts.md: `python benchmarks/concept_images.py` writes docs/images.

Curves are drawn by deitkit's own charts from deitkit's own functions, the contact sheet by
`deitkit views`. The two scenes are drawn here, by numbers, so that anybody may publish them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from deitkit.augmentation.op_codes import OP_CODES
from deitkit.augmentation.operations import apply_operations
from deitkit.optim import cosine_with_warmup, scaled_lr
from deitkit.reporting.charts import line_chart

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"

FIXED_PARAMETERS = {
    "autocontrast": 0.0,
    "equalize": 0.0,
    "invert": 0.0,
    "rotate": 27.0,
    "posterize": 1.0,
    "solarize": 26.0,
    "solarize_add": 99.0,
    "color": 1.81,
    "contrast": 1.81,
    "brightness": 1.81,
    "sharpness": 1.81,
    "shear_x": 0.27,
    "shear_y": 0.27,
    "translate_x": 0.405,
    "translate_y": 0.405,
    "grayscale": 0.0,
    "blur": 2.0 / 224,
}
"""What RandAugment's increasing set does at magnitude 9, and 3-Augment's two."""


def draw_harbour() -> Image.Image:
    """A sailing boat on the sea under an evening sky, 480 x 360."""
    width, height, horizon = 480, 360, 210
    rows_H1 = np.linspace(0, 1, horizon)[:, None, None]
    sky_HWC = (1 - rows_H1) * np.array([70, 120, 200]) + rows_H1 * np.array([250, 200, 150])
    rows_H1 = np.linspace(0, 1, height - horizon)[:, None, None]
    sea_HWC = (1 - rows_H1) * np.array([60, 130, 160]) + rows_H1 * np.array([15, 45, 80])
    waves_HW = 10 * np.sin(np.arange(height - horizon)[:, None] ** 1.25 / 3.0)
    waves_HW = waves_HW * np.cos(np.arange(width)[None] / 23.0)
    pixels_HWC = np.concatenate(
        [np.repeat(sky_HWC, width, axis=1), np.repeat(sea_HWC, width, axis=1) + waves_HW[..., None]]
    )
    scene = Image.fromarray(np.clip(pixels_HWC, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(scene)
    pen.ellipse((350, 60, 410, 120), fill=(255, 240, 200))
    pen.polygon([(0, 210), (60, 150), (130, 185), (190, 165), (250, 210)], fill=(90, 100, 110))
    pen.polygon([(150, 262), (330, 262), (300, 300), (180, 300)], fill=(170, 50, 40))
    pen.rectangle((150, 256, 330, 263), fill=(245, 245, 240))
    pen.rectangle((236, 90, 242, 258), fill=(90, 60, 35))
    pen.polygon([(232, 100), (232, 246), (160, 246)], fill=(250, 250, 245))
    pen.polygon([(246, 110), (246, 246), (318, 246)], fill=(240, 190, 60))
    pen.polygon([(242, 88), (242, 104), (266, 96)], fill=(200, 30, 60))
    for x, y in ((90, 70), (120, 90), (70, 105)):
        pen.arc((x - 12, y - 6, x, y + 6), 200, 340, fill=(40, 40, 50), width=3)
        pen.arc((x, y - 6, x + 12, y + 6), 200, 340, fill=(40, 40, 50), width=3)
    return scene.filter(ImageFilter.GaussianBlur(0.6))


def draw_meadow() -> Image.Image:
    """A house, a tree and flowers on a meadow, 480 x 360."""
    width, height, horizon = 480, 360, 180
    rows_H1 = np.linspace(0, 1, horizon)[:, None, None]
    sky_HWC = (1 - rows_H1) * np.array([110, 170, 235]) + rows_H1 * np.array([215, 235, 250])
    rows_H1 = np.linspace(0, 1, height - horizon)[:, None, None]
    grass_HWC = (1 - rows_H1) * np.array([140, 190, 90]) + rows_H1 * np.array([40, 110, 40])
    pixels_HWC = np.concatenate(
        [np.repeat(sky_HWC, width, axis=1), np.repeat(grass_HWC, width, axis=1)]
    )
    scene = Image.fromarray(pixels_HWC.astype(np.uint8))
    pen = ImageDraw.Draw(scene)
    for x, y, r in ((90, 60, 26), (120, 50, 34), (155, 62, 26), (330, 80, 20), (355, 72, 28)):
        pen.ellipse((x - r, y - 0.6 * r, x + r, y + 0.6 * r), fill=(250, 250, 252))
    pen.rectangle((270, 150, 400, 240), fill=(225, 205, 170))
    pen.polygon([(255, 152), (335, 95), (415, 152)], fill=(150, 60, 50))
    pen.rectangle((320, 185, 350, 240), fill=(95, 60, 40))
    for left in (283, 362):
        pen.rectangle((left, 170, left + 26, 198), fill=(120, 180, 220), outline=(250, 250, 250))
    pen.rectangle((112, 180, 130, 262), fill=(100, 70, 45))
    for x, y, r in ((120, 140, 52), (88, 165, 34), (154, 165, 34)):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(45, 120 + r, 55))
    chance = np.random.default_rng(7)
    for x, y in chance.uniform((10, 270), (470, 350), (60, 2)):
        r = 2 + (y - 270) / 20
        colour = ((235, 70, 90), (250, 220, 70), (190, 110, 220))[int(x) % 3]
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return scene.filter(ImageFilter.GaussianBlur(0.6))


def draw_operations_sheet(scene: Image.Image) -> Image.Image:
    """One cell for each operation, its name and parameter below."""
    cell_w, cell_h, gap, text_height, num_columns = 168, 126, 12, 22, 6
    small = scene.resize((cell_w, cell_h), Image.Resampling.LANCZOS)
    mean = tuple(round(float(level)) for level in np.asarray(small).mean(axis=(0, 1)))
    cells = [("original", small)]
    for name, parameter in FIXED_PARAMETERS.items():
        ops_L, params_L = np.array([OP_CODES[name]]), np.array([parameter])
        (shown,) = apply_operations([small], ops_L, params_L, op_fill=mean)
        label = name.replace("_", " ")
        if parameter:
            label += f" {parameter:.3g}" if name != "blur" else f" {100 * parameter:.1f} % of side"
        cells.append((label, shown))
    num_rows = -(-len(cells) // num_columns)
    pitch_w, pitch_h = cell_w + gap, cell_h + text_height + gap
    sheet = Image.new("RGB", (gap + num_columns * pitch_w, gap + num_rows * pitch_h), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for k, (label, shown) in enumerate(cells):
        left, top = gap + k % num_columns * pitch_w, gap + k // num_columns * pitch_h
        sheet.paste(shown, (left, top))
        pen.text((left, top + cell_h + 3), label, font=font, fill=(30, 30, 30))
    return sheet


def temperature_chart() -> str:
    """Section 4: five classes' probabilities over the temperature."""
    logits_K = torch.tensor([6.0, 4.0, 2.0, -1.0, -2.0])
    names = ("cat 6", "lynx 4", "dog 2", "car -1", "ship -2")
    places = np.geomspace(0.1, 100, 80)
    rows_TK = [(logits_K / tau).softmax(0).tolist() for tau in places]
    series = {
        name: [(float(tau), row[k]) for tau, row in zip(places, rows_TK, strict=True)]
        for k, name in enumerate(names)
    }
    return line_chart(
        series,
        title="Softmax of five logits at other temperatures",
        x_label="temperature",
        y_label="probability",
        log_x=True,
    )


def schedule_chart() -> str:
    """Section 7: 300 epochs at three batch sizes."""
    series = {}
    for batch_size in (1024, 512, 256):
        peak = scaled_lr(5e-4, batch_size=batch_size)
        series[f"batch {batch_size}"] = [
            (
                t / 4,
                1e3
                * cosine_with_warmup(t / 4, total=300, peak=peak, end=1e-5, warmup=5, start=1e-6),
            )
            for t in range(4 * 300 + 1)
        ]
    return line_chart(
        series,
        title="Warm-up and cosine, 5e-4 x batch / 512",
        x_label="epoch",
        y_label="learning rate, thousandths",
    )


def warmup_chart() -> str:
    """Section 7: the first epochs, step by step and as the authors' code sets it."""

    def rate(t: float) -> float:
        return 1e3 * cosine_with_warmup(t, total=300, peak=1e-3, end=1e-5, warmup=5, start=1e-6)

    smooth = [(t / 20, rate(t / 20)) for t in range(8 * 20 + 1)]
    stairs = []
    for epoch in range(8):
        level = rate(max(0, epoch - 1))
        stairs += [(float(epoch), level), (float(epoch + 1), level)]
    return line_chart(
        {"each step, as here": smooth, "the authors' code": stairs},
        title="The first eight epochs",
        x_label="epoch",
        y_label="learning rate, thousandths",
    )


def average_chart() -> str:
    """Section 11: what share of the average is still the first weights."""
    places = [float(n) for n in np.unique(np.geomspace(1, 100_000, 140).astype(int))]
    series = {f"decay {decay}": [(n, decay**n) for n in places] for decay in (0.99996, 0.9996)}
    share, shares = 1.0, []
    for n in range(1, int(places[-1]) + 1):
        # Half-life 2 % of a run of 4,500 steps, with the warm-up of `WeightAverage`.
        share *= min(0.5 ** (1 / 90), 1 - (1.0 + n) ** (-2 / 3))
        shares.append(share)
    series["half-life 90, warm-up"] = [(n, shares[int(n) - 1]) for n in places]
    return line_chart(
        series,
        title="The first weights' share of the average",
        x_label="steps",
        y_label="share",
        log_x=True,
    )


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    harbour = draw_harbour()
    harbour.save(FOLDER / "harbour.png", optimize=True)
    draw_meadow().save(FOLDER / "meadow.png", optimize=True)
    draw_operations_sheet(harbour).save(FOLDER / "operations.png", optimize=True)
    for name, chart in (
        ("temperature", temperature_chart()),
        ("learning_rate", schedule_chart()),
        ("warmup", warmup_chart()),
        ("average", average_chart()),
    ):
        (FOLDER / f"{name}.svg").write_text(chart, encoding="utf-8")
    # The same command as in the text.
    command = ["views", "harbour.png", "meadow.png", "count=10", "image_size=160", "out=views.png"]
    subprocess.run([sys.executable, "-m", "deitkit", *command], cwd=FOLDER, check=True)


if __name__ == "__main__":
    main()
