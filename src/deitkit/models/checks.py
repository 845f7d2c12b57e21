"""Model arguments are checked before anything is allocated (FAULTS M09)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from deitkit.errors import ConfigError

MAX_WIDTH = 65_536
MAX_DEPTH = 1_000
MAX_PARAMS = 20_000_000_000


def _refuse(name: str, why: str, do: str) -> ConfigError:
    return ConfigError("MODEL_OPTION", name, why, do)


def check_counts(upper: int = MAX_WIDTH, **counts: object) -> None:
    """Each is a whole number from 1 to `upper`.

    Raises:
        ConfigError: MODEL_OPTION, naming the first that is not.
    """
    for name, value in counts.items():
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not 1 <= value <= upper:  # type: ignore[operator]
            why = f"{value!r} is not a whole number from 1 to {upper:,}"
            raise _refuse(name, why, "give a value in that range")


def check_holds(what: str, patch_size: int, side: int) -> None:
    """An image side has room for one patch at least.

    Raises:
        ConfigError: MODEL_OPTION.
    """
    if side < patch_size:
        why = f"{patch_size} is more than the {what} of {side}"
        raise _refuse("patch_size", why, "choose smaller patches or larger images")


def check_numbers(*, above: float, upper: float, **numbers: object) -> None:
    """Each is a finite number above `above` and at most `upper`.

    Raises:
        ConfigError: MODEL_OPTION, naming the first that is not; NaN is not.
    """
    for name, value in numbers.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not above < value <= upper:  # type: ignore[operator]
            why = f"{value!r} is not a number above {above:g} and up to {upper:g}"
            raise _refuse(name, why, "give a value in that range")


def check_rates(**rates: object) -> None:
    """Each is a probability from 0 to below 1.

    Raises:
        ConfigError: MODEL_OPTION, naming the first that is not; NaN is not.
    """
    for name, value in rates.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < 1:  # type: ignore[operator]
            why = f"{value!r} is not a probability from 0 to below 1"
            raise _refuse(name, why, "give a value in that range")


def check_flags(**flags: object) -> None:
    """Each is True or False.

    Raises:
        ConfigError: MODEL_OPTION, naming the first that is not.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise _refuse(name, f"{value!r} is neither true nor false", "set true or false")


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """`value` is one of `choices`.

    Raises:
        ConfigError: MODEL_OPTION.
    """
    if not isinstance(value, str) or value not in choices:
        raise _refuse(name, f"{value!r} is not known", f"choose {' or '.join(choices)}")


def check_divides(name: str, part: int, whole_name: str, whole: int) -> None:
    """`part` divides `whole`.

    Raises:
        ConfigError: MODEL_OPTION, with the nearest divisors.
    """
    if whole % part == 0:
        return
    divisors = {
        d for i in range(1, math.isqrt(whole) + 1) if whole % i == 0 for d in (i, whole // i)
    }
    nearest = sorted(sorted(divisors, key=lambda d: abs(d - part))[:3])
    raise _refuse(
        name,
        f"{part} does not divide {whole_name} {whole}",
        f"choose {name} among {', '.join(map(str, nearest))}, or another {whole_name}",
    )


def check_size(num_weights: float) -> None:
    """`num_weights`, those of the large matrices, stay in what this package is made for.

    Raises:
        ConfigError: MODEL_SIZE.
    """
    if num_weights > MAX_PARAMS:
        raise ConfigError(
            "MODEL_SIZE",
            "model",
            f"it would have about {num_weights:.1e} parameters, more than {MAX_PARAMS:.0e}",
            "choose a smaller width, depth or number of classes",
        )


def resolve_image_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) in pixels; one number means a square.

    Raises:
        ConfigError: MODEL_OPTION.
    """
    is_pair = isinstance(image_size, Sequence) and not isinstance(image_size, str)
    sides = tuple(image_size) if is_pair else (image_size, image_size)  # type: ignore[arg-type]
    if len(sides) != 2:
        raise _refuse("image_size", f"{image_size!r} is not one size", "give S or (H, W)")
    for side in sides:
        check_counts(image_size=side)
    return sides  # type: ignore[return-value]
