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

    def cut(self, batch_tokens: int) -> list[PackedBatch]:
        """The same documents in batches of at most batch_tokens (a longer document has a batch of its own)."""
        found, begin = [], 0
        while begin < len(self.rows):
            start = self.cu_seqlens[begin]
            end = int(np.searchsorted(self.cu_seqlens, start + batch_tokens, side="right")) - 1
            end = max(begin + 1, end)
            bounds = self.cu_seqlens[begin : end + 1]
            ids = self.input_ids[bounds[0] : bounds[-1]]
            found.append(PackedBatch(ids, bounds - bounds[0], self.rows[begin:end]))
            begin = end
        return found


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
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths[order])])
    ids = np.concatenate([tokens[i] for i in order]) if len(order) else np.empty(0, np.int64)
    yield from PackedBatch(ids, cu_seqlens, order).cut(batch_tokens)
