"""Bytes of a request -> pixels, or the reason why not."""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import numpy as np

from deitkit.data import REASONS, DecodeFault, DecodePolicy, decode
from deitkit.serving.refusals import Refused

STATUS = {"too_large": 422, "too_small": 422, "value_range": 422}
"""HTTP's status of a picture that is one, but not one to answer; the others are 400."""
CODES = {"empty_file": "not_an_image", "decode_error": "not_an_image"}


def decode_picture(encoded: bytes, policy: DecodePolicy) -> np.ndarray:
    """uint8 [H, W, C], upright and opaque.

    Raises:
        Refused: not_an_image, truncated, format_not_allowed, too_large, too_small, value_range.
    """
    try:
        return decode(encoded, policy)
    except DecodeFault as fault:
        raise Refused(
            STATUS.get(fault.reason, 400),
            CODES.get(fault.reason, fault.reason),
            REASONS[fault.reason],
        ) from fault
