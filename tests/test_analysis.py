"""Deactivation keys, explanations and the map."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from test_targets import SPEC, nags, store
from torch import nn

from nagfast.analysis.deactivation import apply, deactivation_keys, load_keys, write_keys
from nagfast.analysis.explain import explain, layer_agreement
from nagfast.analysis.tsne import embed, incidence, plot, plot_store, sample
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.schema import NagBatch
from nagfast.targets import TargetProfile


def one(batch, row):
    return NagBatch(batch.indices[row : row + 1], batch.tokens[row : row + 1], batch.spec)


# --- deactivation -----------------------------------------------------------------------------------------------------


def test_keys_are_the_most_frequent_neurons():
    profile = TargetProfile.fit(nags(30))
    keys = deactivation_keys(profile, 7)
    for layer, neurons in keys.items():
        want = sorted(range(50), key=lambda k: (-profile.counts[layer, k], k))[:7]
        assert neurons == [k for k in want if profile.counts[layer, k] > 0]
    assert all(len(k) == SPEC.top_k for k in deactivation_keys(profile).values())
    assert all(len(k) == 5 for k in deactivation_keys(TargetProfile.fit(nags(1)), 50).values())
    for wrong in (0, 51):
        with pytest.raises(ArgumentError, match="top_k"):
            deactivation_keys(profile, wrong)


def test_keys_go_to_a_file_and_back(tmp_path):
    profile = TargetProfile.fit(nags(30))
    keys = write_keys(profile, tmp_path / "k.json", top_k=3)
    assert load_keys(tmp_path / "k.json") == keys == deactivation_keys(profile, 3)
    assert json.loads((tmp_path / "k.json").read_text())["0"] == keys[0]


@pytest.mark.parametrize("text", ["", "[]", '{"a": [1]}', '{"0": 3}', '{"0": [1.5]}', '{"0": [-1]}', '{"-1": [1]}'])
def test_files_that_hold_no_keys_are_refused(tmp_path, text):
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(ArgumentError, match=r"k\.json"):
        load_keys(tmp_path / "k.json")
    with pytest.raises(ArgumentError, match="no such file"):
        load_keys(tmp_path / "none.json")


def test_keyed_neurons_fall_silent_and_no_others():
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.Linear(4, 6, bias=False)]
    x = torch.randn(3, 4)
    before = [layer(x).detach().clone() for layer in layers]
    assert apply(layers, {0: [1, 5, 5], 1: [0]}) == 3
    for layer, old, silent in zip(layers, before, ([1, 5], [0]), strict=True):
        now = layer(x)
        assert (now[:, silent] == 0).all()
        others = [k for k in range(6) if k not in silent]
        assert torch.equal(now[:, others], old[:, others])


@pytest.mark.parametrize("keys", [{2: [0]}, {0: [6]}, {0: [1], 1: [-1]}, {-1: [0]}])
def test_keys_that_do_not_fit_change_nothing(keys):
    layers = [nn.Linear(4, 6) for _ in range(2)]
    before = [p.detach().clone() for layer in layers for p in layer.parameters()]
    with pytest.raises(ArgumentError, match="keys"):
        apply(layers, keys)
    assert all(torch.equal(a, b) for a, b in zip(before, [p for x in layers for p in x.parameters()], strict=True))
    with pytest.raises(ArgumentError, match="no weight"):
        apply([nn.ReLU()], {0: [0]})


# --- explanations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_parts_add_up_to_the_similarity(power):
    profile, pool = TargetProfile.fit(nags(30), power), nags(9, 3)
    for row in range(9):
        found = explain(one(pool, row), profile, rows=1000)
        assert found.layers.mean() == pytest.approx(found.similarity, abs=1e-8)
        assert sum(r.weight for r in found.neurons) / 3 == pytest.approx(found.similarity, abs=1e-8)
        assert [r.weight for r in found.neurons] == sorted((r.weight for r in found.neurons), reverse=True)
        for r in found.neurons:
            assert pool.indices[row, r.layer, r.rank] == r.neuron
            assert r.weight == profile.weights[r.layer, r.neuron]
            assert r.share == profile.counts[r.layer, r.neuron] / 30
    assert len(explain(one(pool, 0), profile, rows=4).neurons) == 4


def test_explain_refuses_what_it_cannot_explain():
    profile = TargetProfile.fit(nags(30))
    with pytest.raises(ArgumentError, match="give one"):
        explain(nags(2), profile)
    with pytest.raises(ArgumentError, match="no NAG"):
        explain(nags(1, empty=[0]), profile)
    with pytest.raises(ArgumentError, match="rows"):
        explain(nags(1), profile, rows=-1)
    with pytest.raises(SpecMismatchError):
        explain(nags(1, spec=replace(SPEC, fingerprint="f")), profile)


def test_layer_agreement_is_the_mean_over_documents():
    profile, pool = TargetProfile.fit(nags(30).with_top_k(3)), nags(2500, 3, empty=[7])
    found = layer_agreement(pool, profile)
    assert found.shape == (3,)
    assert found.mean() == pytest.approx(profile.similarity(pool).mean(), abs=1e-12)
    assert layer_agreement(nags(0), profile).tolist() == [0, 0, 0]


# --- map --------------------------------------------------------------------------------------------------------------


def two_kinds(n=40):
    """Documents of two kinds that share no neuron."""
    indices = np.stack([np.stack([np.random.default_rng(i).permutation(20)[:5] for _ in range(3)]) for i in range(n)])
    indices[n // 2 :] += 25
    return NagBatch(indices.astype(np.uint16), np.ones(n, np.int32), SPEC)


def test_incidence_counts_shared_neurons():
    pytest.importorskip("scipy")
    batch = nags(6, empty=[2])
    rows = incidence(batch)
    assert rows.shape == (6, 150)
    shared = (rows @ rows.T).toarray()
    for a in range(6):
        for b in range(6):
            both = [len(set(x) & set(y)) for x, y in zip(batch.indices[a], batch.indices[b], strict=True)]
            assert shared[a, b] == (0 if 2 in (a, b) else sum(both))


def test_kinds_that_share_nothing_lie_apart():
    pytest.importorskip("sklearn")
    places = embed(two_kinds(), perplexity=10, max_iter=300)
    first, second = places[:20], places[20:]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * max(first.std(), second.std()) / 2
    again = embed(two_kinds(), perplexity=10, max_iter=300)
    assert (again == places).all()
    with pytest.raises(ArgumentError, match="at least 10"):
        embed(nags(9))
    with pytest.raises(ArgumentError, match="perplexity"):
        embed(nags(10), perplexity=0)


def test_samples_are_bounded_and_repeatable():
    labels = ["a"] * 50 + ["b"] * 3
    rows = sample(labels, 10, seed=1)
    assert len(rows) == 13
    assert rows.tolist() == sorted(set(rows.tolist())) == sample(labels, 10, seed=1).tolist()
    assert sample(labels, 10, seed=1, only=["b"]).tolist() == [50, 51, 52]
    with pytest.raises(ArgumentError, match="no document of z"):
        sample(labels, 10, 1, only=["z"])
    with pytest.raises(ArgumentError, match="per_label"):
        sample(labels, 0, 1)


def test_a_store_is_drawn(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    batch = two_kinds()
    batch.indices[3] = SPEC.sentinel
    kinds = pa.table({"kind": ["_one $"] * 20 + [None] * 20})
    found = store(tmp_path / "s", batch, kinds)
    assert plot_store(found, tmp_path / "m.png", label_column="kind", per_label=15, perplexity=5) in {29, 30}
    assert (tmp_path / "m.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ArgumentError, match="no 'colour'"):
        plot_store(found, tmp_path / "m.png", label_column="colour")


def test_many_labels_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plot(np.random.default_rng(0).random((30, 2)), [f"k{i}" for i in range(30)], tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 1000
