"""A packed batch on the device: token ids, positions, and the documents' boundaries as attention needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nagfast.packing import PackedBatch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Documents:
    """Where the documents of a packed batch lie. Travels through the model call to the registered attention."""

    cu_seqlens: Ints
    """int64 [n + 1] on the host, from 0 to T."""
    runs: list[tuple[int, int, int]]
    """Documents of equal length side by side: (first token, documents, length) each."""
    longest: int
    """Tokens of the longest document."""
    boundaries: torch.Tensor
    """cu_seqlens as int32 on the device."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A packed batch on the device."""

    ids: torch.Tensor
    """int64 [T]."""
    positions: torch.Tensor
    """int64 [T], restarting with each document."""
    documents: Documents


def to_device(values: npt.NDArray[np.integer], device: torch.device) -> torch.Tensor:
    """A host array on the device; to a GPU by way of pinned memory, so that nothing waits for the copy."""
    host = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one of this thread, where Triton starts its kernels; nothing on the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def place(batch: PackedBatch, device: torch.device) -> Placed:
    """Bring a packed batch of at least one document to the device."""
    documents = Documents(
        batch.cu_seqlens,
        batch.runs(),
        int(batch.lengths.max()),
        to_device(batch.cu_seqlens.astype(np.int32), device),
    )
    return Placed(to_device(batch.input_ids, device), to_device(batch.position_ids, device), documents)


def equal_lengths(batch: PackedBatch) -> Iterator[tuple[slice, PackedBatch]]:
    """The documents of each length as a batch of their own, with their rows in the given one."""
    begin = 0
    for first, documents, length in batch.runs():
        rows = slice(begin, begin + documents)
        ids = batch.input_ids[first : first + documents * length]
        yield rows, PackedBatch(ids, np.arange(documents + 1, dtype=np.int64) * length, batch.rows[rows])
        begin += documents
