"""GpuExact: the exact index for NAGs on the device, and its errors."""

import numpy as np
import pytest
import torch
from drawing import draw, sentinel

from nagfast import reference_sets
from nagfast.errors import ArgumentError, MissingDependencyError, NagfastError
from nagfast.kernels import bit_search
from nagfast.search import gpu
from nagfast.search.gpu import GpuExact


@pytest.fixture
def targets():
    nags = draw(60, 2, 5, 19)
    nags[7] = sentinel(nags)
    return nags


@pytest.fixture
def index(targets, device):
    return GpuExact(torch.from_numpy(targets).to(device), 19)


def test_search_equals_the_reference(index, targets, device):
    queries = draw(2, 2, 5, 19, seed=1)
    queries[1] = sentinel(queries)
    found = index.search(torch.from_numpy(queries).to(device), 5)
    for got, wanted in zip(found, reference_sets.nearest(queries, targets, 19, 5), strict=True):
        assert got.device.type == device.type
        np.testing.assert_array_equal(got.cpu().numpy(), wanted)


def test_bytes(index, targets):
    present = reference_sets.members(targets, 19).any(axis=0).sum()
    assert index.bytes == 4 * (32 * (present + 1) + 2 * 19)


@pytest.mark.parametrize(
    ("nags", "message"),
    [
        (np.zeros((4, 2, 3), np.uint16), "nags: got uint16 .4, 2, 3.; give a uint16, uint32"),
        (torch.zeros((4, 2, 3)), "nags: got torch.float32 .4, 2, 3.; give a uint16, uint32"),
        (torch.zeros((2, 3), dtype=torch.int32), "nags: got torch.int32 .2, 3.;"),
        (torch.zeros((2, 3, 0), dtype=torch.int32), "nags: got torch.int32 .2, 3, 0.;"),
        ([[[1]]], "nags: got list; give a uint16"),
        (torch.zeros((0, 2, 3), dtype=torch.int32), "nags: no target; give at least one document"),
    ],
)
def test_wrong_targets_are_named(nags, message, device):
    with pytest.raises(ArgumentError, match=message):
        GpuExact(nags.to(device) if isinstance(nags, torch.Tensor) else nags, 9)


def test_tensors_elsewhere_are_refused(targets, monkeypatch):
    from triton import knobs

    monkeypatch.setattr(knobs.runtime, "interpret", False)
    with pytest.raises(ArgumentError, match="nags: a tensor on cpu; move it to a CUDA device, or use a CPU index"):
        GpuExact(torch.from_numpy(targets), 19)


@pytest.mark.parametrize(
    ("dtype", "value", "mark"), [(np.uint16, 19, 65535), (np.uint32, 2**32 - 1, 2**32 - 1), (np.int32, -1, -1)]
)
def test_indices_out_of_range_name_the_first(dtype, value, mark, device, monkeypatch):
    monkeypatch.setattr(gpu, "CHECKED_AT_ONCE", 16)
    nags = draw(60, 2, 5, 19, dtype)
    nags[[33, 34], 1, 2] = value
    nags[3] = mark  # throughout: a document without a NAG
    message = f"nags: document 33 holds index {value}, but a layer has N = 19; .*without a NAG as {mark} throughout"
    with pytest.raises(ArgumentError, match=message):
        GpuExact(torch.from_numpy(nags).to(device), 19)


@pytest.mark.parametrize(
    ("shape", "k", "message"),
    [
        ((1, 3, 5), 4, "queries: got .1, 3, 5. on .*; give .q, 2, K. on"),
        ((1, 2, 5), 0, "k: got 0; use at least 1"),
        ((1, 2), 4, "queries: got torch.int32 .1, 2.; give"),
    ],
)
def test_wrong_queries_are_named(index, shape, k, message, device):
    with pytest.raises(ArgumentError, match=message):
        index.search(torch.zeros(shape, dtype=torch.int32, device=device), k)


def test_queries_out_of_range_are_named(index, device):
    with pytest.raises(ArgumentError, match="queries: document 0 holds index 19, but a layer has N = 19"):
        index.search(torch.full((1, 2, 5), 19, dtype=torch.int32, device=device), 3)


def test_targets_that_do_not_fit_are_an_error(targets, device, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate 99 GiB")

    monkeypatch.setattr(bit_search, "build_rows", full)
    with pytest.raises(NagfastError, match="bit rows of 60 targets do not fit .*tried to allocate 99 GiB"):
        GpuExact(torch.from_numpy(targets).to(device), 19)


def test_triton_missing_is_an_error_with_the_mend(targets, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r'needs triton, .*: pip install "nagfast\[triton\]"'):
        GpuExact(torch.from_numpy(targets), 19)


def test_arrays_in_host_memory(targets, device, monkeypatch):
    monkeypatch.setattr(gpu, "CHECKED_AT_ONCE", 2)
    targets.flags.writeable = False  # as a memory map is
    index = gpu.GpuIndex(targets, 19, device)
    queries = draw(3, 2, 5, 19, seed=1)
    for got, wanted in zip(index.search(queries, 4), reference_sets.nearest(queries, targets, 19, 4), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    assert [len(part) for part in index.search(queries[:0], 4)] == [0, 0]


def test_a_scorer_takes_an_index_on_the_device(device):
    """What NearestTargets.to gives: the same neighbours, and so the same similarities."""
    from nagfast.backbone import Backbone
    from nagfast.extraction import extract
    from nagfast.scorer import Scorer
    from nagfast.search.nearest import NearestTargets
    from nagfast.targets import TargetProfile

    backbone = Backbone.bundled(device=device.type)
    texts = ["What is three plus four?", "The court held that the statute applies.", "def f(x): return x", ""]
    target = extract(texts[:2], backbone, top_k=4, max_length=12)
    exact = NearestTargets.build(target)
    held = gpu.GpuIndex(exact.targets.indices, target.spec.num_neurons, device)
    moved = NearestTargets(held, exact.record, exact.targets.indices, exact.docids)
    scorer = Scorer(backbone, TargetProfile.fit(target), nearest=moved)
    near = scorer.score_with_nearest(texts, k=2, aggregate="mean")[1]
    assert near.tolist() == exact.search(extract(texts, backbone, top_k=4, max_length=12), 2).aggregate("mean").tolist()
    assert near[0] > near[3] == 0
