"""Tokens of documents, laid end to end in batches of about equal size.

A PackedBatch holds whole documents, longest first, so documents of one length lie side by side: a run of them is a
plain [documents, length] matrix, and no padding is ever computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nagfast.errors import ArgumentError

Ints = npt.NDArray[np.int64]


class Tokenizer(Protocol):
    """What packing asks of a Hugging Face tokenizer."""

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Encode texts: a mapping with input_ids."""


@dataclass(frozen=True)
class PackedBatch:
    """Documents laid end to end.

    Attributes:
        input_ids (int64 [T]): tokens.
        cu_seqlens (int64 [n + 1]): where each document begins; the last entry is T.
        rows (int64 [n]): which document of the caller's list each one is.
    """

    input_ids: Ints
    cu_seqlens: Ints
    rows: Ints

    @property
    def lengths(self) -> Ints:
        """Tokens per document (int64 [n])."""
        return np.diff(self.cu_seqlens)

    @property
    def position_ids(self) -> Ints:
        """0, 1, 2, ... restarting with each document (int64 [T])."""
        return np.arange(len(self.input_ids)) - np.repeat(self.cu_seqlens[:-1], self.lengths)

    def runs(self) -> list[tuple[int, int, int]]:
        """Documents of equal length side by side: (first token, documents, length) each."""
        lengths = self.lengths
        if len(lengths) == 0:
            return []
        starts = np.flatnonzero(np.diff(lengths, prepend=-1))
        ends = np.append(starts[1:], len(lengths))
        return [(int(self.cu_seqlens[a]), int(b - a), int(lengths[a])) for a, b in zip(starts, ends, strict=True)]


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[list[Ints], Ints]:
    """First max_length tokens of each text, no special tokens added, and the full token counts.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: documents.
        max_length: tokens kept.

    Returns:
        int64 arrays, one a text, and int64 [n] tokens of each whole text.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None and hasattr(fast, "encode_batch_fast"):
        fast.no_padding()  # a tokenizer file may ask for either
        fast.no_truncation()
        encoded = [e.ids for e in fast.encode_batch_fast(list(texts), add_special_tokens=False)]
    else:
        encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    counts = np.fromiter((len(ids) for ids in encoded), dtype=np.int64, count=len(encoded))
    return [np.asarray(ids[:max_length], dtype=np.int64) for ids in encoded], counts


def pack(tokens: Sequence[Ints], batch_tokens: int) -> Iterator[PackedBatch]:
    """Cut documents into batches of at most batch_tokens (a longer document has a batch of its own).

    Documents with no tokens are left out. The order (longest first, then as given) and so every batch depend only on
    the documents and the budget.
    """
    if batch_tokens < 1:
        raise ArgumentError(f"batch_tokens: got {batch_tokens}; use at least 1")
    lengths = np.fromiter((len(t) for t in tokens), dtype=np.int64, count=len(tokens))
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    begin = 0
    while begin < len(order):
        size = np.cumsum(lengths[order[begin : begin + batch_tokens]])
        end = begin + max(1, int(np.searchsorted(size, batch_tokens, side="right")))
        rows = order[begin:end]
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths[rows])])
        yield PackedBatch(np.concatenate([tokens[i] for i in rows]), cu_seqlens, rows)
        begin = end
