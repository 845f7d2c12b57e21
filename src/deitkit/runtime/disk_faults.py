"""What the operating system says of a disk, turned into what the user can do about it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from deitkit.errors import ResourceError

_ADVICE = {
    "ENOSPC": "free some space or choose another folder with out=",
    "EDQUOT": "your quota is used up: delete something or choose another folder with out=",
    "EFBIG": "the file is larger than this disk or limit (ulimit -f) allows; choose another folder",
    "EROFS": "the disk is mounted read-only; choose another folder with out=",
    "EACCES": "change the folder's permissions or choose another one with out=",
    "EPERM": "change the folder's permissions or choose another one with out=",
    "ENAMETOOLONG": "choose a shorter folder name",
    "EMFILE": "raise the limit of open files (ulimit -n)",
    "ENFILE": "the whole machine is out of open files; close some programs",
    "ENOTDIR": "a file stands where a folder is needed; choose another folder with out=",
    "EEXIST": "something of another kind already has this name; choose another folder with out=",
    "EISDIR": "a folder stands where a file is needed; move it away",
    "EIO": "the disk reports a hardware error; check it and choose another folder with out=",
    "ELOOP": "the path goes through a circle of links; choose another folder with out=",
}


def free_space_bytes(path: Path) -> int | None:
    """Bytes an ordinary user may still write where `path` is or would be; None if unknown."""
    for existing in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(existing).free
        except OSError:
            continue
    return None


def disk_fault(error: OSError, path: Path, *, bytes_needed: int | None = None) -> ResourceError:
    """The `ResourceError` for a failed filesystem call: its code is the errno's own name."""
    name = errno.errorcode.get(error.errno or 0, "IO_ERROR")
    why = os.strerror(error.errno) if error.errno else str(error)
    if bytes_needed is not None:
        free = free_space_bytes(path)
        known = "unknown" if free is None else f"{free:,} bytes"
        why = f"{why} ({bytes_needed:,} bytes needed, {known} free)"
    do = _ADVICE.get(name, "check the disk, or choose another folder with out=")
    return ResourceError(name, path, why, do)
