"""Views that do nothing but what a test sets."""

from __future__ import annotations

import numpy as np

from deitkit.augmentation import Views
from deitkit.augmentation.op_codes import OP_CODES


def plain_views(num: int, **changed) -> Views:
    """`num` whole images, unmixed, without operations; `changed` gives other fields."""
    nothing = {
        "sample_ids_B": np.arange(num, dtype=np.uint64),
        "epoch": 0,
        "repeat_B": np.zeros(num, dtype=np.int64),
        "box_B4": np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (num, 1)),
        "flip_B": np.zeros(num, dtype=bool),
        "lam_B": np.ones(num, dtype=np.float32),
        "cut_B4": np.zeros((num, 4), dtype=np.float32),
        "ops_BL": np.zeros((num, 0), dtype=np.int8),
        "params_BL": np.zeros((num, 0), dtype=np.float32),
        "erase_B4": np.zeros((num, 4), dtype=np.float32),
        "erase_key_B": np.arange(num, dtype=np.uint64),
    }
    return Views(**(nothing | changed))


def views_of_operations(*chains: list[tuple[str, float]]) -> Views:
    """One whole image for each chain of (operation's name, parameter); shorter ones end in none."""
    longest = max(len(chain) for chain in chains)
    padded = [[*chain, *[("none", 0.0)] * (longest - len(chain))] for chain in chains]
    return plain_views(
        len(chains),
        ops_BL=np.array([[OP_CODES[name] for name, _ in chain] for chain in padded], dtype=np.int8),
        params_BL=np.array([[value for _, value in chain] for chain in padded], dtype=np.float32),
    )
