"""NagSpec decides what may be compared; NagBatch holds what a spec promises."""

import dataclasses

import numpy as np
import pytest

from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.schema import IDENTITY, NagBatch, NagSpec

SPEC = NagSpec(fingerprint="f", num_layers=2, num_neurons=50, top_k=5, tokenizer="t")


def test_a_spec_survives_json():
    assert NagSpec.from_dict(SPEC.to_dict(), "x") == SPEC


@pytest.mark.parametrize("name", IDENTITY)
def test_every_field_of_the_identity_counts(name):
    other = {"num_layers": 3, "num_neurons": 51, "max_length": 9, "neuron_type": "att_q", "impact": "act_grad"}
    changed = dataclasses.replace(SPEC, **{name: other.get(name, "l2" if name == "reduction" else "zz")})
    with pytest.raises(SpecMismatchError, match=f"the pool .* and the target .* differ in {name}"):
        SPEC.require_same_identity(changed, "the pool", "the target")


def test_provenance_may_differ_and_is_noted():
    other = dataclasses.replace(SPEC, dtype="bfloat16", device="cuda", top_k=3)
    SPEC.require_same_identity(other, "a", "b")
    assert len(SPEC.provenance_notes(other)) == 2


def test_wide_layers_take_uint32():
    assert SPEC.index_dtype == np.uint16 and SPEC.sentinel == 0xFFFF
    wide = dataclasses.replace(SPEC, num_neurons=65_536)
    assert wide.index_dtype == np.uint32 and wide.sentinel == 0xFFFFFFFF
    assert dataclasses.replace(SPEC, num_neurons=65_535).index_dtype == np.uint16


@pytest.mark.parametrize(
    ("field", "value"),
    [("top_k", 0), ("top_k", 51), ("num_layers", True), ("max_length", -1), ("neuron_type", "x"), ("reduction", "max")],
)
def test_wrong_values_are_named(field, value):
    with pytest.raises(ArgumentError, match=field):
        dataclasses.replace(SPEC, **{field: value})


@pytest.mark.parametrize("damaged", [None, [], {}, {"fingerprint": 3}, SPEC.to_dict() | {"more": 1}])
def test_damaged_specs_are_refused(damaged):
    with pytest.raises(ArgumentError, match="nag.json"):
        NagSpec.from_dict(damaged, "nag.json")


def test_k_can_be_lowered_not_raised():
    indices = np.arange(20, dtype=np.uint16).reshape(2, 2, 5)
    batch = NagBatch(indices, np.ones(2, np.int32), SPEC)
    assert batch.with_top_k(3).indices.tolist() == indices[:, :, :3].tolist()
    assert batch.with_top_k(None) is batch
    with pytest.raises(SpecMismatchError, match="6 asked for, 5 stored"):
        batch.with_top_k(6)


def test_a_batch_must_fit_its_spec():
    with pytest.raises(ArgumentError, match="indices"):
        NagBatch(np.zeros((2, 2, 4), np.uint16), np.ones(2, np.int32), SPEC)
    with pytest.raises(ArgumentError, match="tokens"):
        NagBatch(np.zeros((2, 2, 5), np.uint16), np.ones(3, np.int32), SPEC)


def test_empty_documents_are_known():
    indices = np.zeros((2, 2, 5), np.uint16)
    indices[1] = 0xFFFF
    assert NagBatch(indices, np.ones(2, np.int32), SPEC).empty.tolist() == [False, True]
