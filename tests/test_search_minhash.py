"""Near-duplicates by MinHash: exact results, bands as datasketch chooses them, exchange with datasketch."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from nagfast import errors, minhash, reference_sets
from nagfast.search import bands, minhash_export, minhash_index
from nagfast.search.base import BuildOptions
from nagfast.search.minhash_index import MinHashIndex, near_duplicates

LAYERS, K, N = 4, 10, 300
OPTIONS = BuildOptions(seed=1, threads=1)


def draw(documents, seed=0, dtype=np.uint16):
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((documents, LAYERS, N)), axis=2)[:, :, :K].astype(dtype)


def altered(nags, changes, seed=0):
    """Copies in which `changes[d]` entries of layer 0 hold neurons that the document did not have."""
    rng, copies = np.random.default_rng(seed), nags.copy()
    for copy, count in zip(copies, changes, strict=True):
        copy[0, :count] = rng.permutation(np.setdiff1d(np.arange(N), copy[0]))[:count]
    return copies


def collection(dtype=np.uint16):
    """Documents with near copies (up to 6 entries of 40 other), a few exact copies and documents without a NAG."""
    base = draw(120, 3, dtype)
    copies = altered(base[:60], np.arange(60) % 7)
    nags = np.concatenate([base, copies, base[:5], base[:1]])
    nags[[70, 130]] = np.iinfo(dtype).max
    return nags


def agree(a, b, num_perm, threshold, seed=1):
    """Whether documents a[i] and b[j], both with a NAG, have the same values in a band (bool [n, m])."""
    count, rows = bands.choose_bands(threshold, num_perm)
    one, other = (minhash.signatures(x, N, num_perm=num_perm, seed=seed)[:, : count * rows] for x in (a, b))
    same = one[:, None].reshape(len(a), 1, count, rows) == other[None].reshape(1, len(b), count, rows)
    held = (a[:, 0, 0] < N)[:, None] & (b[:, 0, 0] < N)
    return same.all(axis=3).any(axis=2) & held


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("num_perm", [8, 128, 300])
@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
def test_pairs_are_those_that_agree_in_a_band_and_reach_the_threshold(threshold, num_perm, dtype):
    nags = collection(dtype)
    similar = reference_sets.similarity_matrix(nags, nags, N, "jaccard") >= threshold
    expected = np.argwhere(np.triu(similar & agree(nags, nags, num_perm, threshold), 1))
    found = near_duplicates(nags, N, threshold, num_perm=num_perm, threads=1)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64
    assert len(found) > 10


def test_pairs_well_above_the_threshold_are_found():
    """At 0.8 and 128 values (9 bands of 13): 1 - (1 - 0.95^13)^9 = 0.998 of the pairs of similarity 0.95."""
    base = draw(200, 11)
    nags = np.concatenate([base, altered(base, np.ones(200, int))])  # 39 of 41
    found = near_duplicates(nags, N, 0.8, num_perm=128)
    assert len(found) >= 196
    np.testing.assert_array_equal(found[:, 1] - found[:, 0], 200)


def test_no_pairs():
    assert near_duplicates(draw(10), N).shape == (0, 2)
    assert near_duplicates(np.full((3, LAYERS, K), 0xFFFF, np.uint16), N).shape == (0, 2)


@pytest.mark.parametrize("pairs_at_once", [1, 7, 1 << 18])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_search_is_exact_among_candidates_above_the_threshold(k, pairs_at_once, monkeypatch):
    monkeypatch.setattr(bands, "MAX_PAIRS", pairs_at_once)
    monkeypatch.setattr(minhash_index, "COMPARED", 3)
    targets = collection()
    queries = np.concatenate([targets[::3], draw(20, 8), targets[70:71]])
    counts, ids = MinHashIndex.build(targets, N, OPTIONS).search(queries, k, threads=1)
    shared = reference_sets.overlap_counts(queries, targets, N)
    similar = reference_sets.similarity_matrix(queries, targets, N, "jaccard") >= 0.8
    shared[~(similar & agree(queries, targets, 128, 0.8))] = -1
    order = np.argsort(-shared, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(shared, order, axis=1)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(ids, np.where(expected < 0, -1, order))
    assert (counts.dtype, ids.dtype) == (np.int32, np.int64)
    assert (counts[:, 0] > 0).sum() > 50 > (counts[:, 0] < 0).sum() > 20


def test_threads_do_not_change_the_results():
    targets = collection()
    index = MinHashIndex.build(targets, N, OPTIONS)
    for one, three in zip(index.search(targets, 4, threads=1), index.search(targets, 4, threads=3), strict=True):
        np.testing.assert_array_equal(one, three)


def test_least_shared_is_exact_at_the_threshold():
    assert minhash_index.least_shared(0.8, 9) == 8  # 8 / 10
    assert minhash_index.least_shared(1.0, 40) == 40
    for elements in (1, 7, 560):
        shared = np.arange(elements + 1)
        for least in shared:
            threshold = least / (2 * elements - least)
            assert minhash_index.least_shared(threshold, elements) == least


@pytest.mark.parametrize("num_perm", [2, 50, 128])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 0.9, 0.95])
def test_bands_are_those_of_datasketch(threshold, num_perm):
    lsh = pytest.importorskip("datasketch.lsh")
    assert bands.choose_bands(threshold, num_perm) == lsh._optimal_param(threshold, num_perm, 0.5, 0.5)


def test_candidates_are_those_of_datasketch():
    pytest.importorskip("datasketch")
    targets = collection()
    index = MinHashIndex.build(targets, N, OPTIONS, num_perm=64, threshold=0.5)
    lsh = index.to_lsh()
    assert (lsh.b, lsh.r) == (index.parameters["bands"], index.parameters["rows"])
    held = index.signatures(targets)
    found = {i: set() for i in range(len(targets))}
    keys = bands.band_keys(held, lsh.b, lsh.r)
    for numbers, ids in bands.BandTables(keys, np.arange(len(targets))).candidates(keys):
        for number, near in zip(numbers.tolist(), ids.tolist(), strict=True):
            found[number].add(near)
    lean = minhash_export.to_lean_minhashes(held, range(len(targets)), 1)
    for number, signature in lean:
        if number not in (70, 130):
            assert set(lsh.query(signature)) == found[number]


def test_lean_minhashes_compare_with_minhashes():
    datasketch = pytest.importorskip("datasketch")
    nags = draw(3)
    signatures = minhash.signatures(nags, N, num_perm=32, seed=9)
    (name, lean), *_ = minhash_export.to_lean_minhashes(signatures, ["a", "b", "c"], 9)
    own = datasketch.MinHash(32, seed=9, hashfunc=int)
    own.update_batch((nags[0].astype(int) + np.arange(LAYERS)[:, None] * N).ravel().tolist())
    assert (name, lean.jaccard(own)) == ("a", 1.0)
    with pytest.raises(errors.ArgumentError, match="docids: got 2 for 3 signatures"):
        minhash_export.to_lean_minhashes(signatures, ["a", "b"], 9)
    with pytest.raises(errors.ArgumentError, match="signatures: got int64"):
        minhash_export.to_lean_minhashes(signatures.astype(np.int64), ["a", "b", "c"], 9)


def test_storage_settings_reach_datasketch(monkeypatch):
    """Names and settings, seen by a storage that stands in for Redis."""
    lsh = pytest.importorskip("datasketch.lsh")
    storage = pytest.importorskip("datasketch.storage")
    seen = []

    def unordered(config, name=None):
        seen.append((config, name))
        return storage.DictSetStorage(config)

    def ordered(config, name=None):
        seen.append((config, name))
        return storage.DictListStorage(config)

    monkeypatch.setattr(lsh, "unordered_storage", unordered)
    monkeypatch.setattr(lsh, "ordered_storage", ordered)
    config = {"type": "redis", "basename": b"targets", "redis": {"host": "example", "port": 6379}}
    targets = collection()
    index = MinHashIndex.build(targets, N, OPTIONS)
    names = [f"doc-{i}" for i in range(len(targets))]
    table = index.to_lsh(names, storage=config)
    assert all(given is config for given, _ in seen)
    assert len(seen) == index.parameters["bands"] + 1
    assert all(name.startswith(b"targets_") for _, name in seen)
    assert len(table.keys) == len(targets) - 2
    (_, first), *_ = minhash_export.to_lean_minhashes(index.signatures(targets[:1]), ["query"], 1)
    assert "doc-0" in table.query(first)
    assert "doc-70" not in table


@pytest.fixture
def redis_port(tmp_path):
    """A Redis server of its own, which keeps nothing."""
    pytest.importorskip("redis")
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def test_redis_holds_what_memory_holds(redis_port):
    pytest.importorskip("datasketch")
    targets = collection()
    index = MinHashIndex.build(targets, N, OPTIONS)
    names = [f"doc-{i}" for i in range(len(targets))]
    config = {"type": "redis", "basename": b"targets", "redis": {"host": "127.0.0.1", "port": redis_port}}
    stored, held = index.to_lsh(names, storage=config), index.to_lsh(names)
    for name, signature in minhash_export.to_lean_minhashes(index.signatures(targets), names, 1):
        if name not in ("doc-70", "doc-130"):
            assert set(stored.query(signature)) == set(held.query(signature))
            assert name in stored.query(signature)
    import redis

    assert redis.Redis(port=redis_port).dbsize() > len(targets)


def test_index_works_without_datasketch_and_the_exchange_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    targets = collection()
    index = MinHashIndex.build(targets, N, OPTIONS)
    assert index.search(targets[:1], 1)[1].tolist() == [[0]]
    for call in (index.to_lsh, lambda: minhash_export.to_lean_minhashes(index.signatures(targets), targets, 1)):
        with pytest.raises(errors.MissingDependencyError, match=r'datasketch.*pip install "nagfast\[minhash\]"'):
            call()


def test_saved_parameters_restore_the_index(tmp_path):
    targets = collection()
    index = MinHashIndex.build(targets, N, BuildOptions(seed=7), threshold=0.7, num_perm=96)
    assert index.save(tmp_path) == []
    restored = MinHashIndex.load(tmp_path, targets, N, json.loads(json.dumps(index.parameters)))
    assert restored.parameters == index.parameters
    for one, other in zip(index.search(targets, 3), restored.search(targets, 3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_whole_threshold_can_be_loaded_again(tmp_path):
    targets = draw(3)
    index = MinHashIndex.build(targets, N, OPTIONS, threshold=1)
    restored = MinHashIndex.load(tmp_path, targets, N, json.loads(json.dumps(index.parameters)))
    assert restored.search(targets, 1)[1].tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": None}, "threshold is None"),
        ({"bands": 0}, "bands is 0"),
        ({"rows": "9"}, "rows is '9'"),
        ({"seed": -1}, "seed is -1"),
        ({"rows": 100}, "bands of 100 rows do not fit num_perm = 128"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change, message, tmp_path):
    targets = draw(3)
    parameters = MinHashIndex.build(targets, N, OPTIONS).parameters | change
    with pytest.raises(errors.NagfastError, match=message):
        MinHashIndex.load(tmp_path, targets, N, parameters)


def test_wrong_arguments_are_named():
    targets = draw(3)
    index = MinHashIndex.build(targets, N, OPTIONS)
    with pytest.raises(errors.ArgumentError, match="k: got 0"):
        index.search(targets, 0)
    with pytest.raises(errors.ArgumentError, match=r"queries: got \[3, 3, 10\], targets are \[3, 4, 10\]"):
        index.search(targets[:, :3], 1)
    with pytest.raises(errors.ArgumentError, match="threshold: got 1.5"):
        near_duplicates(targets, N, 1.5)
    for num_perm in (0, 20_000):
        with pytest.raises(errors.ArgumentError, match=f"num_perm: got {num_perm}; use 1 to 16384"):
            MinHashIndex.build(targets, N, OPTIONS, num_perm=num_perm)
    with pytest.raises(errors.ArgumentError, match="num_perm: got 0"):
        minhash.signatures(targets, N, num_perm=0)
    with pytest.raises(errors.ArgumentError, match="seed: got -1"):
        minhash.signatures(targets, N, seed=-1)
    with pytest.raises(errors.ArgumentError, match="num_neurons: got 2147483648 in each of 4 layers"):
        minhash.signatures(targets.astype(np.uint32), 2**31)
    with pytest.raises(errors.ArgumentError, match="nags: document 0, layer 0 holds index"):
        minhash.signatures(targets, 2)
    with pytest.raises(errors.ArgumentError, match="makes a single band"):
        minhash_export.to_lsh(np.zeros((1, 1), np.uint32), [0], index.parameters | {"bands": 1})


def test_signatures_are_the_same_from_each_backend():
    nags = collection()
    reference = minhash.signatures(nags, N, backend="reference")
    np.testing.assert_array_equal(minhash.signatures(nags, N, backend="cpp", threads=2), reference)
