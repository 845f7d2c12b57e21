"""`key=value`, `--key value` and `--key=value` mean the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from deitkit.errors import ConfigError

_PAIR = re.compile(r"(--)?([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)?)=(.*)", re.DOTALL)
_OPTION = re.compile(r"--([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)?)")


def normalise(
    tokens: Sequence[str], *, options: Collection[str], flags: Collection[str], takes_settings: bool
) -> list[str]:
    """Tokens after the verb, as the parser wants them.

    What the verb declares becomes `--key=value`; for a verb that takes settings anything else of
    that shape becomes a positional `key=value`, to be judged, and maybe corrected, by the config.
    """
    normalised: list[str] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if token == "--":
            return [*normalised, token, *rest]
        if (pair := _PAIR.fullmatch(token)) is not None:
            _, key, value = pair.groups()
            key = key.replace("-", "_")
            if key in options:
                normalised.append(f"--{key.replace('_', '-')}={value}")
            elif takes_settings:
                normalised.append(f"{key}={value}")
            else:
                normalised.append(token)
            continue
        option = _OPTION.fullmatch(token)
        if option is None:
            normalised.append(token)
            continue
        key = option.group(1).replace("-", "_")
        if key in flags or key in ("help", "debug"):
            normalised.append(token)
        elif (key in options or takes_settings) and rest and not rest[0].startswith("--"):
            rest.insert(0, f"--{key}={rest.pop(0)}")
        else:
            normalised.append(token)
    return normalised


def read_pairs(settings: Sequence[str]) -> dict[str, str]:
    """`name=value` words as a dict. Raises ConfigError USAGE or TWICE."""
    values: dict[str, str] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign:
            raise ConfigError(
                "USAGE", setting, "is no setting", "write name=value, for example data=photos/"
            )
        if name in values:
            raise ConfigError("TWICE", name, "is set twice", "give it once")
        values[name] = value
    return values
