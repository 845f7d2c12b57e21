"""The figure that opens docs/results.md: accuracy against the arithmetic of training.

    pip install matplotlib==3.11.2
    python benchmarks/accuracy_figure.py [--png figure.png]

Ours are read from the table that accuracy.py writes. The published ones are as their authors give
them, without external data; where they give no PFLOP it is worked out from multiply-adds, images
and epochs (two for each multiply-add, backward twice forward).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from results_table import PAGE, rows_of

IMAGE = PAGE.parent / "images" / "accuracy.svg"


class Point(NamedTuple):
    label: str
    pflop: float
    percent: float


class Published(NamedTuple):
    transformers: list[Point]
    convolutional: list[Point]


PUBLISHED = {
    "CIFAR-10 32x32": Published(
        transformers=[
            Point("mini-ViT, 0.8 M", 3, 86.3),
            Point("ViT-Lite-7/4", 23, 93.57),
            Point("SPT and LSA", 18, 94.53),
            Point("CCT-7/3x2", 26, 95.04),
            Point("CCT-7/3x1", 107, 96.53),
            Point("CCT, 5000 epochs", 1785, 98.0),
            Point("DeiT-B, 224 px", 5300, 97.5),
        ],
        convolutional=[
            Point("airbench94", 0.29, 94.01),
            Point("airbench95", 1.4, 95.0),
            Point("airbench96", 3.1, 96.0),
            Point("ResNet-18", 32, 96.0),
        ],
    ),
    "Fashion-MNIST 28x28": Published(
        transformers=[Point("ViT, 0.2 M", 0.87, 92.3)], convolutional=[]
    ),
}
"""Jordan 2024, arXiv:2404.00498 (airbench); Hassani et al. 2021, arXiv:2104.05704 (ViT-Lite, CCT);
Lee et al. 2021, arXiv:2112.13492 (SPT and LSA); Touvron et al. 2021, arXiv:2012.12877, table 7."""

STYLES = {
    "our students": ("#0072b2", "o"),
    "the same without a teacher": ("#56b4e9", "v"),
    "our teachers": ("#d55e00", "s"),
    "our convolutional networks": ("#e69f00", "^"),
    "published transformers": ("#555555", "D"),
    "published convolutional networks": ("#999999", "P"),
}
"""Colours of Okabe and Ito, with a marker each."""
ARMS = {
    "student": "our students",
    "alone": "the same without a teacher",
    "its teacher": "our teachers",
    "cnn": "our convolutional networks",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--png", type=Path, help="draw it as PNG too, to look at")
    asked = parser.parse_args()
    import matplotlib

    matplotlib.use("svg")
    # The same file for the same points: no date in it, no random ids.
    matplotlib.rcParams |= {"svg.hashsalt": "deitkit", "svg.fonttype": "path", "font.size": 10}
    from matplotlib import pyplot

    panels = [name for name in PUBLISHED if of_rows(name)]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8, 4.6 * len(panels)), layout="constrained", squeeze=False
    )
    for name, ax in zip(panels, axes[:, 0], strict=True):
        draw(ax, name)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(IMAGE, metadata={"Date": None})
    print(IMAGE)
    if asked.png:
        figure.savefig(asked.png, dpi=110)


def of_rows(name: str) -> dict[str, list[Point]]:
    """Our points of one data set, by style."""
    found: dict[str, list[Point]] = {}
    for data, arm, network, accuracy, _, _, pflop, _ in rows_of("accuracy.py"):
        if data == name and arm in ARMS:
            point = Point(network.split(",")[0], float(pflop), float(accuracy.split()[0]))
            found.setdefault(ARMS[arm], []).append(point)
    return found


def draw(ax: Any, name: str) -> None:
    published = PUBLISHED[name]
    series = {
        **of_rows(name),
        "published transformers": published.transformers,
        "published convolutional networks": published.convolutional,
    }
    dearest = max(p.pflop for points in series.values() for p in points)
    for style, (colour, marker) in STYLES.items():
        points = series.get(style, [])
        ax.plot(
            [p.pflop for p in points],
            [p.percent for p in points],
            linestyle="none",
            color=colour,
            marker=marker,
            markersize=8,
            label=style,
        )
        for p in points if style.startswith("published") else []:
            # Below to the right, but the dearest to the left: the axis ends there.
            side = -1 if p.pflop > dearest / 10 else 1
            ax.annotate(
                p.label,
                (p.pflop, p.percent),
                (6 * side, -12),
                textcoords="offset points",
                fontsize=8,
                horizontalalignment="left" if side == 1 else "right",
            )
    ax.set_xscale("log")
    ax.margins(x=0.06, y=0.1)
    ax.set_title(name.split(" ")[0])
    ax.set_xlabel("PFLOP of training, teacher included")
    ax.set_ylabel("test accuracy, %")
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)


if __name__ == "__main__":
    main()
