"""Tokens of documents, laid end to end in batches of about equal size.

A PackedBatch holds whole documents, longest first, so documents of one length lie side by side: a run of them is a
plain [documents, length] matrix, and no padding is ever computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nagfast.errors import ArgumentError
from nagfast.prefix import Ints, Tokenizer, encode_whole


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

    Every text is encoded to its end; where the counts are not wanted, prefix.encode_first need not.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: documents.
        max_length: tokens kept.

    Returns:
        int64 arrays, one a text, and int64 [n] tokens of each whole text.
    """
    tokens, counts = [], np.zeros(len(texts), dtype=np.int64)
    for i, ids in enumerate(encode_whole(tokenizer, texts)):
        tokens.append(np.array(ids[:max_length], dtype=np.int64))
        counts[i] = len(ids)
    return tokens, counts


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
