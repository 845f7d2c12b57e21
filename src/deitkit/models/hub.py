"""Public weights by name, from the cache of huggingface_hub or over the network.

`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deitkit.errors import ConfigError, ModelFileError
from deitkit.models.hub_names import HubName, parse_hub_name
from deitkit.models.weight_files import FOLDER_FILES, weights_in_folder

Progress = Callable[[str, int, int], None]
"""Called with the file, bytes done and bytes in all while a file comes in; 0 in all: unknown."""

PROBE_DEADLINE_S = 1.5
"""How long the endpoint may take to accept a connection before we call it offline."""

ANSWER_TIMEOUT_S = 10.0

FACT_FILES = ("preprocessor_config.json", "README.md")
"""Fetched besides where there are: preprocessing, and the licence in the model card."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch(name: str, *, progress: Progress | None = None, local_only: bool = False) -> Path:
    """The folder with config.json and weights of `name` (as `parse_hub_name` reads it).

    A copy in the cache is taken as it is; else the files are downloaded into the cache, and the
    weights compared with the sha256 that the hub states. Without a network, or with `local_only`,
    only the cache counts.

    Raises:
        ConfigError: HUB_NAME; MISSING_PACKAGE without huggingface_hub.
        ModelFileError: OFFLINE, within two seconds, where no network is; NOT_CACHED with
            `local_only`; NOT_ON_HUB for a repository that is not there, not open to all, or
            without such files; CHECKSUM for a damaged copy, which is removed; DOWNLOAD for all
            else that went wrong; SHARDED.
    """
    wanted = parse_hub_name(name)
    cached = _cached(name, wanted)
    if cached is not None:
        _check_digest(name, weights_in_folder(cached))
        return cached
    if local_only:
        raise ModelFileError(
            "NOT_CACHED", name, f"it is not in {_cache_dir()}", "fetch it once with a network"
        )
    _check_online(name)
    return _download(name, wanted, progress)


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise ConfigError(
            "MISSING_PACKAGE",
            "hf: and timm: names",
            "they need huggingface_hub, which is not installed",
            "run: pip install huggingface_hub",
        ) from error
    return huggingface_hub


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _cache_dir() -> str:
    """Read at each call: the library reads the environment only once, at its import."""
    named = os.environ.get("HF_HUB_CACHE")
    if not named and os.environ.get("HF_HOME"):
        named = str(Path(os.environ["HF_HOME"]) / "hub")
    return str(Path(named or _library().constants.HF_HUB_CACHE).expanduser())


def _cached(name: str, wanted: HubName) -> Path | None:
    """The snapshot that holds both config.json and weights."""
    look_up = _library().try_to_load_from_cache
    for file in FOLDER_FILES:
        paths = [
            look_up(wanted.repo, part, cache_dir=_cache_dir(), revision=wanted.revision)
            for part in ("config.json", file)
        ]
        if all(isinstance(path, str) for path in paths):
            return Path(paths[0]).parent
    return None


def _check_online(name: str) -> None:
    asked = os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")
    # The library keeps to what the variable said at its import.
    if asked or _library().constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set, and the cache has no copy"
    else:
        address = _probe_address()
        if _accepts_connections(address, PROBE_DEADLINE_S):
            return
        why = f"{address[0]} cannot be reached, and the cache has no copy"
    raise ModelFileError(
        "OFFLINE", name, why, "give a file or folder of weights, or try again with a network"
    )


def _probe_address() -> tuple[str, int]:
    """Host and port that a request goes to first: the endpoint's, or its proxy's."""
    url = urlsplit(_endpoint())
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and url.hostname and not urllib.request.proxy_bypass(url.hostname):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _accepts_connections(address: tuple[str, int], deadline_s: float) -> bool:
    """In a thread of its own, since no timeout ends a look-up of the name that hangs."""
    answered = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=deadline_s).close()
            answered.append(True)
        except (OSError, UnicodeError):
            pass  # not reachable, and that is the answer

    thread = threading.Thread(target=connect, name="deitkit-probe", daemon=True)
    thread.start()
    thread.join(deadline_s)
    return bool(answered)


def _download(name: str, wanted: HubName, progress: Progress | None) -> Path:
    library = _library()
    errors = library.errors
    # Its errors derive from those of the HTTP library it is built on, which has changed before;
    # their common base also catches a connection that breaks.
    http_errors = (*errors.HfHubHTTPError.__bases__, OSError)
    try:
        return _download_all(name, wanted, progress)
    except errors.RevisionNotFoundError as error:
        raise _not_on_hub(name, f"{wanted.repo} has no revision {wanted.revision}") from error
    except errors.RepositoryNotFoundError as error:
        why = f"{wanted.repo} is not there, or not open to all"
        raise _not_on_hub(name, why) from error
    except errors.EntryNotFoundError as error:
        raise _not_on_hub(name, f"{wanted.repo} lacks a file it lists") from error
    except (*http_errors, errors.FileMetadataError, ValueError) as error:
        why = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ModelFileError(
            "DOWNLOAD", name, f"{_endpoint()} did not deliver it ({why})", "try again later"
        ) from error


def _not_on_hub(name: str, why: str) -> ModelFileError:
    return ModelFileError("NOT_ON_HUB", name, why, "check the name, or give a file or folder")


def _download_all(name: str, wanted: HubName, progress: Progress | None) -> Path:
    library = _library()
    info = library.HfApi(endpoint=_endpoint()).model_info(
        wanted.repo, revision=wanted.revision, files_metadata=True, timeout=ANSWER_TIMEOUT_S
    )
    listed = {entry.rfilename: entry for entry in info.siblings or []}
    weights = next((file for file in FOLDER_FILES if file in listed), None)
    if weights is None or "config.json" not in listed:
        lacking = "config.json" if weights is not None else " nor ".join(FOLDER_FILES)
        sharded = any(f"{file}.index.json" in listed for file in FOLDER_FILES)
        why = "its weights are in several files" if sharded else f"{wanted.repo} has no {lacking}"
        raise _not_on_hub(name, why)
    paths = {}
    # The weights come last: a broken download then leaves no folder that looks complete.
    for file in ("config.json", *(f for f in FACT_FILES if f in listed), weights):
        path = library.hf_hub_download(
            wanted.repo,
            file,
            revision=wanted.revision,
            cache_dir=_cache_dir(),
            endpoint=_endpoint(),
            etag_timeout=ANSWER_TIMEOUT_S,
            tqdm_class=_bar_class(progress, file),
        )
        paths[file] = Path(path)
    stated = getattr(listed[weights].lfs, "sha256", None)
    _check_digest(name, paths[weights], stated)
    folders = {path.parent for path in paths.values()}
    if len(folders) > 1:
        raise ModelFileError(
            "DOWNLOAD", name, f"{wanted.repo} changed while it was fetched", "try again"
        )
    return folders.pop()


def _check_digest(name: str, path: Path, stated: str | None = None) -> None:
    """Compare with the digest the hub states, which also names a large file in the cache."""
    blob = path.resolve()
    if stated is None and _SHA256.fullmatch(blob.name):
        stated = blob.name
    if stated is None:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != stated:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ModelFileError(
            "CHECKSUM",
            name,
            f"the sha256 of {path.name} begins {digest[:12]}, the hub states {stated[:12]}",
            "try again; the damaged copy is removed",
        )


def _bar_class(progress: Progress | None, file: str) -> type:
    """What the library takes in place of its progress bar: it counts, and shows nothing itself.

    One download may open two bars, of bytes that came in and of bytes written: the one that is
    ahead is told.
    """
    furthest = 0

    class Bar(_library().utils.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO()})
            self.num_done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            nonlocal furthest
            self.num_done += int(n or 0)
            if progress is not None and self.num_done > furthest:
                furthest = self.num_done
                progress(file, furthest, int(self.total or 0))

    return Bar
