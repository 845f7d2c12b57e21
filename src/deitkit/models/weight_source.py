"""Where weights come from, and all that is known about them before a model exists."""

# Shapes: K classes.

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deitkit.errors import ModelFileError
from deitkit.models.hub import Progress, fetch
from deitkit.models.hub_names import is_hub_name
from deitkit.models.inferred import head_key, infer_architecture
from deitkit.models.source_facts import (
    SourcePreprocessing,
    class_names_of,
    licence_of,
    preprocessing_of,
)
from deitkit.models.weight_files import read_folder_json, read_state_dict, weights_in_folder
from deitkit.models.weight_formats import FORMATS, rename_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightSource:
    """Weights under timm's names, with what the files beside them say."""

    source: str
    """As it was asked for: a path, `hf:owner/name`, `timm:name`, or "state dict"."""
    file: Path | None
    """The weights file on this machine."""
    sha256: str | None
    """Of that file, in hex."""
    format: str
    """A key of `weight_formats.FORMATS`."""
    tensors: Mapping[str, Tensor]
    set_aside: tuple[str, ...]
    """Keys of layers that no classifier reads, in the source's spelling."""
    config: Mapping[str, Any]
    """The config.json beside the weights; empty without one."""
    preprocessing: SourcePreprocessing | None
    class_names: tuple[str, ...] | None
    licence: str | None

    @property
    def architecture(self) -> dict[str, Any]:
        """`create_model(**architecture)` is a model these weights fit. Raises as its maker,
        `infer_architecture`."""
        return infer_architecture(self.tensors, self.config, format=self.format)

    @property
    def num_classes(self) -> int | None:
        """Rows of the head; None where there is none."""
        key = head_key(self.tensors)
        return None if key is None else self.tensors[key].shape[0]

    def describe(self) -> str:
        """One line: what, from where, under which licence."""
        licence = f"licence {self.licence}" if self.licence else "licence not stated"
        digest = "" if self.sha256 is None else f", sha256 {self.sha256[:12]}"
        return f"{self.source} ({FORMATS[self.format]}, {licence}{digest})"


def describe_source(
    source: str | Path | Mapping[str, Tensor],
    *,
    model_keys: Collection[str] = (),
    progress: Progress | None = None,
    local_only: bool = False,
) -> WeightSource:
    """Read weights from a file, a folder (Hugging Face's or timm's hub), a state dict or the hub.

    A folder holds model.safetensors or pytorch_model.bin, and config.json beside it; of a file
    alone nothing but its tensors is known. `hf:owner/name[@revision]` and `timm:name[.tag]` are
    taken from the cache or the network (`hub.fetch`, which `progress` and `local_only` are for).
    `model_keys` are parameter names that count as known besides the public ones.

    Raises:
        ModelFileError: as `read_state_dict`, `rename_weights`, `fetch`; SHARDED; JSON, BAD_CONFIG
            and CONFIG_LIES for the files beside the weights.
        ConfigError: HUB_NAME for a name of the hub that cannot be.
    """
    if isinstance(source, Mapping):
        return _describe("state dict", dict(source), None, {}, None, model_keys)
    text = str(source)
    if is_hub_name(text):
        path = fetch(text, progress=progress, local_only=local_only)
    else:
        path = Path(source).expanduser()
    if not path.is_dir():
        return _describe(text, read_state_dict(path), path, {}, None, model_keys)
    file = weights_in_folder(path)
    config = read_folder_json(path / "config.json")
    return _describe(text, read_state_dict(file), file, config, path, model_keys)


def _describe(
    text: str,
    tensors: dict[str, Tensor],
    file: Path | None,
    config: dict[str, Any],
    folder: Path | None,
    model_keys: Collection[str],
) -> WeightSource:
    renamed = rename_weights(tensors, text, model_keys=model_keys)
    processor = {} if folder is None else read_folder_json(folder / "preprocessor_config.json")
    found = WeightSource(
        source=text,
        file=file,
        sha256=None if file is None else sha256_of(file),
        format=renamed.format,
        tensors=renamed.tensors,
        set_aside=renamed.set_aside,
        config=config,
        preprocessing=None if folder is None else preprocessing_of(config, processor, text),
        class_names=class_names_of(config, text),
        licence=None if folder is None else licence_of(config, folder),
    )
    _check_class_count(found)
    return found


def _check_class_count(found: WeightSource) -> None:
    names, num_classes = found.class_names, found.num_classes
    if names is not None and num_classes is not None and len(names) != num_classes:
        raise ModelFileError(
            "CONFIG_LIES",
            found.source,
            f"config.json names {len(names)} classes, the head has {num_classes}",
            "fetch the folder again, or mend config.json",
        )


def sha256_of(path: Path) -> str:
    """The digest of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
