"""Counter-based draws: chance is a pure function of a key, so there is no generator to save.

A key is a purpose (a name) and whole numbers: seeds, epochs, sample ids. Folding them one after
the other through a 64-bit mixer gives the state of a stream; number k of that stream is the mixer
applied to state + (k + 1) * GAMMA. The mixer and GAMMA are SplitMix64's: Steele, Lea and Flood
2014, "Fast splittable pseudorandom number generators", with Stafford's variant 13.
"""

# Shapes: B keys (images or pairs), num draws for each.

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.elementary import cos_turns, exp, log

Key = int | NDArray[np.integer]
"""One part of a key: the same number for all, or one for each of B."""
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_WORD = (1 << 64) - 1


def _mix(words: Words) -> Words:
    """A bijection of 64-bit words in which every input bit moves about half of the output's."""
    words = (words ^ (words >> _SHIFTS[0])) * _MULTIPLIERS[0]
    words = (words ^ (words >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return words ^ (words >> _SHIFTS[2])


@lru_cache(maxsize=64)
def _purpose_word(purpose: str) -> int:
    # Python's own hash() of a string differs from process to process.
    return int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")


def hash_key(*key: Key, purpose: str) -> Words:
    """Fold a key into one 64-bit word for each of B, shape [B] (B = 1 if all parts are single).

    Order matters; integers count modulo 2^64. For a fixed rest of the key, different values of
    one part never collide in that part's step.
    """
    state = np.array([_purpose_word(purpose)], dtype=np.uint64)
    for part in key:
        if isinstance(part, int):
            word = np.array([part & _WORD], dtype=np.uint64)
        else:
            word = np.atleast_1d(part).astype(np.uint64)
        state = _mix((state ^ word) + _GAMMA)
    return state


def stream(key: Words, index: Words) -> Words:
    """Number `index` of the stream of a key, each 64 bits; broadcast over both."""
    return _mix(key + (index + np.uint64(1)) * _GAMMA)


def uniform(*key: Key, purpose: str, num: int) -> Floats:
    """Draw `num` numbers for each key, uniform in [0, 1), whole multiples of 2^-53: [B, num]."""
    counters = np.arange(1, num + 1, dtype=np.uint64) * _GAMMA
    words = _mix(hash_key(*key, purpose=purpose)[:, None] + counters)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(*key: Key, purpose: str, num: int) -> Floats:
    """Draw `num` standard normal numbers for each key: [B, num].

    Box and Muller 1958, "A note on the generation of random normal deviates", the cosine half.
    """
    radius, turns = np.split(uniform(*key, purpose=purpose, num=2 * num), 2, axis=1)
    # 1 - u lies in (0, 1], where the logarithm is finite.
    return np.sqrt(-2.0 * log(1.0 - radius)) * cos_turns(turns)


def beta(alpha: float, *key: Key, purpose: str, num: int) -> NDArray[np.float32]:
    """Draw `num` numbers from the symmetric Beta(alpha, alpha), alpha > 0, for each key: [B, num].

    Bailey's polar form gives Student's T with 2 alpha degrees of freedom from two uniforms,
    T^2 = 2 alpha (u^(-1/alpha) - 1) cos^2(2 pi v), and 1/2 + T / (2 sqrt(2 alpha + T^2)) is
    the Beta: exact for any alpha, nothing is rejected. Bailey 1994, "Polar generation of random
    variates with the t-distribution"; Devroye 1996, "Random variate generation in one line of
    code". Rounded to float32, as which a lambda is stored.
    """
    radius, turns = np.split(uniform(*key, purpose=purpose, num=2 * num), 2, axis=1)
    cosine = cos_turns(turns)
    squared = (exp(-log(1.0 - radius) / alpha) - 1.0) * cosine * cosine
    half = 0.5 * np.sqrt(squared / (1.0 + squared))
    return (0.5 + np.where(cosine < 0.0, -half, half)).astype(np.float32)
