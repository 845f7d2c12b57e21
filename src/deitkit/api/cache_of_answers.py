"""A teacher's stored answers, looked at from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deitkit.api.cache_found import ANSWERS, CacheCheck, CacheFound, FileFound, found_at
from deitkit.errors import ModelFileError
from deitkit.teachers.cache_files import DiskFiles, cache_faults, verify_files
from deitkit.teachers.cache_folder import SCHEMA, read_header, read_ids
from deitkit.teachers.cache_records import RecordFormat


def find_answers(path: Path) -> CacheFound:
    try:
        header = read_header(path)
    except ModelFileError:
        header = {}
    disk = DiskFiles(path, record_bytes=1, num_slots=0, writable=False)
    facts = {name: header.get(name) for name in ("num_classes", "dtype", "top_k")}
    # Begun, not necessarily complete.
    facts["num_view_epochs"] = len(disk.epochs()) * header.get("num_repeats", 1)
    return found_at(
        path,
        kind=ANSWERS,
        source=header.get("teacher"),
        num_images=header.get("num_samples"),
        facts=facts,
    )


def check_answers(path: Path) -> CacheCheck:
    """Every record. Raises ResourceError, the disk forbids reading."""
    problems: list[str] = []
    files: dict[str, FileFound] = {}
    if read_ids(path) is None:
        problems.append("sample_ids.bin is damaged")
    try:
        header = read_header(path)
    except ModelFileError as error:
        problems.append(f"header.json: {error.why}")
    else:
        opened = _files_of(path, header)
        if opened is None:
            problems.append(f"written in cache format {header.get('schema')}")
        else:
            records, disk = opened
            with cache_faults(path):
                reports = verify_files(records, disk)
                disk.close()
            files = {f"epoch-{report.epoch:05d}.bin": report for report in reports}
    return CacheCheck(folder=path, kind=ANSWERS, problems=tuple(problems), files=files)


def _files_of(path: Path, header: dict[str, Any]) -> tuple[RecordFormat, DiskFiles] | None:
    """The files of a whole header; None where a later deitkit wrote it."""
    if header.get("schema") != SCHEMA:
        return None
    records = RecordFormat(
        num_classes=header["num_classes"], dtype=header["dtype"], top_k=header["top_k"]
    )
    num_slots = header["num_samples"] * header["num_repeats"]
    disk = DiskFiles(path, record_bytes=records.num_bytes, num_slots=num_slots, writable=False)
    return records, disk
