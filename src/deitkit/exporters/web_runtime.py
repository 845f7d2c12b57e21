"""onnxruntime-web, which runs a model in a browser: fetched once from npm, then from the cache."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from deitkit.errors import ConfigError, DeitkitError, ModelFileError
from deitkit.runtime.durable import write_file
from deitkit.runtime.user_cache import user_cache

VERSION = "1.30.0"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/{ARCHIVE}"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the archive in base64, as npm's registry states it."""
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""All that the CPU part of it needs."""
TIMEOUT_S = 30.0
_PIECE = 1 << 18

Progress = Callable[[int, int], None]


def web_runtime(
    archive: Path | None = None, *, progress: Progress = lambda done, total: None
) -> Mapping[str, bytes]:
    """`FILES` and their bytes: of `archive`, else of the cache, else of npm's registry.

    Whatever its way, the archive must be the very one this deitkit is tested with.

    Raises:
        ConfigError: NOT_FOUND, there is no such archive.
        ModelFileError: CHECKSUM; OFFLINE, it is not in the cache and the registry not reached.
        ResourceError: the cache cannot be written.
    """
    if archive is not None:
        if not archive.is_file():
            raise ConfigError("NOT_FOUND", archive, "there is no such file", _by_hand())
        return _unpacked(archive.read_bytes(), archive)
    cached = user_cache("web") / ARCHIVE
    if cached.is_file():
        try:
            return _unpacked(cached.read_bytes(), cached)
        except DeitkitError:
            cached.unlink(missing_ok=True)  # damaged, so it is no copy: fetch it again
    content = _download(progress)
    files = _unpacked(content, ADDRESS)
    write_file(cached, content)
    return files


def _unpacked(content: bytes, subject: object) -> dict[str, bytes]:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != SHA512:
        raise ModelFileError(
            "CHECKSUM", subject, f"it is not onnxruntime-web {VERSION}, or damaged", _by_hand()
        )
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        return {name: _member(archive, f"package/dist/{name}") for name in FILES}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    assert stream is not None, "the checksum says what is in it"
    return stream.read()


def _download(progress: Progress) -> bytes:
    """The archive; `progress` hears bytes done and in all (0: unknown)."""
    content = bytearray()
    try:
        with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT_S) as answer:
            total = int(answer.headers.get("content-length") or 0)
            while piece := answer.read(_PIECE):
                content += piece
                progress(len(content), total)
    except (OSError, urllib.error.URLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ModelFileError(
            "OFFLINE",
            "to=web",
            f"onnxruntime-web {VERSION} is not in the cache, and cannot be fetched from npm's "
            f"registry ({str(reason)[:150]})",
            _by_hand(),
        ) from error
    return bytes(content)


def _by_hand() -> str:
    return (
        f"get {ARCHIVE} where there is a network (npm pack onnxruntime-web@{VERSION}) and add "
        f"runtime={ARCHIVE}"
    )
