"""The data doctor: a data set examined before any training, and its labels after one."""

# Shapes: N images, H height, W width, C channels.

from __future__ import annotations

import json
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import MEMORY_SHARE, Progress, no_progress
from deitkit.data import DecodePolicy, open_dataset, printable
from deitkit.errors import ConfigError, DataError, ResourceError
from deitkit.runtime.durable import write_file
from deitkit.runtime.memory import available_memory_bytes

if TYPE_CHECKING:
    from deitkit.api.reviewing import Doubtful
    from deitkit.api.run import Run
    from deitkit.data.doctor import Examined

REPORT_FILE, JSON_FILE, SPLIT_FOLDER = "report.html", "report.json", "split"
NUM_DOUBTFUL = 48
VAL_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """What `check` found."""

    source: str
    stops: str | None
    """Why training would refuse this data; None where it would not."""
    examined: Examined | None
    """None where not one picture could be read."""
    doubtful: Doubtful | None

    def doubtful_places(self) -> list[int]:
        """The labels that all who judge speak against with one voice, the most doubtful first."""
        if self.doubtful is None:
            return []
        order = self.doubtful.order
        return order[self.doubtful.contradicted()[order]][:NUM_DOUBTFUL].tolist()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = {
            "source": self.source,
            "stops_training": self.stops,
            "findings": [],
            "doubtful_labels": [],
        }
        if self.doubtful is not None:
            rows = [self.doubtful.row(place) for place in self.doubtful_places()]
            found["doubtful_labels"] = [{**row, "path": printable(row["path"])} for row in rows]
        if self.examined is None:
            return found
        describe = self.examined.images.describe
        found["findings"] = [
            {
                "code": one.code,
                "level": one.level,
                "title": one.title,
                "why": one.why,
                "do": one.do,
                "count": one.count,
                "groups": [[printable(describe(place)) for place in group] for group in one.groups],
                "names": list(one.names),
            }
            for one in self.examined.findings
        ]
        report = self.examined.whole.report.to_dict()
        found["data"] = {
            key: report[key] for key in ("num_images", "class_counts", "heights", "widths")
        }
        return found


@dataclass(frozen=True, kw_only=True)
class WrittenCheck:
    """What `write_check` wrote."""

    files: tuple[Path, ...]
    split_command: str | None
    """Trains on a split that keeps together what looks alike; None where there is none."""
    split_note: str | None
    """Why there is none, where one was to be expected."""


def check(
    data: Any, *, run: Run | str | Path | None = None, progress: Progress = no_progress
) -> Checked:
    """Examine a data set; with a `run` trained on it, its labels as well. Changes nothing.

    All its splits are looked at, the test split too, also where training would refuse it.

    Raises:
        ConfigError: the source does not exist.
        DataError: an image cannot be read any more.
    """
    from deitkit.data.doctor import examine
    from deitkit.data.whole_source import open_whole

    shown = str(data) if isinstance(data, str | os.PathLike) else "a Python sequence"
    keep_bytes = int(MEMORY_SHARE * (available_memory_bytes() or 0)) // 2

    def reading(done: int, total: int | None) -> None:
        progress("reading images", done, total)

    dataset, stops = None, None
    try:
        dataset = open_dataset(data, decode=DecodePolicy(), keep_bytes=keep_bytes, progress=reading)
    except DataError as error:
        stops = str(error)
    try:
        whole = open_whole(data, dataset=dataset, keep_bytes=keep_bytes, progress=reading)
    except DataError as error:
        return Checked(source=shown, stops=stops or str(error), examined=None, doubtful=None)
    examined = None
    if whole is not None:
        examined = examine(
            whole, progress=lambda done, total: progress("looking at pictures", done, total)
        )
    doubtful = None
    if run is not None:
        from deitkit.api.reviewing import find_doubtful

        doubtful = find_doubtful(run, data=data, progress=progress)
    return Checked(source=shown, stops=stops, examined=examined, doubtful=doubtful)


def write_check(checked: Checked, folder: Path) -> WrittenCheck:
    """The report as a page and as JSON, and a split that keeps together what looks alike.

    Raises:
        ConfigError: INSIDE_DATA, the folder lies in the user's data.
        ResourceError: the disk refused.
    """
    from deitkit.reporting.pages import render_page

    folder = folder.resolve()
    source = Path(checked.source).expanduser()
    if source.is_dir() and folder.is_relative_to(source.resolve()):
        raise ConfigError(
            "INSIDE_DATA", folder, "lies in the data, which is never written to", "choose out="
        )
    command, note = _write_split(checked, folder / SPLIT_FOLDER)
    facts = {**checked.to_dict(), "split_command": command, "split_note": note}
    files = {
        JSON_FILE: (json.dumps(facts, indent=1) + "\n").encode(),
        REPORT_FILE: render_page("check.html", _page_facts(checked, facts)),
    }
    for name, content in files.items():
        write_file(folder / name, content)
    return WrittenCheck(
        files=tuple(folder / name for name in files), split_command=command, split_note=note
    )


def _write_split(checked: Checked, folder: Path) -> tuple[str | None, str | None]:
    """The command that trains on a split of a folder that has none, or why there is none."""
    from deitkit.data.split_table import split_table

    examined, root = checked.examined, Path(checked.source).expanduser()
    if examined is None or not root.is_dir() or not examined.whole.can_be_split:
        return None, None
    try:
        is_val_T = examined.split_together(VAL_FRACTION)
    except ValueError as error:
        name = printable(examined.images.class_names[error.args[0]])
        return None, _no_split(f"all pictures of {name} look the same or like other classes")
    table = split_table(examined.whole, is_val_T, root)
    if isinstance(table, str):
        return None, _no_split(table)
    try:
        return shlex.join(["deitkit", "train", *table.write(folder)]), None
    except ResourceError as error:
        return None, _no_split(str(error))


def _no_split(why: str) -> str:
    return f"There is no split that keeps together what looks alike: {why}."


def _page_facts(checked: Checked, facts: dict[str, Any]) -> dict[str, Any]:
    import deitkit
    from deitkit.reporting.pages import picture
    from deitkit.reporting.report_facts import data_facts

    examined, doubtful = checked.examined, checked.doubtful
    findings: list[dict[str, Any]] = []
    data_rows: list[tuple[str, str]] = []
    if examined is not None:
        data_rows, _ = data_facts(examined.whole.report.to_dict())
        for one in examined.findings:
            groups = [[_shown(examined, place) for place in group] for group in one.groups]
            findings.append({"one": one, "groups": groups})
    doubts = []
    if doubtful is not None:
        for place in checked.doubtful_places():
            shown = picture(doubtful.images.image(place))
            doubts.append({**doubtful.row(place), "image": shown})
    return {
        "source": checked.source,
        "stops": checked.stops,
        "findings": findings,
        "doubts": doubts,
        "data": data_rows,
        "split_command": facts["split_command"],
        "split_note": facts["split_note"],
        "version": deitkit.__version__,
        "when": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _shown(examined: Examined, place: int) -> dict[str, str]:
    from deitkit.reporting.pages import picture

    images, whole = examined.images, examined.whole
    return {
        "image": picture(images.image(place), side=112),
        "label": images.class_names[images.labels[place]],
        "split": whole.split_of(place) if len(whole.splits) > 1 else "",
        "path": images.describe(place),
    }
