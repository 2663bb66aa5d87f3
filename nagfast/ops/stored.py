"""Counting and scoring NAGs that are stored on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops import dispatch
from nagfast.ops.dispatch import isa, resolve, thread_count

Array = npt.NDArray[Any]


def check_nags(nags: Array, num_layers: int, name: str = "nags") -> None:
    """Refuse what is not uint16 or uint32 [documents, num_layers, K]."""
    if nags.ndim != 3 or nags.dtype not in (np.uint16, np.uint32) or nags.shape[1] != num_layers:
        raise ArgumentError(
            f"{name}: got {nags.dtype} {list(nags.shape)}; give uint16 or uint32 [documents, {num_layers}, K]"
        )


def count(nags: Array, num_neurons: int, *, backend: str = "auto", threads: int | None = None) -> tuple[Array, int]:
    """How many documents hold each neuron (int64 [L, N]), and how many documents had a NAG.

    Args:
        nags: uint16 or uint32 [n, L, K].
        num_neurons: N.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Raises:
        ArgumentError: an index of N or more, or a neuron twice in one layer of a document.
    """
    check_nags(nags, nags.shape[1] if nags.ndim == 3 else 0)
    if resolve(backend) == "reference":
        return reference.profile_counts(nags, num_neurons)
    counts = np.zeros((nags.shape[1], num_neurons), np.int64)
    try:
        documents = dispatch.extension().count(nags, counts, threads=thread_count(threads))
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return counts, int(documents)


def score(nags: Array, table: Array, *, backend: str = "auto", threads: int | None = None) -> Array:
    """Exact integer sums of table entries over each document's NAG (int64 [n, P]).

    Args:
        nags: uint16 or uint32 [n, L, K]; documents whose NAG is the sentinel score 0.
        table: uint16 or uint32 [L, N, P], P profiles side by side.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Raises:
        ArgumentError: an index of N or more.
    """
    if table.ndim != 3 or table.dtype not in (np.uint16, np.uint32):
        raise ArgumentError(f"table: got {table.dtype} {list(table.shape)}; give uint16 or uint32 [L, N, profiles]")
    check_nags(nags, table.shape[0])
    if resolve(backend) == "reference":
        columns = [reference.integer_sums(nags, table[:, :, p].astype(np.int64)) for p in range(table.shape[2])]
        return np.stack(columns, axis=1)
    out = np.empty((len(nags), table.shape[2]), np.int64)
    try:
        dispatch.extension().score(nags, table, out, threads=thread_count(threads), isa=isa())
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return out
