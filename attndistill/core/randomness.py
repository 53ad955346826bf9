"""Counter-based randomness: the number drawn for (seed, stream, epoch, index) is the same whoever asks, and whenever.

Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised over indices. There
is no state to carry, save, restore or share between workers, ranks and resumed runs.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_ROUNDS = 10


def philox(key: tuple[int, int], counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox-4x32-10 blocks.

    Args:
        key: two 32-bit words.
        counter: (..., 4) 32-bit words held in uint64.

    Returns:
        (..., 4) pseudo-random 32-bit words held in uint64.
    """
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _WORD) ^ c1 ^ k0, p1 & _LOW, (p0 >> _WORD) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack([c0, c1, c2, c3], axis=-1)


def uniforms(seed: int, stream: str, epoch: int, indices: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), a pure function of (seed, stream, epoch, index, draw).

    Args:
        seed: any non-negative integer below 2**63.
        stream: what the numbers are for ("crop", "order"); streams are independent.
        epoch: counts from 0.
        indices: (B,) which samples.
        draws: numbers per sample.

    Returns:
        (B, draws) float64 with 32 random bits each.
    """
    blocks = -(-draws // 4)
    counter = np.zeros((len(indices), blocks, 4), dtype=np.uint64)
    index = indices.astype(np.uint64)
    counter[..., 0] = np.arange(blocks, dtype=np.uint64)
    counter[..., 1] = np.uint64(epoch)
    counter[..., 2] = (index & _LOW)[:, None]
    counter[..., 3] = (index >> _WORD)[:, None]
    words = philox(_key(seed, stream), counter).reshape(len(indices), 4 * blocks)
    return words[:, :draws].astype(np.float64) / 2.0**32


def permutation(seed: int, stream: str, epoch: int, length: int) -> NDArray[np.int64]:
    """The order of `length` items in `epoch`: sort by a 64-bit random key per item."""
    draws = uniforms(seed, stream, epoch, np.arange(length, dtype=np.int64), 2)
    return np.lexsort((draws[:, 1], draws[:, 0])).astype(np.int64)


def derived_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for `purpose` ("weights"), so that equal seeds for different purposes are unrelated."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little") >> 1


def _key(seed: int, stream: str) -> tuple[int, int]:
    word = derived_seed(seed, f"stream/{stream}")
    return word & 0xFFFFFFFF, word >> 32
