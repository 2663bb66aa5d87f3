"""Packed batches through a device: two under way at a time, and smaller ones where memory runs out.

Documents come in parts (a shard, a window of texts). Batches never mix parts, but the next part's first batch starts
while the last one's last batch is still under way, so the device does not wait where a part ends. Mixing them as well
would save the one step of a part that is not full: one of 61 at 8,192 documents of 120 tokens and 16,384 tokens a step.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch

from nagfast.errors import NagfastError
from nagfast.packing import PackedBatch, pack
from nagfast.prefix import Ints

log = logging.getLogger(__name__)

NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What a RuntimeError that is no torch.OutOfMemoryError says where memory ran out: host, pinned host, workspaces."""
UNDER_WAY = 2
"""Batches started and not yet taken: while one computes, the next is being laid out."""

P = TypeVar("P", bound="Part[Any]")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
R_contra = TypeVar("R_contra", contravariant=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)


class Awaited(Protocol[R_co]):
    """A result that may still be on its way from the device (sinks.Pending is one)."""

    def result(self) -> R_co:
        """Wait for it; out of memory may come out here too."""


class Part(Protocol[R_contra]):
    """Documents that are done together."""

    @property
    def tokens(self) -> Sequence[Ints]:
        """Their tokens (int64, one array a document)."""

    def take(self, batch: PackedBatch, result: R_contra) -> None:
        """Keep the result of some of the documents: batch.rows of tokens."""


class Steps(Generic[R]):
    """Runs parts in steps of at most `batch_tokens` tokens; once a size did not fit, later steps are half of it."""

    def __init__(self, start: Callable[[PackedBatch], Awaited[R]], batch_tokens: int, device: torch.device) -> None:
        """Begin with nothing under way.

        Args:
            start: begins to work on a batch.
            batch_tokens: tokens per step.
            device: where it runs.
        """
        self.batch_tokens = batch_tokens
        self._start, self._device = start, device
        self._waiting: deque[tuple[Any, PackedBatch]] = deque()
        self._under_way: deque[tuple[Any, PackedBatch, Awaited[R]]] = deque()
        self._left: Counter[int] = Counter()  # batches not yet taken, by id of the part

    def run(self, parts: Iterable[P]) -> Iterator[P]:
        """Work on parts as they come; each comes out once all its documents were taken, mostly in order.

        Raises:
            NagfastError: a single document does not fit the device's memory.
        """
        coming = iter(parts)
        more = True
        while more or self._waiting or self._under_way:
            if more and not self._waiting:
                part = next(coming, None)
                if part is None:
                    more = False
                elif not self._queue(part, pack(part.tokens, self.batch_tokens)):
                    yield part  # no document has a token
            elif self._waiting and len(self._under_way) < UNDER_WAY:
                self._begin(*self._waiting.popleft())
            else:
                part, batch, pending = self._under_way.popleft()
                if self._end(part, batch, pending):
                    yield part

    def _queue(self, part: Part[R], batches: Iterable[PackedBatch]) -> bool:
        """Put batches at the front of those that wait; whether there are any."""
        queued = [(part, batch) for batch in batches]
        self._waiting.extendleft(reversed(queued))
        self._left[id(part)] += len(queued)
        return bool(queued)

    def _begin(self, part: Part[R], batch: PackedBatch) -> None:
        if len(batch.input_ids) > self.batch_tokens and len(batch.rows) > 1:  # packed before memory ran out
            self._left[id(part)] -= 1
            self._queue(part, batch.cut(self.batch_tokens))
            return
        try:
            pending = self._start(batch)
        except RuntimeError as error:
            self._no_memory(batch, error)
        else:
            self._under_way.append((part, batch, pending))
            return
        self._again(part, batch)

    def _end(self, part: Part[R], batch: PackedBatch, pending: Awaited[R]) -> bool:
        """Take a result; whether it was the part's last."""
        try:
            found = pending.result()
        except RuntimeError as error:
            self._no_memory(batch, error)
        else:
            part.take(batch, found)
            self._left[id(part)] -= 1
            if self._left[id(part)]:
                return False
            del self._left[id(part)]
            return True
        self._again(part, batch)
        return False

    def _no_memory(self, batch: PackedBatch, error: RuntimeError) -> None:
        """Raise again what is something else, or cannot be made smaller."""
        if not is_out_of_memory(error):
            raise error
        if len(batch.rows) == 1:
            raise NagfastError(
                f"out of memory on {self._device} with one document of {len(batch.input_ids)} tokens; "
                "lower --max-length or use a larger device"
            ) from error

    def _again(self, part: Part[R], batch: PackedBatch) -> None:
        """Queue a batch in smaller pieces. Called when the error, and with it what it held, is gone."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        half = max(1, len(batch.input_ids) // 2)
        if half < self.batch_tokens:
            log.warning("out of memory with %d tokens in a step: halving to %d", len(batch.input_ids), half)
            self.batch_tokens = half
        self._left[id(part)] -= 1
        self._queue(part, batch.cut(half))
