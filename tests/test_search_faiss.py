"""The FAISS index: exact counts, its recall, invariances, files that come back, wrong files refused, GPU branches."""

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from nagfast import reference_sets
from nagfast.errors import ArgumentError, MissingDependencyError, NagfastError
from nagfast.search import faiss_gpu, faiss_index
from nagfast.search.base import BuildOptions
from nagfast.search.faiss_index import INDEX_FILE, WEIGHTS_FILE, FaissIndex, order

N = 400
needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason='faiss is not installed: pip install "nagfast[faiss-cpu]"'
)


def draw(documents, seed):
    """Draw clustered NAGs [n, 4, 16]: a document keeps about two thirds of one of 12 prototypes."""
    rng = np.random.default_rng(seed)
    order = np.argsort(np.random.default_rng(99).random((12, 4, N)), axis=2)[:, :, :16]
    scores = rng.random((documents, 4, N), dtype=np.float32)
    chosen = order[rng.integers(0, 12, documents)]
    kept = rng.random(chosen.shape) < 0.65
    np.put_along_axis(scores, chosen, np.where(kept, 2 + rng.random(chosen.shape), 0).astype(np.float32), axis=2)
    nags = np.argsort(-scores, axis=2)[:, :, :16].astype(np.uint16)
    nags[2:3] = 0xFFFF
    return nags


TARGETS, QUERIES = draw(1500, 1), draw(40, 2)


@pytest.fixture(scope="module", params=["pq flat", "pq ivf", "simhash flat", "simhash ivf"])
def built(request):
    """Name of kind and structure, and an index of it."""
    pytest.importorskip("faiss")
    kind, structure = request.param.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(faiss_index.DIMENSIONS, kind, 256)
        if structure == "ivf":
            patch.setattr(faiss_index, "EXHAUSTIVE", 100)
        index = FaissIndex.build(TARGETS, N, BuildOptions(recall=0.95, k=5, threads=1), kind=kind)
    assert (index.parameters["kind"], index.parameters["structure"]) == (kind, structure)
    return index


def recall(counts, k):
    """Share of the k nearest found, ties counted as found."""
    least = reference_sets.nearest(QUERIES, TARGETS, N, k)[0][:, -1]
    return (counts >= least[:, None]).mean()


def test_counts_are_exact_and_in_order(built):
    counts, ids = built.search(QUERIES, 5)
    assert (counts.dtype, ids.dtype, counts.shape, ids.shape) == (np.int32, np.int64, (40, 5), (40, 5))
    held = ids >= 0
    shared = reference_sets.overlap_counts(QUERIES, TARGETS, N)
    np.testing.assert_array_equal(counts, np.where(held, np.take_along_axis(shared, np.maximum(ids, 0), axis=1), -1))
    key = counts.astype(np.int64) * 10_000 - ids
    assert (np.diff(key, axis=1) < 0)[held[:, 1:]].all()


def test_recall_is_what_was_asked_for(built):
    assert built.parameters["recall"] >= 0.95
    assert recall(built.search(QUERIES, 5)[0], 5) >= 0.9  # other queries than those it was tuned on
    assert json.loads(json.dumps(built.parameters)) == built.parameters


def test_recall_is_stated_for_the_queries_given():
    """Queries unlike the targets are harder; what is stated holds for them."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(5)
    far = np.argsort(rng.random((300, 4, N)), axis=2)[:, :, :16].astype(np.uint16)
    options = BuildOptions(recall=0.9, k=5, threads=1)
    index = FaissIndex.build(TARGETS, N, options, sample=far)
    assert index.parameters["recall_queries"] == "given"
    least = reference_sets.nearest(far, TARGETS, N, 5)[0][:, -1]
    shares = (index.search(far, 5)[0] >= least[:, None]).mean(axis=1)
    assert abs(shares.mean() - index.parameters["recall"]) < 0.05
    plain = FaissIndex.build(TARGETS, N, options)
    assert plain.parameters["recall_queries"] == "targets"
    assert plain.parameters["candidates"] < index.parameters["candidates"]


def test_threads_and_batches_do_not_show(built):
    counts, ids = built.search(QUERIES, 5, threads=1)
    for threads in (2, 3):
        again = built.search(QUERIES, 5, threads=threads)
        np.testing.assert_array_equal(again[0], counts)
        np.testing.assert_array_equal(again[1], ids)
    parts = [built.search(QUERIES[i : i + 7], 5, threads=2) for i in range(0, 40, 7)]
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), ids)


def test_building_with_threads_gives_the_same_index(built, tmp_path, monkeypatch):
    monkeypatch.setitem(faiss_index.DIMENSIONS, built.parameters["kind"], 256)
    if built.parameters["structure"] == "ivf":
        monkeypatch.setattr(faiss_index, "EXHAUSTIVE", 100)
    again = FaissIndex.build(TARGETS, N, BuildOptions(recall=0.95, k=5, threads=3), kind=built.parameters["kind"])
    assert again.parameters == built.parameters
    for name, index in (("a", built), ("b", again)):
        (tmp_path / name).mkdir()
        files = index.save(tmp_path / name)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_saved_and_loaded(built, tmp_path):
    assert built.save(tmp_path) == [INDEX_FILE, WEIGHTS_FILE]
    back = FaissIndex.load(tmp_path, TARGETS, N, json.loads(json.dumps(built.parameters)))
    for got, want in zip(back.search(QUERIES, 5), built.search(QUERIES, 5), strict=True):
        np.testing.assert_array_equal(got, want)


def test_files_that_do_not_fit_are_refused(built, tmp_path):
    built.save(tmp_path)
    p = built.parameters
    for nags, neurons, parameters, message in [
        (TARGETS[:-1], N, p, "1500 targets of .* but there are 1499 NAGs"),
        (TARGETS, N + 1, p, r"faiss.weights.npy: float32 \[4, 400\] does not fit"),
        (TARGETS, N, p | {"dimensions": 512}, "the parameters say 512"),
        (TARGETS, N, p | {"kind": "hnsw"}, "kind 'hnsw'"),
        (TARGETS, N, p | {"candidates": "7"}, "candidates of the faiss index is '7'"),
    ]:
        with pytest.raises(NagfastError, match=message):
            FaissIndex.load(tmp_path, nags, neurons, parameters)
    (tmp_path / INDEX_FILE).write_bytes(b"not an index")
    with pytest.raises(NagfastError, match="cannot be read .* build it again"):
        FaissIndex.load(tmp_path, TARGETS, N, p)


def test_a_vector_longer_than_its_file_is_refused(built, tmp_path):
    """Before memory is asked for: the limit is the file's size while it is read, and as before afterwards."""
    import faiss

    if not hasattr(faiss, "get_deserialization_vector_byte_limit"):
        pytest.skip("this FAISS has no such limit")
    built.save(tmp_path)
    before = faiss.get_deserialization_vector_byte_limit()
    data = (tmp_path / INDEX_FILE).read_bytes()
    refused = []
    for place in range(0, min(len(data), 200)):  # one of the first fields is the length of a vector
        (tmp_path / INDEX_FILE).write_bytes(data[:place] + (1 << 33).to_bytes(8, "little") + data[place + 8 :])
        try:
            FaissIndex.load(tmp_path, TARGETS, N, built.parameters)
        except NagfastError as error:
            refused.append(str(error))
        assert faiss.get_deserialization_vector_byte_limit() == before
    assert any("limit" in reason or "exceeds" in reason for reason in refused)


@needs_faiss
def test_more_neighbours_than_targets():
    index = FaissIndex.build(TARGETS[:3], N, BuildOptions())
    counts, ids = index.search(QUERIES[:2], 5)
    want = reference_sets.nearest(QUERIES[:2], TARGETS[:3], N, 5)
    np.testing.assert_array_equal(counts, want[0])
    np.testing.assert_array_equal(ids, want[1])
    assert (ids[:, 3:] == -1).all()


@needs_faiss
@pytest.mark.parametrize("targets", [TARGETS[:1], TARGETS[2:3], np.repeat(TARGETS[2:3], 4, axis=0)])
def test_next_to_nothing_to_find(targets):
    index = FaissIndex.build(targets, N, BuildOptions())
    for got, want in zip(index.search(TARGETS[:4], 2), reference_sets.nearest(TARGETS[:4], targets, N, 2), strict=True):
        np.testing.assert_array_equal(got, want)


@needs_faiss
def test_wrong_arguments_are_named():
    with pytest.raises(ArgumentError, match="kind: got 'hnsw'; use one of pq, simhash"):
        FaissIndex.build(TARGETS, N, BuildOptions(), kind="hnsw")
    with pytest.raises(ArgumentError, match="nags: got no targets"):
        FaissIndex.build(TARGETS[:0], N, BuildOptions())
    index = FaissIndex.build(TARGETS[:5], N, BuildOptions())
    with pytest.raises(ArgumentError, match="k: got 0"):
        index.search(QUERIES, 0)
    with pytest.raises(ArgumentError, match="index 65534"):
        index.search(np.full((1, 4, 16), 65534, np.uint16), 1)


def test_faiss_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "nagfast\[faiss-cpu\]"'):
        FaissIndex.build(TARGETS, N, BuildOptions())


def test_order_is_by_count_then_target():
    rows = np.array([[7, 3, -1, 5, 2]])
    shared = np.array([[4, 4, -1, 9, 4]], np.int32)
    assert rows[0, order(rows, shared, 4)[0]].tolist() == [5, 2, 3, 7]
    assert rows[0, order(rows, shared, 5)[0]].tolist() == [5, 2, 3, 7, -1]


# --- GPU: a stand-in for FAISS notes what is called -------------------------------------------------------------------


class FakeFaiss(SimpleNamespace):
    """Has the GPU names of faiss; a call gives its name and arguments."""

    METRIC_INNER_PRODUCT = 0
    INDEXES = ("GpuIndexFlat", "GpuIndexCagra", "GpuIndexBinaryFlat")
    MOVES = ("index_gpu_to_cpu", "index_binary_gpu_to_cpu", "index_cpu_to_gpu", "index_binary_cpu_to_gpu")

    def __init__(self, gpus=1, without=()):
        calls = {n: (lambda *a, n=n: (n, *a)) for n in self.INDEXES + self.MOVES if n not in without}
        super().__init__(StandardGpuResources=lambda: "resources", get_num_gpus=lambda: gpus, **calls)


def test_gpu_index_by_kind_and_size():
    faiss = FakeFaiss()
    many = faiss_gpu.BRUTE_FORCE_BYTES // (4 * 512)
    take = faiss_gpu.make_index
    assert take(faiss, "pq", 512, many) == (("GpuIndexFlat", "resources", 512, 0), "gpu-flat")
    assert take(faiss, "pq", 512, many + 1) == (("GpuIndexCagra", "resources", 512, 0), "gpu-cagra")
    assert take(FakeFaiss(without=["GpuIndexCagra"]), "pq", 512, many + 1)[1] == "gpu-flat"
    assert take(faiss, "simhash", 1024, many) == (("GpuIndexBinaryFlat", "resources", 1024), "gpu-flat")


def test_gpu_index_is_taken_where_faiss_sees_a_gpu():
    assert faiss_index._empty_index(FakeFaiss(), "pq", 10)[0][0] == "GpuIndexFlat"
    assert faiss_index._empty_index(FakeFaiss(), "simhash", 10**6)[0][0] == "GpuIndexBinaryFlat"


def test_gpu_index_to_and_from_files():
    faiss = FakeFaiss()
    assert faiss_gpu.to_cpu(faiss, "pq", "i") == ("index_gpu_to_cpu", "i")
    assert faiss_gpu.to_cpu(faiss, "simhash", "i") == ("index_binary_gpu_to_cpu", "i")
    assert faiss_gpu.to_gpu(faiss, "pq", "i") == ("index_cpu_to_gpu", "resources", 0, "i")
    assert faiss_gpu.to_gpu(faiss, "simhash", "i") == ("index_binary_cpu_to_gpu", "resources", 0, "i")


def on_gpu(structure, documents, kind="pq"):
    """An index of 512 dimensions whose FAISS part only notes how it is searched."""
    seen = []

    def search(vectors, count, **options):
        seen.append((count, {k: vars(v) for k, v in options.items()}))
        return np.zeros((len(vectors), count)), np.tile(np.arange(count), (len(vectors), 1))

    parameters = {"kind": kind, "structure": structure, "dimensions": 512, "seed": 0, "probes": 1}
    nags = np.repeat(TARGETS[:1], documents, axis=0)
    weights = faiss_index.sketch_weights(TARGETS, N)
    index = FaissIndex(nags, weights, SimpleNamespace(search=search), parameters | {"candidates": 100, "recall_at": 5})
    return index, seen


@pytest.mark.parametrize(
    ("structure", "k", "asked"), [("gpu-flat", 7, 140), ("gpu-cagra", 5, 100), ("gpu-flat", 500, 2048)]
)
def test_a_gpu_search_asks_for_what_faiss_can_give(structure, k, asked, monkeypatch):
    """FAISS selects up to 2,048 on a GPU; the candidate list of a graph search must be as long as its result."""
    fake = FakeFaiss()
    fake.omp_get_max_threads, fake.omp_set_num_threads = (lambda: 1), (lambda n: None)
    fake.SearchParametersCagra = SimpleNamespace
    monkeypatch.setitem(sys.modules, "faiss", fake)
    index, seen = on_gpu(structure, 3000)
    counts, ids = index.search(QUERIES[:4], k)
    assert counts.shape == ids.shape == (4, k)
    assert seen == [(asked, {"params": {"itopk_size": 128}} if structure == "gpu-cagra" else {})]


def test_memory_of_a_gpu_index_is_known_without_asking_it():
    assert on_gpu("gpu-flat", 10)[0].bytes == 10 * (4 * 512 + 8)
    assert on_gpu("gpu-flat", 10, "simhash")[0].bytes == 10 * (512 // 8 + 8)


def test_an_index_made_on_a_gpu_serves_without_one(tmp_path):
    pytest.importorskip("faiss")
    index = FaissIndex.build(TARGETS[:50], N, BuildOptions())
    index.save(tmp_path)
    back = FaissIndex.load(tmp_path, TARGETS[:50], N, index.parameters | {"structure": "gpu-flat"})
    assert back.parameters["structure"] == "flat"
    np.testing.assert_array_equal(back.search(QUERIES, 3)[1], index.search(QUERIES, 3)[1])


@pytest.mark.parametrize(
    ("structure", "calls"), [("gpu-cagra", ["train 50"]), ("gpu-flat", ["add 20", "add 20", "add 10"])]
)
def test_gpu_indexes_are_filled(structure, calls, monkeypatch):
    """A graph takes all its vectors at once and only once; brute force takes them block by block, untrained."""
    seen = []
    index = SimpleNamespace(
        is_trained=structure != "gpu-cagra",
        train=lambda x: seen.append(f"train {len(x)}"),
        add=lambda x: seen.append(f"add {len(x)}"),
    )
    monkeypatch.setattr(faiss_index, "ROWS", 20)
    parameters = {"kind": "pq", "structure": structure, "dimensions": 64, "seed": 0}
    made = FaissIndex(TARGETS[:50], faiss_index.sketch_weights(TARGETS[:50], N), index, parameters)
    made._fill(None, BuildOptions())
    assert seen == calls
