"""Where measured impacts go. A sink takes a layer's impacts on the device and keeps only what was asked for.

Nothing goes to the host before the batch is done: on a GPU the results then travel through pinned memory on a stream
of their own, and `Pending.result` waits for them while the next batch computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from nagfast import ops

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Measure:
    """What to measure in a forward pass."""

    neuron_types: tuple[str, ...] = ("fwd_up",)
    """Any of NEURON_TYPES."""
    reduction: str = "mean_abs"
    """mean_abs or l2."""


class Sink(Protocol):
    """Takes the impacts of one layer."""

    def take(self, neuron_type: str, layer: int, rows: slice, impacts: ops.Impacts) -> None:
        """Keep what is wanted of impacts (float32 [documents of rows, N], or what ops.finished makes that of)."""


class Pending(Generic[T]):
    """Results of a batch, possibly still on their way from the device."""

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], broken: torch.Tensor, finish: Callable[[dict[str, Array]], T]
    ) -> None:
        """Begin to bring the tensors to the host.

        Args:
            tensors: results on the device, not written again.
            broken: int32 [1] there: not 0 where an impact was not a number.
            finish: makes the result of the arrays.
        """
        self._finish = finish
        self._event: torch.cuda.Event | None = None
        if broken.device.type == "cuda":
            self._broken, self._host = self._copy_back(tensors, broken)
        else:
            self._broken, self._host = broken, dict(tensors)

    def _copy_back(
        self, tensors: Mapping[str, torch.Tensor], broken: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        stream = _side_stream(broken.device)
        stream.wait_stream(torch.cuda.current_stream(broken.device))
        with torch.cuda.stream(stream):
            flag, *host = (_pinned_copy(x, stream) for x in (broken, *tensors.values()))
            self._event = torch.cuda.Event()
            self._event.record(stream)
        return flag, dict(zip(tensors, host, strict=True))

    def result(self) -> T:
        """What the batch measured; waits for it where it is not there yet.

        Raises:
            ArgumentError: an impact was not a number.
        """
        if self._event is not None:
            self._event.synchronize()
        ops.check_broken(self._broken)
        return self._finish({name: x.numpy() for name, x in self._host.items()})


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _pinned_copy(x: torch.Tensor, stream: torch.cuda.Stream) -> torch.Tensor:
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    x.record_stream(stream)
    return host


def no_flag(device: torch.device) -> torch.Tensor:
    """What ops.topk sets where an impact is not a number (int32 [1] on the device)."""
    return torch.zeros(1, dtype=torch.int32, device=device)


def _zeros(shape: tuple[int, ...], neurons: int, device: torch.device) -> torch.Tensor:
    """Indices below `neurons`, all 0: filled as signed numbers, for which every device has the operation."""
    dtype = ops.torch_index_dtype(neurons)
    signed = torch.int16 if dtype == torch.uint16 else torch.int32
    return torch.zeros(shape, dtype=signed, device=device).view(dtype)


class NagSink:
    """Keeps the top K: one [n, L, K] tensor per neuron type."""

    def __init__(
        self, documents: int, layers: int, neurons: Mapping[str, int], top_k: int, device: torch.device
    ) -> None:
        self.top_k = top_k
        self.broken = no_flag(device)
        self.nags = {t: _zeros((documents, layers, top_k), n, device) for t, n in neurons.items()}

    def take(self, neuron_type: str, layer: int, rows: slice, impacts: ops.Impacts) -> None:
        """Top K of one layer, written in place."""
        ops.topk(impacts, self.top_k, out=self.nags[neuron_type][rows, layer], broken=self.broken)

    def pending(self) -> Pending[dict[str, Array]]:
        """The NAGs, uint16 or uint32 [n, L, K] per neuron type."""
        return Pending(self.nags, self.broken, dict)


class SumSink:
    """Adds up what a table says of the top K neurons; the NAG itself is never written."""

    def __init__(self, documents: int, table: torch.Tensor, top_k: int) -> None:
        """Begin with sums of 0.

        Args:
            documents: n.
            table: [L, N, P] on the device, as ops.topk_profile takes it.
            top_k: K.
        """
        self.table, self.top_k = table, top_k
        self.broken = no_flag(table.device)
        self.sums = torch.zeros((documents, table.shape[2]), dtype=torch.int64, device=table.device)

    def take(self, neuron_type: str, layer: int, rows: slice, impacts: ops.Impacts) -> None:
        """Entries of one layer's top K, added in place."""
        ops.topk_profile(impacts, self.top_k, self.table[layer], self.sums[rows], broken=self.broken)

    def pending(self) -> Pending[npt.NDArray[np.int64]]:
        """The sums, int64 [n, P]."""
        return Pending({"sums": self.sums}, self.broken, lambda found: found["sums"])


class ImpactSink:
    """Keeps all impacts: one float32 [n, L, N] tensor per neuron type, not a number where nothing was measured."""

    def __init__(self, documents: int, layers: int, neurons: Mapping[str, int], device: torch.device) -> None:
        self.impacts = {
            t: torch.full((documents, layers, n), float("nan"), dtype=torch.float32, device=device)
            for t, n in neurons.items()
        }

    def take(self, neuron_type: str, layer: int, rows: slice, impacts: ops.Impacts) -> None:
        """Copy of one layer."""
        self.impacts[neuron_type][rows, layer] = ops.finished(impacts)

    def result(self) -> dict[str, Array]:
        """The impacts on the host."""
        return {t: x.cpu().numpy() for t, x in self.impacts.items()}
