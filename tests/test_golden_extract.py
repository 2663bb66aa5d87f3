"""The published reference and this engine find the same neurons, on its own cases, for all six neuron types."""

from itertools import product

import numpy as np
import pytest

from nagfast.backbone import Measure
from nagfast.packing import encode, pack


@pytest.fixture(scope="module", params=["fast", "fused", "hooks"])
def impacts(request, golden):
    """Impacts and NAGs of all pool documents: by the runner, by the generic tier, and by plain hooks alone."""
    backbone = golden["backbone"]
    texts = golden["pool"]["doc"].to_pylist()
    tokens, _ = encode(backbone.tokenizer, texts, golden["settings"]["max_length"])
    types = tuple(golden["settings"]["neuron_types"])
    fast = backbone.fast
    assert fast is not None and backbone.generic.mlps is not None
    groups = [(t,) for t in types] if request.param == "fast" else [types]
    found = {t: np.zeros((len(texts), backbone.num_layers, backbone.num_neurons(t)), np.float32) for t in types}
    nags = {t: np.zeros((len(texts), backbone.num_layers, golden["settings"]["top_k"]), np.uint16) for t in types}
    try:
        if request.param != "fast":
            backbone.fast = None
            backbone.generic.set_layout("packed", fuse=request.param == "fused")
        for batch, group in product(pack(tokens, 500), groups):
            part = backbone.impacts(batch, Measure(group))
            chosen = backbone.nags(batch, golden["settings"]["top_k"], Measure(group))
            for t in group:
                found[t][batch.rows] = part[t]
                nags[t][batch.rows] = chosen[t]
    finally:
        backbone.fast = fast
        backbone.generic.set_layout("packed")
    return found, nags


def test_the_golden_model_is_packed_and_fast(golden):
    assert golden["backbone"].layout == "packed"
    assert golden["backbone"].tier == "fast"


@pytest.mark.parametrize("neuron_type", ["fwd_up", "fwd_down", "att_q", "att_o"])
def test_every_index_agrees(golden, impacts, neuron_type):
    docids = golden["pool"]["docid"].to_pylist()
    for row, docid in enumerate(docids):
        assert impacts[1][neuron_type][row].tolist() == golden["pool_features"][docid][neuron_type].tolist(), docid


@pytest.mark.parametrize("neuron_type", ["att_k", "att_v"])
def test_repeated_heads_agree_by_impact(golden, impacts, neuron_type):
    """Repeated heads tie exactly and the published order inside a tie is open: compare the impacts they point at."""
    docids = golden["pool"]["docid"].to_pylist()
    for row, docid in enumerate(docids):
        values = impacts[0][neuron_type][row]
        ours = np.take_along_axis(values, impacts[1][neuron_type][row].astype(np.int64), axis=1)
        theirs = np.take_along_axis(values, golden["pool_features"][docid][neuron_type], axis=1)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_impact_values(golden, impacts):
    expected = np.load(golden["folder"] / "impact_fwd_up_pool.npy")
    np.testing.assert_allclose(impacts[0]["fwd_up"], expected, rtol=1e-5, atol=1e-6)
