"""Nearest targets: every method against the definition; index folders; refusals."""

import contextlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from search_data import SPEC, WIDE, clustered

from nagfast import reference_sets
from nagfast.errors import ArgumentError, NagfastError, SpecMismatchError
from nagfast.search import bits, clusters, ivf
from nagfast.search.bits import BitRows
from nagfast.search.exact import ExactIndex
from nagfast.search.folder import id_column
from nagfast.search.nearest import NearestTargets
from nagfast.search.neighbors import Neighbors, merge
from nagfast.search.recall import tie_aware, without_self


def expected(queries, targets, k, allowed=None):
    return reference_sets.nearest(queries.indices, targets.indices, queries.spec.num_neurons, k, allowed)


def same(found, truth):
    np.testing.assert_array_equal(found[0], truth[0])
    np.testing.assert_array_equal(found[1], truth[1])


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("spec", [SPEC, WIDE], ids=["uint16", "uint32"])
@pytest.mark.parametrize("k", [1, 5, 130])
def test_exact_is_the_definition(monkeypatch, backend, spec, k):
    monkeypatch.setattr("nagfast.search.exact.SEGMENT", 37)
    monkeypatch.setattr(bits, "SEGMENT", 37)
    targets, queries = clustered(120, 1, spec, empty=[0, 64]), clustered(50, 2, spec, empty=[3])
    truth = expected(queries, targets, k)
    for budget in (None, 0):
        index = ExactIndex(targets.indices, spec.num_neurons, budget=budget, backend=backend)
        for threads in (1, 2):
            same(index.search(queries.indices, k, threads=threads), truth)
        if backend == "cpp":
            assert len(index.bits._cuts) == 4
            assert index.bits.rows == (bits.ROWS_KEPT if budget is None else bits.ROWS_STREAMED)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_lists_find_what_is_in_them(monkeypatch, backend):
    monkeypatch.setattr(bits, "SEGMENT", 50)
    targets, queries = clustered(140, 1), clustered(40, 2)
    rng = np.random.default_rng(0)
    order = rng.permutation(140)[:130]  # ten targets are in no list
    starts = np.array([0, 3, 3, 60, 61, 100, 130])
    probes = np.where(rng.random((40, 4)) < 0.2, -1, rng.permuted(np.tile(np.arange(6), (40, 1)), axis=1)[:, :4])
    allowed = np.zeros((40, 140), bool)
    for query, lists in enumerate(probes):
        for number in lists[lists >= 0]:
            allowed[query, order[starts[number] : starts[number + 1]]] = True
    rows = BitRows(targets.indices, SPEC.num_neurons, order=order, starts=starts, backend=backend)
    assert len(rows._cuts) > 1
    for k in (1, 7, 140):
        same(rows.search_lists(queries.indices, probes.astype(np.int32), k), expected(queries, targets, k, allowed))


def test_prototypes_are_the_definition():
    nags = clustered(200, 3, empty=[5]).indices
    assignment = np.random.default_rng(1).integers(-1, 4, 200).astype(np.int32)
    assignment[5] = 0
    found = clusters.modes(nags, assignment, 5, SPEC.num_neurons)
    for number in range(4):
        mine = nags[(assignment == number) & (np.arange(200) != 5)]
        np.testing.assert_array_equal(found[number], reference_sets.prototype(mine, SPEC.num_neurons, SPEC.top_k))
    assert (found[4] == SPEC.sentinel).all()


def test_clusters_hold_every_row_once_and_none_is_oversized():
    nags = clustered(900, 4).indices
    nags[300:700] = nags[0]  # as many copies as fill several lists
    found = clusters.cluster(nags, SPEC.num_neurons, 30, seed=1)
    assert sorted(found.order.tolist()) == list(range(900))
    assert np.diff(found.starts).max() <= 4 * 30
    assert (np.diff(found.starts) > 0).all()
    again = clusters.cluster(nags, SPEC.num_neurons, 30, seed=1, threads=2)
    np.testing.assert_array_equal(found.order, again.order)
    np.testing.assert_array_equal(found.prototypes, again.prototypes)


def test_prototypes_move_from_clusters_with_two_to_clusters_with_none():
    clusters_, each = 12, 40
    rng = np.random.default_rng(5)
    of = np.repeat(np.arange(clusters_), each)
    places = rng.random((clusters_, 4, 300))
    nags = np.argsort(-(places[of] + rng.random((len(of), 4, 300)) * 0.5), axis=2)[:, :, :10].astype(np.uint16)
    own = clusters.modes(nags, of.astype(np.int32), clusters_, 300)

    def apart(prototypes):
        """Return whether every cluster has a list to itself."""
        nearest, _ = clusters._assign(nags, np.arange(len(nags)), prototypes, 300, 1)
        return len(np.unique(nearest)) == clusters_ == len(np.unique(np.stack([of, nearest]), axis=1).T)

    assert apart(own)
    assert clusters._move(nags, own.copy(), 300, rng, 1) == 0
    halves = clusters.modes(nags[:each], np.arange(each, dtype=np.int32) % 2, 2, 300)
    for empty in range(1, clusters_):
        prototypes = own.copy()
        prototypes[[0, empty]] = halves
        assert not apart(prototypes)
        for _ in range(10 * clusters.MOVES):  # there are few candidates among 12 lists
            clusters._move(nags, prototypes, 300, rng, 1)
            prototypes = clusters._settle(nags, prototypes, 300, 2, rng, 1)
        assert apart(prototypes)


def test_ivf_reaches_the_recall_it_states(monkeypatch):
    monkeypatch.setattr(ivf, "QUERIES", 150)
    targets, queries = clustered(2000, 5, clusters=60, empty=[9]), clustered(300, 6, clusters=60)
    truth = expected(queries, targets, 10)
    seen = []
    for recall in (0.6, 0.95, 1.0):
        index = NearestTargets.build(targets, method="ivf", recall=recall)
        found = index.search(queries, 10)
        shares = tie_aware(found.counts, truth[0])
        assert shares.mean() > recall - 0.05
        assert abs(shares.mean() - index.recall) < 0.06
        assert index.record.parameters["recall_queries"] == "targets"
        seen.append(index.record.parameters["probes"])
        # What is found is counted exactly, and no better than the truth.
        shared = reference_sets.overlap_counts(queries.indices, targets.indices, SPEC.num_neurons)
        there = found.ids >= 0
        np.testing.assert_array_equal(np.where(there, np.take_along_axis(shared, found.ids, 1), -1), found.counts)
    assert seen[0] < seen[1] < seen[2]
    given = NearestTargets.build(targets, method="ivf", queries=clustered(400, 7, clusters=60))
    assert given.record.parameters["recall_queries"] == "given"


def test_probes_are_no_more_than_a_search_returns(monkeypatch):
    monkeypatch.setattr(ivf, "QUERIES", 100)
    monkeypatch.setattr(ivf, "MOST_NEIGHBOURS", 2)
    index = NearestTargets.build(clustered(2000, 5, clusters=60), method="ivf", recall=1.0)
    assert index.record.parameters["probes"] == 2
    assert index.recall < 1.0  # what is stated is what was measured, not what was asked for
    with pytest.raises(ArgumentError, match="k: got 4097; use 1 to 4096"):
        index.index.search(clustered(3).indices, 4097)


def test_ivf_with_all_lists_probed_is_exact():
    targets, queries = clustered(700, 5), clustered(90, 6, empty=[4])
    index = NearestTargets.build(targets, method="ivf").index
    for threads in (1, 2):
        found = index.search_probing(queries.indices, 12, index.parameters["lists"], threads=threads)
        same(found, expected(queries, targets, 12))


@pytest.mark.parametrize("enough_from", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33])
def test_fewest(enough_from):
    assert ivf._fewest(lambda n: n >= enough_from, 33) == enough_from


def test_recall_counts_ties_as_found():
    exact = np.array([[5, 4, 3], [2, 2, 2], [7, -1, -1]])
    found = np.array([[5, 3, 3], [2, 1, -1], [7, 7, -1]])
    assert tie_aware(found, exact).tolist() == [1.0, 1 / 3, 1.0]
    counts, ids = np.array([[9, 8, 7], [9, 8, 7]]), np.array([[1, 0, 2], [4, 5, 6]])
    assert without_self((counts, ids), np.array([0, 1]), 2).tolist() == [[9, 7], [9, 8]]


@pytest.mark.parametrize("method", ["exact", "ivf", "faiss", "minhash"])
def test_saved_and_opened_it_finds_the_same(tmp_path, method):
    targets, queries = clustered(300, 1, empty=[2]), clustered(60, 2)
    index = NearestTargets.build(targets, [f"t{i}" for i in range(300)], method=method, provenance={"from": "here"})
    index.save(tmp_path / "i")
    opened = NearestTargets.open(tmp_path / "i")
    found, truth = opened.search(queries, 9), index.search(queries, 9)
    same((found.counts, found.ids), (truth.counts, truth.ids))
    assert (opened.method, len(opened), opened.spec, opened.recall) == (method, 300, SPEC, index.recall)
    assert (opened.recall is None) == (method == "minhash")  # near-duplicates are found or not, nothing is measured
    assert method != "exact" or opened.recall == 1.0
    assert opened.docids.to_pylist()[:2] == ["t0", "t1"]
    assert opened.record.provenance["from"] == "here"
    assert opened.record.options["recall"] == 0.99
    assert isinstance(opened.targets.indices, np.memmap)
    with pytest.raises(ArgumentError, match="--overwrite"):
        index.save(tmp_path / "i")
    index.save(tmp_path / "i", overwrite=True)
    assert len(NearestTargets.open(tmp_path / "i")) == 300


def test_ids_in_several_pieces_stay_so(tmp_path, monkeypatch):
    """As ids of more than 2 GB are, which one array of strings cannot hold."""
    pieces = pa.chunked_array([["a", "b"], ["c", "d", "e"]])
    NearestTargets.build(clustered(5), pieces).save(tmp_path / "i")
    assert NearestTargets.open(tmp_path / "i").docids.to_pylist() == list("abcde")
    monkeypatch.setattr(pa, "array", lambda *_: pieces)  # what it does with too many strings
    assert id_column(list("abcde")) is pieces


def test_auto_takes_lists_for_many(monkeypatch):
    monkeypatch.setattr("nagfast.search.nearest.EXACT_UP_TO", 100)
    assert NearestTargets.build(clustered(100)).method == "exact"
    assert NearestTargets.build(clustered(101)).method == "ivf"


@pytest.mark.parametrize("method", ["exact", "ivf", "faiss", "minhash"])
def test_a_damaged_file_is_refused(tmp_path, method):
    whole = tmp_path / "whole"
    NearestTargets.build(clustered(120, 1), method=method).save(whole)
    rng = np.random.default_rng(0)
    for path in sorted(whole.iterdir()):
        data = path.read_bytes()
        for trial in range(25):
            copy = tmp_path / "copy"
            shutil.copytree(whole, copy)
            damaged = bytearray(data)
            if trial == 0:
                damaged = damaged[: len(damaged) // 2]
            else:
                damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            (copy / path.name).write_bytes(damaged)
            if path.name == "index.json":
                with_luck(copy)
            else:
                with pytest.raises(NagfastError, match="damaged"):
                    NearestTargets.open(copy)
            shutil.rmtree(copy)


def with_luck(folder):
    """A flipped bit of index.json may still be a valid record; whatever it is, it is one error or it works."""
    with contextlib.suppress(NagfastError):
        NearestTargets.open(folder).search(clustered(3), 2)


@pytest.mark.parametrize("name", ["nags.npy", "ivf_order.npy", "ivf_starts.npy", "ivf_prototypes.npy"])
def test_wrong_content_with_right_checksums_is_refused(tmp_path, name):
    """As from somebody who means harm: the manifest agrees with the files."""
    import hashlib

    index = NearestTargets.build(clustered(120, 1), method="ivf")
    original = None
    for change in ("high", "negative", "short", "single", "type", "pickle"):
        folder = tmp_path / change
        index.save(folder)
        original = np.load(folder / name)
        array = original.copy()
        if change == "high":
            array.reshape(-1)[-1] = 60_000
        elif change == "negative":
            array.reshape(-1)[0] = array.dtype.type(-3 if array.dtype == np.int64 else 65_534)
        elif change == "short":
            array = array[:-1]
        elif change == "single":
            array = array.reshape(-1)[0]
        elif change == "type":
            array = array.astype(np.float64)
        if change == "pickle":
            np.save(folder / name, np.array([{}], dtype=object), allow_pickle=True)
        else:
            np.save(folder / name, array)
        record = json.loads((folder / "index.json").read_text())
        data = (folder / name).read_bytes()
        record["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "index.json").write_text(json.dumps(record))
        with pytest.raises(NagfastError):
            NearestTargets.open(folder).search(clustered(3), 2)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "x", "not an index"),
        ("version", 2, "version 2"),
        ("method", "tree", "'tree' is not known"),
        ("method", 3, "method is 3"),
        ("targets", 119, "says 119 targets"),
        ("targets", True, "targets is True"),
        ("parameters", {"probes": 0}, "do not fit"),
        ("parameters", {"probes": 10**6}, "do not fit"),
        ("parameters", [], "parameters is"),
        ("files", {}, "does not name"),
        ("files", {"../x": {}}, "names a file"),
        ("spec", {}, "NAG spec"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path, key, value, message):
    folder = tmp_path / "i"
    NearestTargets.build(clustered(120, 1), method="ivf").save(folder)
    record = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(record | {key: value}))
    with pytest.raises(NagfastError, match=message):
        NearestTargets.open(folder)


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="not an index"):
        NearestTargets.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"notes\.txt"):
        NearestTargets.build(clustered(5)).save(tmp_path)


def test_what_may_not_be_compared_is_refused():
    index = NearestTargets.build(clustered(20))
    with pytest.raises(SpecMismatchError, match="max_length: 120 against 64"):
        index.search(clustered(3, spec=replace(SPEC, max_length=64)))
    with pytest.raises(SpecMismatchError, match="holds K=6 .* hold 5; .* --top-k 5"):
        index.search(clustered(3).with_top_k(5))
    narrow = NearestTargets.build(clustered(20).with_top_k(4))
    truth = expected(clustered(8, 2).with_top_k(4), clustered(20).with_top_k(4), 3)
    found = narrow.search(clustered(8, 2), 3)  # a larger K is cut
    same((found.counts, found.ids), truth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tree"}, "method: got 'tree'"),
        ({"recall": 0.0}, "recall, k"),
        ({"recall": 1.5}, "recall, k"),
        ({"k": 0}, "recall, k"),
        ({"docids": ["a"]}, "docids: got 1"),
        ({"docids": ["a"] * 19 + [None]}, "1 of them null"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        NearestTargets.build(clustered(20), **options)
    with pytest.raises(ArgumentError, match="targets: got none"):
        NearestTargets.build(clustered(0))
    with pytest.raises(ArgumentError, match="k: got 0"):
        NearestTargets.build(clustered(20)).search(clustered(2), 0)


@pytest.mark.parametrize(
    ("method", "options"),
    [("exact", {"sketch": "pq"}), ("ivf", {"num_perm": 64}), ("faiss", {"threshold": 0.5}), ("auto", {"sketch": "pq"})],
)
def test_options_of_another_method_are_refused(method, options):
    with pytest.raises(
        ArgumentError, match=f"{next(iter(options))}: got .* with method .*; only (faiss|minhash) has it"
    ):
        NearestTargets.build(clustered(20), method=method, **options)


def test_options_of_a_method_reach_it(tmp_path):
    index = NearestTargets.build(clustered(200), method="minhash", threshold=0.3, num_perm=64)
    assert {k: index.record.parameters[k] for k in ("threshold", "num_perm")} == {"threshold": 0.3, "num_perm": 64}
    assert index.record.options["threshold"] == 0.3
    pytest.importorskip("faiss")
    index = NearestTargets.build(clustered(200), method="faiss", sketch="simhash", queries=clustered(50, 1))
    assert index.record.parameters["kind"] == "simhash"
    assert index.record.parameters["recall_queries"] == "given"
    index.save(tmp_path / "i")
    found = NearestTargets.open(tmp_path / "i").search(clustered(30, 2), 3)
    same((found.counts, found.ids), tuple(getattr(index.search(clustered(30, 2), 3), n) for n in ("counts", "ids")))


def test_more_neighbours_than_targets_are_missing():
    found = NearestTargets.build(clustered(3)).search(clustered(2, 1), 5)
    assert (found.ids[:, 3:] == -1).all()
    assert (found.counts[:, 3:] == -1).all()
    assert (found.similarity[:, 3:] == 0).all()
    assert sorted(found.ids[0, :3].tolist()) == [0, 1, 2]


def test_aggregates():
    found = Neighbors(np.array([[8, 4, -1]], np.int32), np.array([[2, 0, -1]]), 10)
    assert found.similarity.tolist() == [[0.8, 0.4, 0.0]]
    np.testing.assert_allclose(found.jaccard, [[8 / 12, 4 / 16, 0]])
    assert found.aggregate().tolist() == [0.8]
    np.testing.assert_allclose(found.aggregate("mean"), [0.4])
    kernel = np.exp(-(1 - np.array([0.8, 0.4, 0.0])) / 0.2).mean()
    np.testing.assert_allclose(found.aggregate("density", 0.2), [kernel])
    with pytest.raises(ArgumentError, match="aggregate: got 'min'"):
        found.aggregate("min")
    with pytest.raises(ArgumentError, match="bandwidth"):
        found.aggregate("density", 0)


def test_merge_takes_ties_by_row():
    one = Neighbors(np.array([[5, 3]], np.int32), np.array([[7, 1]]), 10)
    other = Neighbors(np.array([[5, -1]], np.int32), np.array([[2, -1]]), 10)
    found = merge(one, other)
    assert found.counts.tolist() == [[5, 5]]
    assert found.ids.tolist() == [[2, 7]]
    assert merge(other, other).ids.tolist() == [[2, 2]]


def test_an_index_on_the_cpu_is_itself(tmp_path):
    index = NearestTargets.build(clustered(20))
    assert index.to("cpu") is index
    moved = NearestTargets(index.index, replace(index.record, method="gpu"), index.targets.indices, index.docids)
    with pytest.raises(ArgumentError, match="save the one it was made from"):
        moved.save(tmp_path / "i")
