"""Text, YAML and keyword arguments -> a checked RunConfig. A typo is an error, never a default."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deitkit.config.names import SHORT_NAMES, canonical_name
from deitkit.config.schema import RunConfig
from deitkit.errors import ConfigError

INFORMATION = ("asked", "reasons", "identity")
"""Blocks of a run's own config.yaml that tell about the settings and set nothing."""

_SECTION_TYPES: dict[str, type] = typing.get_type_hints(RunConfig)
_FIELD_TYPES: dict[str, Any] = {
    f"{section}.{name}": hint
    for section, section_type in _SECTION_TYPES.items()
    for name, hint in typing.get_type_hints(section_type).items()
}


def build_config(values: Mapping[str, Any], *, base: RunConfig | None = None) -> RunConfig:
    """Set `values` (short or dotted names, text or Python values) on top of `base`.

    Raises:
        ConfigError: an unknown name, a value of the wrong kind or outside its range.
    """
    typed: dict[str, Any] = {}
    for name, value in values.items():
        full = canonical_name(name, _FIELD_TYPES)
        if full in typed:
            raise ConfigError("TWICE", name, f"{full} is set twice", "give it once")
        typed[full] = _convert(name, value, _FIELD_TYPES[full])
    config = with_values(base or RunConfig(), typed)
    _check_ranges(config)
    return config


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A copy with the dotted `values` replaced; they are taken as they are."""
    by_section: dict[str, dict[str, Any]] = {}
    for full, value in values.items():
        section, _, name = full.partition(".")
        by_section.setdefault(section, {})[name] = value
    changed = {
        section: dataclasses.replace(getattr(config, section), **fields)
        for section, fields in by_section.items()
    }
    return dataclasses.replace(config, **changed)


def flatten(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted name."""
    return {
        full: getattr(getattr(config, full.partition(".")[0]), full.partition(".")[2])
        for full in _FIELD_TYPES
    }


def read_config_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by dotted name, and the information blocks, of a YAML file.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or holds unknown names.
    """
    return read_settings(read_text(path), path, information=INFORMATION)


def read_text(path: Path) -> str:
    """A file of settings. Raises ConfigError CONFIG_FILE where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError(
            "CONFIG_FILE", path, f"cannot be read ({why})", "check the path"
        ) from error


def read_settings(
    text: str, subject: object, *, information: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by dotted name, and the blocks called `information`, of YAML text.

    Raises:
        ConfigError: no YAML mapping, or unknown names; `subject` is named.
    """
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(
            "CONFIG_FILE", subject, f"is no YAML: {error}", "mend that line"
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(
            "CONFIG_FILE", subject, "is no mapping", "write `section: {field: value}`"
        )
    blocks = {name: tree.pop(name, {}) or {} for name in information}
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and name in _SECTION_TYPES:
            values.update({f"{name}.{field}": item for field, item in value.items()})
        elif name in SHORT_NAMES or "." in str(name):
            values[str(name)] = value
        else:
            canonical_name(str(name), _FIELD_TYPES)
    return {canonical_name(name, _FIELD_TYPES): item for name, item in values.items()}, blocks


def write_config_text(
    config: RunConfig,
    *,
    asked: Mapping[str, Any],
    reasons: Mapping[str, str],
    identity: Mapping[str, str],
    header: str,
) -> str:
    """The YAML of a run: all settings as they are used, what was asked, and why."""
    tree: dict[str, Any] = {}
    for full, value in flatten(config).items():
        section, _, name = full.partition(".")
        tree.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    tree["asked"] = {k: list(v) if isinstance(v, tuple) else v for k, v in asked.items()}
    tree["reasons"] = dict(reasons)
    tree["identity"] = dict(identity)
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    return comment + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)


_UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration_s(text: str) -> float:
    """Seconds in `90s`, `30m`, `1h30m` or a bare number of seconds.

    Raises:
        ConfigError: anything else, or nothing above 0.
    """
    found = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd]?)", text.strip().lower())
    whole = "".join(number + unit for number, unit in found)
    seconds = sum(float(number) * _UNITS_S[unit or "s"] for number, unit in found)
    if not found or whole != re.sub(r"\s+", "", text.lower()) or seconds <= 0:
        raise ConfigError("BAD_VALUE", "budget", f"{text!r} is no time", "write 90s, 30m or 2h")
    return seconds


def _convert(name: str, value: Any, hint: Any) -> Any:
    """`value` as the first of the types in `hint` that takes it."""
    options = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )
    if isinstance(value, Path):
        value = str(value)
    # Words first: `auto` and `none` are no names of files or models.
    for option in sorted(options, key=lambda o: typing.get_origin(o) is not typing.Literal):
        try:
            return _convert_one(value, option)
        except (ValueError, TypeError, KeyError):
            continue
    wanted = " or ".join(_describe(option) for option in options)
    raise ConfigError("BAD_VALUE", name, f"got {value!r}", f"give {wanted}")


def _convert_one(value: Any, option: Any) -> Any:
    """`value` as `option`, or ValueError."""
    origin = typing.get_origin(option)
    if option is type(None):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
    elif origin is typing.Literal:
        if value in typing.get_args(option):
            return value
    elif origin is tuple:
        return _convert_tuple(value, typing.get_args(option))
    elif option is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return value if isinstance(value, bool) else words[str(value).lower()]
    elif option is str:
        if isinstance(value, str) and value:
            return value
    elif isinstance(value, bool):
        raise ValueError
    elif option is int:
        if isinstance(value, str) or float(value).is_integer():
            return int(value)
    elif option is float:
        number = float(value)
        if math.isfinite(number):
            return number
    raise ValueError


def _convert_tuple(value: Any, members: tuple[Any, ...]) -> tuple[Any, ...]:
    # Sizes may be written 224x224; names may hold an x.
    signs = "," if members[0] is str else "[,x]"
    parts = re.split(signs, value.strip("()[] ")) if isinstance(value, str) else list(value)
    if members[0] is str:
        parts = [part.strip() for part in parts if part.strip()]
    if members[-1] is Ellipsis:
        members = (members[0],) * len(parts)
    if len(parts) != len(members):
        raise ValueError
    return tuple(_convert_one(part, member) for part, member in zip(parts, members, strict=True))


def _describe(option: Any) -> str:
    origin = typing.get_origin(option)
    if origin is typing.Literal:
        return " or ".join(map(str, typing.get_args(option)))
    if origin is tuple:
        members = typing.get_args(option)
        count = "several" if members[-1] is Ellipsis else str(len(members))
        return f"{count} {'names' if members[0] is str else 'numbers'} with commas between"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return names.get(option, "none")


_RANGES: dict[str, tuple[float, float]] = {
    "data.channels": (1, 64),
    "data.crop_ratio": (0.1, 1),
    "data.val_fraction": (0.001, 0.9),
    "data.folds": (0, 100),
    "data.fold": (0, 100),
    "data.balance_strength": (0, 10),
    "data.max_pixels": (1, 10**10),
    "data.min_side": (1, 65536),
    "data.window_mb": (1, 10**6),
    "views.padding": (0, 1),
    "views.flip": (0, 1),
    "views.mixup": (0, 100),
    "views.cutmix": (0, 100),
    "views.mix_prob": (0, 1),
    "views.switch_prob": (0, 1),
    "views.color_jitter": (0, 1),
    "views.erasing": (0, 1),
    "views.repeats": (1, 100),
    "distill.weight": (0, 1),
    "distill.until": (0, 1),
    "distill.temperature": (1e-3, 1e3),
    "optim.batch_size": (2, 10**7),
    "optim.device_batch_size": (1, 10**7),
    "optim.lr": (0, 100),
    "optim.warmup": (0, 0.9),
    "optim.weight_decay": (0, 100),
    "optim.layer_decay": (0.01, 1),
    "optim.momentum": (0, 0.9999),
    "optim.hidden_lr": (0.01, 100),
    "optim.label_smoothing": (0, 0.99),
    "schedule.epochs": (1, 10**6),
    "schedule.steps": (1, 10**10),
    "schedule.eval_interval": (1, 10**10),
    "schedule.patience": (0, 10**6),
    "schedule.checkpoint_interval": (1, 10**10),
    "ema.half_life": (0, 1),
    "ema.decay": (0, 1),
    "run.workers": (0, 256),
    "run.ranks": (1, 4096),
    "run.log_interval": (1, 10**6),
}


def _check_ranges(config: RunConfig) -> None:
    for full, value in flatten(config).items():
        if full in _RANGES and isinstance(value, int | float):
            least, most = _RANGES[full]
            if not least <= value <= most:
                raise ConfigError(
                    "BAD_VALUE", full, f"got {value}", f"give a value from {least:g} to {most:g}"
                )
    size = config.data.image_size
    for side in (size,) if isinstance(size, int) else size if isinstance(size, tuple) else ():
        if not 1 <= side <= 65536:
            raise ConfigError(
                "BAD_VALUE", "image_size", f"got {side}", "give a value from 1 to 65536"
            )
    if config.data.folds == 1 or config.data.fold > config.data.folds:
        raise ConfigError(
            "BAD_VALUE",
            f"folds={config.data.folds}",
            "one fold cannot train"
            if config.data.folds == 1
            else f"has no fold {config.data.fold}",
            "give 2 or more folds, 5 as a rule; data.fold= is one of them",
        )
    if config.schedule.budget != "auto":
        parse_duration_s(config.schedule.budget)
