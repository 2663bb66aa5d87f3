"""Documents made by a script: random token ids, and texts of known token counts, of a named distribution of lengths.

120        all of 120 tokens, as published
512        all of 512
web        log-normal with sigma 1, cut at 2,048
web-120    the same cut at 120, as a run with max_length 120 sees them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

LONGEST = {"120": 120, "512": 512, "web": 2048, "web-120": 120}
LENGTHS = tuple(LONGEST)
Tokens = list[npt.NDArray[np.int64]]


def draw_sizes(lengths: str, documents: int, median: float, seed: int) -> npt.NDArray[np.int64]:
    """Token counts of some documents (int64 [n], at least 1).

    Args:
        lengths: one of LENGTHS.
        documents: n.
        median: of the log-normal, before it is cut.
        seed: of the draw.
    """
    if not lengths.startswith("web"):
        return np.full(documents, LONGEST[lengths], np.int64)
    drawn = np.rint(np.random.default_rng(seed).lognormal(np.log(median), 1.0, documents))
    return np.clip(drawn, 1, LONGEST[lengths]).astype(np.int64)


def mean_size(lengths: str, median: float) -> float:
    """Mean token count of a distribution."""
    return float(draw_sizes(lengths, 10_000, median, 0).mean())


def rotating(sizes: npt.NDArray[np.int64], sets: int, vocab: int) -> list[Tokens]:
    """Sets of documents of the same sizes, each with its own ids in its own order, so that the work is the same."""
    drawn = []
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        drawn.append([rng.integers(0, vocab, n) for n in rng.permutation(sizes)])
    return drawn


def mean_context(sizes: npt.NDArray[np.int64]) -> float:
    """Tokens that a token attends to, itself included: mean over all tokens."""
    return float((sizes * (sizes + 1) / 2).sum() / sizes.sum())


def mean_overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Mean share of neurons two arrays of NAGs [n, L, K] have in common."""
    return float((a[:, :, :, None].astype(np.int64) == b[:, :, None, :]).any(axis=3).mean())


def one_token_words(tokenizer: Any) -> list[str]:
    """Words of letters that are one token each wherever they follow a space: " " + word per document gives its size."""
    entries = sorted(tokenizer.get_vocab())
    words = [e[1:] for e in entries if e[0] == "\u0120" and e[1:].isascii() and e[1:].isalpha() and len(e) > 3]
    return [w for w in words if len(tokenizer.encode(f" {w}", add_special_tokens=False)) == 1]


def texts(sizes: Sequence[int], words: Sequence[str], seed: int) -> list[str]:
    """Texts of exactly so many tokens."""
    rng = np.random.default_rng(seed)
    pool = np.array([f" {w}" for w in words])
    return ["".join(rng.choice(pool, n)) for n in sizes]
