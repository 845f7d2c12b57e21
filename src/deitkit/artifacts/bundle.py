"""For people: a folder that predicts with nothing else beside it, and cannot lie about itself.

`model.safetensors` (timm's parameter names), `config.json` (what `create_model` takes, class
names, preprocessing, head fusion, temperature, provenance) and `manifest.json` with their
digests. Nothing in it is run, imported or fetched: a model is a name in our own registry.
"""

# Shapes: K classes.

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from deitkit.artifacts.state_tree import first_non_finite, to_saved_tensors
from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ConfigError, DataError, DivergedError, ModelFileError
from deitkit.models import ImageModel, create_model
from deitkit.models.weights import check_state_dict
from deitkit.runtime.safetensors_header import TensorEntry, read_safetensors_header
from deitkit.runtime.sealed_folder import (
    MANIFEST,
    BrokenFolderError,
    find_folder,
    read_manifest,
    read_sealed_file,
    replace_folder,
)
from deitkit.runtime.strict_json import MAX_BYTES, load_json

SCHEMA = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
BEST_FOLDER = "best"
FUSIONS = ("mean", "softmax", "fitted", "cls", "dist")
_KEYS = {
    "schema",
    "model",
    "class_names",
    "preprocessing",
    "fusion",
    "temperature",
    "provenance",
    "metrics",
}
_WEIGHT_KEY = "fusion_weight"
"""There where fusion is fitted, and only there."""
_THRESHOLD_KEY = "threshold"
"""There where one was found."""
_HEAD_KEYS = ("head.weight", "head.fc.weight", "head_dist.weight")


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A trained classifier and all it takes to use it."""

    model_config: Mapping[str, Any]
    """`create_model(**model_config)` builds it."""
    class_names: Sequence[str]
    """By class index, exactly as the folders or labels spelt them."""
    preprocessing: Preprocessing
    state_dict: Mapping[str, Tensor]
    """On the CPU, under timm's names."""
    fusion: str = "mean"
    """How two heads become one answer: mean (of logits), softmax, fitted, cls or dist."""
    fusion_weight: float | None = None
    """Of the distillation head, 0 to 1, where fusion is fitted; None otherwise."""
    temperature: float = 1.0
    """Divides each head's logits before fusion; above 0."""
    threshold: float | None = None
    """Where no class has this probability, 0 to 1, the model is not sure; None: it always is."""
    provenance: Mapping[str, Any]
    """Where it comes from (run, data, versions), as JSON."""
    metrics: Mapping[str, Any] | None = None
    """What it reached, as JSON."""

    def build_model(self) -> ImageModel:
        """A fresh model with these weights, in eval mode; chance elsewhere is not disturbed."""
        with torch.random.fork_rng(devices=[]):
            model = create_model(**self.model_config)
        model.load_state_dict(dict(self.state_dict))
        return model.eval()

    def class_index(self, name: str) -> int:
        """The index of the class called `name`. Raises DataError UNKNOWN_CLASS."""
        try:
            return self.class_names.index(name)
        except ValueError as error:
            known = ", ".join(self.class_names[:10])
            raise DataError(
                "UNKNOWN_CLASS",
                name,
                f"the model knows {len(self.class_names)} classes: {known}",
                "rename the class, or train a model on these classes",
            ) from error


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the bundle, replacing one that is there without a moment in which none is found.

    Raises:
        DivergedError: NON_FINITE weights.
        ModelFileError: JSON, where names and provenance exceed 1 MiB.
        ResourceError: the disk refused.
    """
    is_fitted = bundle.fusion == "fitted"
    assert is_fitted == (bundle.fusion_weight is not None), "a weight belongs to fusion=fitted"
    bad = first_non_finite(bundle.state_dict)
    if bad is not None:
        raise DivergedError(
            "NON_FINITE", folder, f"{bad} holds NaN or infinity", "lower lr or clip gradients"
        )
    config = {
        "schema": SCHEMA,
        "model": dict(bundle.model_config),
        "class_names": list(bundle.class_names),
        "preprocessing": bundle.preprocessing.to_dict(),
        "fusion": bundle.fusion,
        **({_WEIGHT_KEY: bundle.fusion_weight} if is_fitted else {}),
        "temperature": bundle.temperature,
        **({} if bundle.threshold is None else {_THRESHOLD_KEY: bundle.threshold}),
        "provenance": dict(bundle.provenance),
        "metrics": None if bundle.metrics is None else dict(bundle.metrics),
    }
    text = (json.dumps(config, indent=2, allow_nan=False) + "\n").encode("ascii")
    load_json(text, folder)
    # Transformers and timm look for this entry; two of them would come in random order.
    weights = safetensors.torch.save(to_saved_tensors(bundle.state_dict), metadata={"format": "pt"})
    files = {WEIGHTS_FILE: weights, CONFIG_FILE: text}
    replace_folder(Path(folder), files, {"kind": "bundle", "schema": SCHEMA})


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle folder, or the best bundle of a run folder; all of it or nothing.

    Raises:
        ModelFileError: NO_BUNDLE; DIGEST for damage; NEWER; JSON, BAD_CONFIG, PREPROCESSING for
            a config that cannot be; CONFIG_LIES where config and weights disagree; UNSAFE,
            LFS_POINTER, WEB_PAGE, CORRUPT for weights that are none; MISMATCH, NOT_FINITE.
    """
    path = Path(path).expanduser()
    while True:
        before = _identity(path)
        try:
            return _load(_find_bundle(path))
        except ModelFileError:
            # A training run may have replaced its best bundle between two of our reads.
            if _identity(path) == before:
                raise


def has_bundle(path: str | Path) -> bool:
    """Whether `path` is a bundle or a run with one, and not weights in somebody else's form."""
    try:
        folder = _find_bundle(Path(path).expanduser())
        return bool(read_manifest(folder).get("kind") == "bundle")
    except BrokenFolderError:
        return True  # a damaged one: loading it says what is wrong
    except ModelFileError:
        return False


def bundle_digest(path: str | Path) -> str:
    """Names the content of the bundle at `path` (itself or in a run folder): 64 bits in hex.

    Raises:
        ModelFileError: NO_BUNDLE.
    """
    manifest = (_find_bundle(Path(path).expanduser()) / MANIFEST).read_bytes()
    return hashlib.sha256(manifest).hexdigest()[:16]


def _load(folder: Path) -> Bundle:
    try:
        manifest = read_manifest(folder)
        _check_schema(folder, manifest.get("schema"), manifest.get("kind") == "bundle")
        if manifest["files"].get(CONFIG_FILE, {}).get("size", 0) > MAX_BYTES:
            raise BrokenFolderError(f"{CONFIG_FILE} is larger than {MAX_BYTES:,} bytes")
        config = load_json(read_sealed_file(folder, manifest, CONFIG_FILE), folder / CONFIG_FILE)
        values = _checked_config(folder / CONFIG_FILE, config)
        header = read_safetensors_header(folder / WEIGHTS_FILE)
        model = _outline(folder / CONFIG_FILE, values, header)
        weights = read_sealed_file(folder, manifest, WEIGHTS_FILE)
        loaded = safetensors.torch.load(weights)
    except (BrokenFolderError, SafetensorError) as error:
        raise ModelFileError(
            "DIGEST", folder, str(error), "copy or export the bundle again; it is not whole"
        ) from error
    # The library gives them in another order each time; the file has one.
    tensors = {name: loaded[name] for name in header}
    check_state_dict(model, tensors, str(folder / WEIGHTS_FILE))
    return Bundle(**values, state_dict=tensors)


def _identity(path: Path) -> list[tuple[int, ...]]:
    """Changes whenever the bundle meant by `path` is replaced; the number of a folder that is gone
    may be given to the next one, so its times count too."""
    candidates = (path / BEST_FOLDER, path)
    found = [folder for folder in map(find_folder, candidates) if folder is not None]
    with contextlib.suppress(OSError):
        stats = [folder.stat() for folder in found]
        return [(each.st_ino, each.st_mtime_ns, each.st_ctime_ns) for each in stats]
    return []


def _find_bundle(path: Path) -> Path:
    """The bundle folder meant by `path`: itself, or best/ in it."""
    for candidate in (path / BEST_FOLDER, path):
        found = find_folder(candidate)
        if found is not None and (found / MANIFEST).is_file():
            return found
    why = "there is no finished bundle in it" if path.exists() else "it does not exist"
    raise ModelFileError(
        "NO_BUNDLE", path, why, "give the folder of a run that has evaluated, or of a bundle"
    )


def _check_schema(subject: Path, schema: object, is_bundle: bool) -> None:
    if not is_bundle or type(schema) is not int or schema < 1:
        raise _bad_config(subject, "this is not a bundle")
    if schema > SCHEMA:
        raise ModelFileError(
            "NEWER",
            subject,
            f"written in bundle format {schema}, this deitkit reads up to {SCHEMA}",
            "update deitkit",
        )


def _checked_config(path: Path, config: Any) -> dict[str, Any]:
    """The arguments of `Bundle` but the weights, each of the right kind."""
    if not isinstance(config, dict):
        raise _bad_config(path, "it is not a table")
    _check_schema(path, config.get("schema"), True)
    keys = _KEYS | ({_WEIGHT_KEY} if config.get("fusion") == "fitted" else set())
    keys |= {_THRESHOLD_KEY} & set(config)
    if set(config) != keys:
        unknown = sorted(set(config) - keys)[:10]
        missing = sorted(keys - set(config))
        raise _bad_config(path, f"unknown keys {unknown}, missing keys {missing}")
    names, temperature = config["class_names"], config["temperature"]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise _bad_config(path, "class_names is not a list of texts")
    twice, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise _lies(path, f"the class {twice[:80]!r} stands {count} times among {len(names)} names")
    if config["fusion"] not in FUSIONS:
        raise _bad_config(path, f"fusion is {config['fusion']!r}, not one of {', '.join(FUSIONS)}")
    for key in (_WEIGHT_KEY, _THRESHOLD_KEY):
        share = config.get(key, 0)
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise _bad_config(path, f"{key} is {share!r}, not a number from 0 to 1")
    if type(temperature) not in (int, float) or not 0 < temperature < 1e6:
        raise _bad_config(path, f"temperature is {temperature!r}, not a number above 0")
    for key in ("model", "provenance"):
        if not isinstance(config[key], dict):
            raise _bad_config(path, f"{key} is not a table")
    if config["metrics"] is not None and not isinstance(config["metrics"], dict):
        raise _bad_config(path, "metrics is not a table")
    return {
        "model_config": config["model"],
        "class_names": tuple(names),
        "preprocessing": Preprocessing.from_dict(config["preprocessing"]),
        "fusion": config["fusion"],
        "fusion_weight": float(config[_WEIGHT_KEY]) if _WEIGHT_KEY in config else None,
        "temperature": float(temperature),
        "threshold": float(config[_THRESHOLD_KEY]) if _THRESHOLD_KEY in config else None,
        "provenance": config["provenance"],
        "metrics": config["metrics"],
    }


def _outline(
    path: Path, values: Mapping[str, Any], header: Mapping[str, TensorEntry]
) -> ImageModel:
    """The model without memory for weights, once its numbers agree with names and file."""
    config = values["model_config"]
    # No part of a model is without a tensor, so no count of parts exceeds theirs.
    depth = config.get("depth", 0)
    if isinstance(depth, int) and depth > len(header):
        raise _lies(path, f"the config says depth {depth:,}, the weights are {len(header)} tensors")
    try:
        with torch.device("meta"):
            model = create_model(**config)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise _bad_config(path, f"no such model can be built ({error})") from error
    for key in _HEAD_KEYS:
        num_found = header[key].shape[0] if key in header and header[key].shape else None
        if num_found is not None and num_found != model.num_classes:
            raise _lies(path, f"the config says {model.num_classes} classes, {key} has {num_found}")
    num_names, spec = len(values["class_names"]), values["preprocessing"]
    if num_names != model.num_classes:
        raise _lies(path, f"the model has {model.num_classes} classes, {num_names} have names")
    if spec.channels != model.in_channels:
        raise _lies(
            path,
            f"the model reads {model.in_channels} channels, preprocessing gives {spec.channels}",
        )
    return model


def _bad_config(path: Path, why: str) -> ModelFileError:
    return ModelFileError("BAD_CONFIG", path, why, "export the bundle again")


def _lies(path: Path, why: str) -> ModelFileError:
    return ModelFileError("CONFIG_LIES", path, why, "export the bundle again")
