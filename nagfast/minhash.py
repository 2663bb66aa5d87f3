"""MinHash signatures of NAGs, equal to the bit with datasketch 2 (scheme "affine32").

A document is the set of integers layer * N + neuron. The same signature comes from

    minhash = datasketch.MinHash(num_perm, seed=seed, hashfunc=int, scheme="affine32")
    minhash.update_batch(elements)

The share of equal values in two signatures estimates the Jaccard similarity of the sets, with standard deviation
sqrt(j (1 - j) / num_perm).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast import ops, reference_sets
from nagfast.errors import ArgumentError

Array = npt.NDArray[Any]
SCHEME = "affine32"
MAX_ELEMENTS = 1 << 32  # hashes have 32 bits


def permutations(num_perm: int, seed: int) -> tuple[Array, Array]:
    """The constants a (odd) and b that datasketch draws for a seed (uint32 [num_perm] each).

    Drawn from NumPy's legacy generator (MT19937), whose streams are frozen: first all of a as 2 r + 1 with r below
    2^31, then all of b below 2^32.

    Args:
        num_perm: values in a signature, at least 1.
        seed: 0 to 2^32 - 1.
    """
    if num_perm < 1:
        raise ArgumentError(f"num_perm: got {num_perm}; use at least 1, 128 is usual")
    if not 0 <= seed < MAX_ELEMENTS:
        raise ArgumentError(f"seed: got {seed}; use 0 to {MAX_ELEMENTS - 1}")
    generator = np.random.RandomState(seed)
    a = generator.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, generator.randint(0, 1 << 32, num_perm, dtype=np.uint32)


def signatures(
    nags: Array,
    num_neurons: int,
    *,
    num_perm: int = 128,
    seed: int = 1,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """MinHash signatures (uint32 [n, num_perm]); 2^32 - 1 throughout for a document without a NAG.

    Args:
        nags: uint16 or uint32 [n, L, K].
        num_neurons: N.
        num_perm: values in a signature.
        seed: of the permutations, datasketch's `seed`.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Raises:
        ArgumentError: an index of N or more, or more than 2^32 neurons in all.
    """
    if nags.ndim != 3 or nags.dtype not in (np.uint16, np.uint32):
        raise ArgumentError(f"nags: got {nags.dtype} {list(nags.shape)}; give uint16 or uint32 [documents, layers, K]")
    if num_neurons < 1 or nags.shape[1] * num_neurons > MAX_ELEMENTS:
        raise ArgumentError(
            f"num_neurons: got {num_neurons} in each of {nags.shape[1]} layers; use at least 1, and at most 2^32 in all"
        )
    a, b = permutations(num_perm, seed)
    if ops.resolve(backend) == "reference":
        return reference_sets.minhash(nags, num_neurons, a, b)
    out = np.empty((len(nags), num_perm), np.uint32)
    extension = ops.native()
    assert extension is not None
    try:
        extension.minhash(nags, num_neurons, a, b, out, threads=ops.thread_count(threads), isa=ops.isa())
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return out
