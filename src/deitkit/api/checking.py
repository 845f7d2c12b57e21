"""The data doctor: a data set examined before any training, and its labels after one."""

# Shapes: N images, H height, W width, C channels.

from __future__ import annotations

import csv
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress
from deitkit.data import DecodePolicy, open_dataset, printable
from deitkit.data.sources import resolve_source
from deitkit.errors import ConfigError, DataError
from deitkit.runtime.durable import write_file

if TYPE_CHECKING:
    from deitkit.api.reviewing import Doubtful
    from deitkit.api.run import Run
    from deitkit.data import Dataset
    from deitkit.data.doctor import Examined

REPORT_FILE, JSON_FILE, SPLIT_FILE = "report.html", "report.json", "split.csv"
NUM_DOUBTFUL = 48
VAL_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """What `check` found."""

    source: str
    stops: str | None
    """Why training would refuse this data; None where it would not."""
    dataset: Dataset | None
    examined: Examined | None
    """None where the data could not be read far enough."""
    doubtful: Doubtful | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        findings = [] if self.examined is None else self.examined.findings
        found: dict[str, Any] = {
            "source": self.source,
            "stops_training": self.stops,
            "findings": [
                {
                    "code": one.code,
                    "level": one.level,
                    "title": one.title,
                    "why": one.why,
                    "do": one.do,
                    "count": one.count,
                    "groups": [
                        [printable(self.examined.describe(place)) for place in group]
                        for group in one.groups
                    ]
                    if self.examined is not None
                    else [],
                    "names": list(one.names),
                }
                for one in findings
            ],
            "doubtful_labels": [],
        }
        if self.dataset is not None:
            report = self.dataset.report.to_dict()
            found["data"] = {
                key: report[key] for key in ("num_images", "class_counts", "heights", "widths")
            }
        if self.doubtful is not None:
            rows = [row for row in self.doubtful.rows(NUM_DOUBTFUL) if row["doubt"] > 0]
            found["doubtful_labels"] = [{**row, "path": printable(row["path"])} for row in rows]
        return found


def check(
    data: Any, *, run: Run | str | Path | None = None, progress: Progress = no_progress
) -> Checked:
    """Examine a data set; with a `run` trained on it, its labels as well. Changes nothing.

    Raises:
        ConfigError: the source does not exist.
        DataError: an image cannot be read any more.
    """
    from deitkit.data.doctor import examine

    shown = str(data) if isinstance(data, str | os.PathLike) else "a Python sequence"
    try:
        dataset = open_dataset(
            data,
            decode=DecodePolicy(),
            progress=lambda done, total: progress("reading images", done, total),
        )
    except DataError as error:
        return Checked(source=shown, stops=str(error), dataset=None, examined=None, doubtful=None)
    has_own_split = "val" in resolve_source(data).splits
    examined = examine(
        dataset,
        has_own_split=has_own_split,
        progress=lambda done, total: progress("looking at pictures", done, total),
    )
    doubtful = None
    if run is not None:
        from deitkit.api.reviewing import find_doubtful

        doubtful = find_doubtful(run, data=data, progress=progress)
    return Checked(source=shown, stops=None, dataset=dataset, examined=examined, doubtful=doubtful)


def write_check(checked: Checked, folder: Path) -> list[Path]:
    """The report as a page and as JSON, and a split that keeps together what looks alike.

    Raises:
        ConfigError: INSIDE_DATA, the folder lies in the user's data.
        ResourceError: the disk refused.
    """
    from deitkit.reporting.pages import render_page

    folder = folder.resolve()
    source = Path(checked.source)
    if source.is_dir() and folder.is_relative_to(source.resolve()):
        raise ConfigError(
            "INSIDE_DATA", folder, "lies in the data, which is never written to", "choose out="
        )
    facts = checked.to_dict()
    files = {
        JSON_FILE: (json.dumps(facts, indent=1) + "\n").encode(),
        REPORT_FILE: render_page("check.html", _page_facts(checked, facts)),
    }
    split = _split_table(checked, folder)
    if split is not None:
        files[SPLIT_FILE] = split
    for name, content in files.items():
        write_file(folder / name, content)
    return [folder / name for name in files]


def _split_table(checked: Checked, folder: Path) -> bytes | None:
    """path, label, split of every picture; None for data with a split of its own or without paths.

    Paths are absolute: the table lies elsewhere than the pictures.
    """
    examined = checked.examined
    if examined is None or examined.has_own_split or not Path(checked.source).is_dir():
        return None
    try:
        is_val_N = examined.split_together(VAL_FRACTION)
    except ValueError:  # a class of one group alone
        return None
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "label", "split"])
    names = examined.images.class_names
    for place, is_val in enumerate(is_val_N):
        label = names[examined.images.labels[place]]
        path = os.path.relpath(Path(examined.describe(place)).absolute(), folder)
        writer.writerow([path, label, "val" if is_val else "train"])
    return stream.getvalue().encode("utf-8", "surrogateescape")


def _page_facts(checked: Checked, facts: dict[str, Any]) -> dict[str, Any]:
    import deitkit
    from deitkit.reporting.pages import picture
    from deitkit.reporting.report_facts import data_facts

    examined, doubtful = checked.examined, checked.doubtful
    findings = []
    if examined is not None:
        names = examined.images.class_names
        for one in examined.findings:
            groups = [
                [
                    {
                        "image": picture(examined.images.image(place), side=112),
                        "label": names[examined.images.labels[place]],
                        "split": "val"
                        if examined.has_own_split and place >= examined.num_train
                        else "",
                        "path": examined.describe(place),
                    }
                    for place in group
                ]
                for group in one.groups
            ]
            findings.append({"one": one, "groups": groups})
    doubts = []
    if doubtful is not None:
        for place in doubtful.order[:NUM_DOUBTFUL].tolist():
            row = doubtful.row(place)
            if row["doubt"] > 0:
                image = picture(doubtful.images.image(place), side=160)
                doubts.append({**row, "image": image})
    data_rows, _ = ([], []) if checked.dataset is None else data_facts(_report(checked.dataset))
    return {
        "source": checked.source,
        "stops": checked.stops,
        "findings": findings,
        "doubts": doubts,
        "data": data_rows,
        "version": deitkit.__version__,
        "when": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _report(dataset: Dataset) -> dict[str, Any]:
    return dataset.report.to_dict()
