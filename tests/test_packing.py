"""Batches hold every document whole, once, longest first, within the budget."""

import numpy as np
import pytest
from golden_cases import GOLDEN
from transformers import AutoTokenizer

from nagfast.errors import ArgumentError
from nagfast.packing import PackedBatch, encode, pack


def tokens_of(lengths):
    return [np.arange(n) + 100 * i for i, n in enumerate(lengths)]


@pytest.mark.parametrize("budget", [1, 5, 7, 1000])
@pytest.mark.parametrize("lengths", [(), (0,), (3,), (0, 1, 0), (4, 9, 4, 1, 9, 2, 0, 4)])
def test_every_document_once_and_whole(lengths, budget):
    tokens = tokens_of(lengths)
    seen = {}
    for batch in pack(tokens, budget):
        assert len(batch.input_ids) <= budget or len(batch.rows) == 1
        assert (np.diff(batch.lengths) <= 0).all()
        for row, a, b in zip(batch.rows, batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
            assert row not in seen
            seen[int(row)] = batch.input_ids[a:b]
            np.testing.assert_array_equal(batch.position_ids[a:b], np.arange(b - a))
    assert sorted(seen) == [i for i, n in enumerate(lengths) if n > 0]
    for row, ids in seen.items():
        np.testing.assert_array_equal(ids, tokens[row])


def test_runs_cover_the_batch():
    batch = next(pack(tokens_of((4, 9, 4, 1, 9, 2, 4)), 1000))
    assert batch.runs() == [(0, 2, 9), (18, 3, 4), (30, 1, 2), (32, 1, 1)]


def test_no_documents_have_no_runs():
    assert PackedBatch(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64)).runs() == []


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ArgumentError, match="batch_tokens: got 0"):
        next(pack(tokens_of((3,)), 0))


def test_encode_ignores_padding_and_truncation_of_the_tokenizer_file():
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "qwen3" / "model")
    texts = ["a", "", "some longer text, much longer than the other one", "héllo \u2603 " * 20]
    tokenizer.backend_tokenizer.enable_padding()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokens, counts = encode(tokenizer, texts, 10)
    expected = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
    assert [t.tolist() for t in tokens] == [e[:10] for e in expected]
    assert counts.tolist() == [len(e) for e in expected]
    assert len(tokens[1]) == 0
