"""Exact nearest targets for NAGs that are on the GPU: they need no trip to the host."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch

from nagfast.errors import ArgumentError, NagfastError, missing
from nagfast.search.base import Array, Found

DTYPES = (torch.uint16, torch.uint32, torch.int32, torch.int64)
CHECKED_AT_ONCE = 1 << 16  # documents


def _kernels() -> ModuleType:
    if find_spec("triton") is None:
        raise missing("triton", "triton", "nearest-target search on the GPU")
    return import_module("nagfast.kernels.bit_search")


def _runs_on(device: torch.device) -> bool:
    """Whether Triton takes tensors of that device; its interpreter takes those of the CPU."""
    from triton import knobs

    return device.type == "cuda" or bool(knobs.runtime.interpret)


def _check_indices(nags: torch.Tensor, num_neurons: int, name: str) -> None:
    """Refuse a document with an index of N or more, unless it is the sentinel all through."""
    sentinel = -1 if nags.dtype.is_signed else torch.iinfo(nags.dtype).max
    for start in range(0, len(nags), CHECKED_AT_ONCE):
        index = nags[start : start + CHECKED_AT_ONCE].to(torch.int64).flatten(1)
        outside = (index < 0) | (index >= num_neurons)
        bad = outside.any(dim=1) & (index != sentinel).any(dim=1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            value = int(index[row][outside[row]][0])
            raise ArgumentError(
                f"{name}: document {start + row} holds index {value}, but a layer has N = {num_neurons}; give NAGs of "
                f"this backbone, documents without a NAG as {sentinel} throughout"
            )


def _check_nags(nags: Any, num_neurons: int, name: str) -> None:
    if not isinstance(nags, torch.Tensor) or nags.ndim != 3 or nags.dtype not in DTYPES or 0 in nags.shape[1:]:
        given = f"{nags.dtype} {list(nags.shape)}" if hasattr(nags, "dtype") else type(nags).__name__
        raise ArgumentError(f"{name}: got {given}; give a uint16, uint32, int32 or int64 tensor [n, L, K]")
    if not _runs_on(nags.device):
        raise ArgumentError(f"{name}: a tensor on {nags.device}; move it to a CUDA device, or use a CPU index")
    _check_indices(nags, num_neurons, name)


class GpuExact:
    """Every target compared with every query, on one CUDA device.

    Results are those of the exact CPU index to the last tie. The targets' bits are stored by columns, about
    (present neurons of all layers) / 8 bytes a target; 100,000 targets that use all of 28 x 6,144 neurons take 2.2 GB.

    Args:
        nags: targets, uint16, uint32, int32 or int64 [n, L, K] on the device, n at least 1. A document without a NAG
            holds the largest value of its unsigned type throughout (-1 in a signed one): a target with no neuron.
        num_neurons: N.

    Raises:
        ArgumentError: another shape, dtype or device, or an index of N or more.
        MissingDependencyError: triton is not installed.
        NagfastError: the bits do not fit the device.
    """

    method = "gpu"

    def __init__(self, nags: torch.Tensor, num_neurons: int) -> None:
        kernels = _kernels()
        _check_nags(nags, num_neurons, "nags")
        if len(nags) == 0:
            raise ArgumentError("nags: no target; give at least one document")
        self.num_neurons = num_neurons
        try:
            with torch.cuda.device_of(nags):  # Triton launches on the current device
                self._rows = kernels.build_rows(nags, num_neurons)
        except torch.OutOfMemoryError as error:
            raise NagfastError(
                f"nags: the bit rows of {len(nags)} targets do not fit {nags.device}; build an index for each part of "
                f"the targets and merge the results, or use a CPU index ({error})"
            ) from error

    @property
    def bytes(self) -> int:
        """Device memory held."""
        return int(self._rows.rows.nbytes + self._rows.row_of.nbytes)

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest targets of each query.

        Args:
            queries: as the targets: [q, L, K] on the same device; K may differ.
            k: 1 or more.

        Returns:
            counts: neurons in common, most first (int32 [q, k], on the device).
            ids: target row numbers, ties to the lower row (int64 [q, k]). Both -1 where there are fewer than k targets.
        """
        row_of = self._rows.row_of
        _check_nags(queries, self.num_neurons, "queries")
        if queries.shape[1] != len(row_of) or queries.device != row_of.device:
            raise ArgumentError(
                f"queries: got {list(queries.shape)} on {queries.device}; "
                f"give [q, {len(row_of)}, K] on {row_of.device}, where the targets are"
            )
        if k < 1:
            raise ArgumentError(f"k: got {k}; use at least 1")
        with torch.cuda.device_of(queries):
            counts, ids = _kernels().search(self._rows, queries, k)
        return counts, ids


class GpuIndex:
    """GpuExact for NAGs in host memory: blocks of queries go to the device and their neighbours come back.

    Stands in for any index (NearestTargets.to); nothing is saved or loaded as such.
    """

    def __init__(self, nags: Array, num_neurons: int, device: torch.device) -> None:
        self.device = device
        self.exact = GpuExact(self._tensor(nags), num_neurons)

    @property
    def rows(self) -> int:
        """Queries that a call should bring."""
        return CHECKED_AT_ONCE

    @property
    def bytes(self) -> int:
        """Device memory held."""
        return self.exact.bytes

    def search(self, queries: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest targets (see Index.search)."""
        del threads
        parts = [(np.empty((0, k), np.int32), np.empty((0, k), np.int64))]
        for start in range(0, len(queries), CHECKED_AT_ONCE):
            counts, ids = self.exact.search(self._tensor(queries[start : start + CHECKED_AT_ONCE]), k)
            parts.append((counts.cpu().numpy(), ids.cpu().numpy()))
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _tensor(self, nags: Array) -> torch.Tensor:
        # A copy: memory maps are read-only, which torch does not know.
        return torch.from_numpy(np.array(nags, order="C")).to(self.device)
