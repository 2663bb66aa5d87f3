"""The definitions on cases worked out by hand."""

import numpy as np
import pytest
import torch

from nagfast import reference
from nagfast.errors import ArgumentError


def test_impact_of_two_tokens():
    x = torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 0.0]])
    assert reference.impact(x).tolist() == [2.0, 2.0, 0.0]
    assert reference.impact(x, "l2").tolist() == pytest.approx([10**0.5, 8**0.5, 0.0])
    assert reference.impact(x[:0]).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ArgumentError, match="reduction"):
        reference.impact(x, "max")


def test_topk_of_ties():
    assert reference.topk(np.array([[0.0, 5.0, 5.0, 1.0]]), 3).tolist() == [[1, 2, 3]]
    assert reference.topk(np.zeros((1, 4)), 4).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ArgumentError, match="NaN"):
        reference.topk(np.array([np.nan, 1.0]), 1)


NAGS = np.array([[[0, 1], [2, 3]], [[0, 2], [2, 0]], [[0xFFFF] * 2] * 2], np.uint16)


def test_profile_and_similarity():
    counts, documents = reference.profile_counts(NAGS, 4)
    assert documents == 2
    assert counts.tolist() == [[2, 1, 1, 0], [1, 0, 2, 1]]
    weights = reference.profile_weights(counts)
    assert weights.tolist() == [[0.5, 0.25, 0.25, 0.0], [0.25, 0.0, 0.5, 0.25]]
    assert reference.similarity(NAGS, weights).tolist() == [0.75, 0.75, 0.0]
    assert reference.integer_sums(NAGS, counts).tolist() == [6, 6, 0]
    squared = reference.profile_weights(counts, 2.0)
    assert squared[0].tolist() == pytest.approx([4 / 6, 1 / 6, 1 / 6, 0])


def test_overlap_of_two_documents():
    assert reference.overlap(NAGS[0], NAGS[1]) == 0.5
    assert reference.overlap(NAGS[0], NAGS[0]) == 1.0


def test_selection_takes_the_longest_prefix():
    distance = np.array([0.3, 0.1, 0.2, 0.1])
    docids = ["a", "d", "c", "b"]
    assert reference.select(distance, docids, [10, 10, 10, 10], 0.6) == [3, 1]
    assert reference.select(distance, docids, [10, None, 10, 10], 0.7) == [3, 1, 2]
    assert reference.select(distance, docids, [1, 1, 1, 97], 0.5) == [3]  # alone where it is over the budget
    assert reference.select(distance, docids, [0, 0, None, 0], 0.5) == []


def test_quality_is_mixed_after_min_max():
    distance, quality = np.array([0.0, 1.0, 0.5]), np.array([2.0, 4.0, 3.0])
    assert reference.quality_mix(distance, quality).tolist() == [0.0, 2.0, 1.0]
    assert reference.quality_mix(distance, quality, higher_is_better=True).tolist() == [1.0, 1.0, 1.0]
    assert reference.minmax(np.array([3.0, 3.0])).tolist() == [0.0, 0.0]


def test_several_targets_with_and_without_refill():
    near_first = np.array([0.1, 0.2, 0.3, 0.4])
    amount, docids = [10, 10, 10, 10], ["a", "b", "c", "d"]
    twice = reference.multi_target([near_first, near_first], docids, amount, 0.5)
    assert twice == [(0, 0), (1, 0)]
    once = reference.multi_target([near_first, near_first], docids, amount, 0.5, refill=True)
    assert once == [(0, 0), (1, 1)]


def test_deactivation_keys():
    assert reference.deactivation_keys(np.array([[2, 5, 5, 0]]), 3) == [[1, 2, 0]]
    assert reference.deactivation_keys(np.array([[2, 0, 0, 0]]), 3) == [[0]]
