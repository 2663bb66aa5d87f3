"""Stores against an index: files, both directions, batches, the command line, and select on the result."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from search_data import SPEC, clustered
from test_targets import store

from nagfast import cli, reference_sets
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.search import bits, stream
from nagfast.search.nearest import NearestTargets
from nagfast.search.stream import query_reverse, query_stores
from nagfast.store import NagStore


@pytest.fixture
def pool(tmp_path):
    batch = clustered(90, 1, empty=[0, 50])
    kept = pa.table({"dataset": [f"k{i % 3}" for i in range(90)], "token_num": pa.array(range(1, 91))})
    return batch, store(tmp_path / "pool", batch, kept)


@pytest.fixture
def targets():
    return clustered(40, 2, empty=[7])


def shared(a, b):
    return reference_sets.overlap_counts(a.indices, b.indices, SPEC.num_neurons)


def test_forward(tmp_path, pool, targets):
    batch, found = pool
    index = NearestTargets.build(targets, [f"t{i}" for i in range(40)])
    summary = query_stores(index, [found], tmp_path / "n.parquet", k=4)
    table = pq.read_table(tmp_path / "n.parquet")
    assert table.column_names == ["docid", "nag_distance", "nearest", "similarity", "dataset", "token_num"]
    assert (summary.rows, summary.documents, summary.empty) == (90, 90, 2)
    counts, ids = reference_sets.nearest(batch.indices, targets.indices, SPEC.num_neurons, 4)
    assert table["docid"].to_pylist() == [f"d{i:03d}" for i in range(90)]
    assert table["nearest"].to_pylist() == [[f"t{i}" for i in row] for row in ids]
    assert table["similarity"].to_pylist() == (counts / 18).tolist()
    assert table["nag_distance"].to_pylist() == (1 - counts[:, 0] / 18).tolist()
    record = json.loads(table.schema.metadata[b"nagfast"])
    assert record["index"]["method"] == "exact"
    assert record["query"] == {"k": 4, "aggregate": "max"}
    assert record["stores"][0]["rows"] == 90


def test_aggregates_reach_the_file(tmp_path, pool, targets):
    batch, found = pool
    index = NearestTargets.build(targets)
    for mode in ("mean", "density"):
        query_stores(index, [found], tmp_path / "n.parquet", k=6, aggregate=mode, bandwidth=0.3)
        distances = pq.read_table(tmp_path / "n.parquet")["nag_distance"].to_pylist()
        assert distances == (1 - index.search(batch, 6).aggregate(mode, 0.3)).tolist()


def test_batches_shards_and_threads_do_not_matter(tmp_path, monkeypatch, pool, targets):
    batch, found = pool
    index = NearestTargets.build(targets)
    query_stores(index, [found], tmp_path / "a.parquet", k=4)
    query_reverse(index, [found], tmp_path / "ra.parquet", k=4)
    one = store(tmp_path / "one", batch, found.table(["dataset", "token_num"]).drop_columns("docid"))
    batches = NagStore.batches
    monkeypatch.setattr(NagStore, "batches", lambda self, rows=0, **options: batches(self, 7, **options))
    monkeypatch.setattr(bits, "ROWS_KEPT", 20)
    for threads in (1, 2):
        query_stores(index, [one], tmp_path / "b.parquet", k=4, threads=threads)
        query_reverse(index, [one], tmp_path / "rb.parquet", k=4, threads=threads)
        assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))
        assert pq.read_table(tmp_path / "ra.parquet").equals(pq.read_table(tmp_path / "rb.parquet"))


def test_reverse(tmp_path, monkeypatch, pool, targets):
    batch, found = pool
    monkeypatch.setattr(stream, "REVERSE_ROWS", 11)
    more = clustered(30, 8)
    second = store(tmp_path / "more", more)
    index = NearestTargets.build(targets, [f"t{i}" for i in range(40)])
    summary = query_reverse(index, [found, second], tmp_path / "r.parquet", k=5)
    assert (summary.rows, summary.documents, summary.empty) == (40, 120, 2)
    table = pq.read_table(tmp_path / "r.parquet")
    assert table.column_names == ["docid", "nearest", "similarity"]
    every = np.concatenate([batch.indices, more.indices])
    counts, ids = reference_sets.nearest(targets.indices, every, SPEC.num_neurons, 5)
    names = [f"d{i:03d}" for i in range(90)] + [f"d{i:03d}" for i in range(30)]
    assert table["docid"].to_pylist() == [f"t{i}" for i in range(40)]
    assert table["nearest"].to_pylist() == [[names[i] for i in row] for row in ids]
    assert table["similarity"].to_pylist() == (counts / 18).tolist()


def test_fewer_than_k_leave_short_lists(tmp_path, pool):
    _, found = pool
    index = NearestTargets.build(clustered(2, 3))
    query_stores(index, [found], tmp_path / "n.parquet", k=5)
    assert {len(row) for row in pq.read_table(tmp_path / "n.parquet")["nearest"].to_pylist()} == {2}
    small = store(tmp_path / "small", clustered(3, 4))
    query_reverse(index, [small], tmp_path / "r.parquet", k=5)
    assert {len(row) for row in pq.read_table(tmp_path / "r.parquet")["nearest"].to_pylist()} == {3}


def test_refusals_write_nothing(tmp_path, pool, targets):
    _, found = pool
    out = tmp_path / "n.parquet"
    with pytest.raises(SpecMismatchError, match="holds K=6"):
        query_stores(NearestTargets.build(targets), [store(tmp_path / "k", clustered(9).with_top_k(5))], out)
    with pytest.raises(ArgumentError, match="aggregate"):
        query_stores(NearestTargets.build(targets), [found], out, aggregate="min")
    with pytest.raises(ArgumentError, match="k: got 0"):
        query_reverse(NearestTargets.build(targets), [found], out, k=0)
    named = store(tmp_path / "n", clustered(4), pa.table({"nearest": [1, 2, 3, 4]}))
    with pytest.raises(ArgumentError, match="'nearest'"):
        query_stores(NearestTargets.build(targets), [named], out)
    with pytest.raises(ArgumentError, match="stores: got none"):
        query_stores(NearestTargets.build(targets), [], out)
    assert not out.exists()


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def test_the_command_line_end_to_end(tmp_path, pool, targets, capsys):
    _, found = pool
    where = store(tmp_path / "targets", targets, pa.table({"kind": [f"{i % 2}" for i in range(40)]}))
    assert run("index", "build", where.path, "--out", tmp_path / "i", "--method", "ivf", "--where", "kind = '0'") == 0
    printed = capsys.readouterr().out
    assert "20 targets, ivf" in printed
    assert "recall@10" in printed
    assert run("index", "query", tmp_path / "i", found.path, "--k", 3, "--out", tmp_path / "n.parquet") == 0
    assert "the 3 nearest of 20 targets for 90 documents" in capsys.readouterr().out
    payload = tmp_path / "payload.parquet"
    docids = [f"d{i:03d}" for i in range(90)]
    pq.write_table(pa.table({"docid": docids, "doc": ["x"] * 90, "token_num": [10] * 90}), payload)
    chosen = tmp_path / "selected.parquet"
    assert run("select", tmp_path / "n.parquet", "--payload", payload, "--fraction", 0.2, "--out", chosen) == 0
    best = pq.read_table(tmp_path / "n.parquet").sort_by([("nag_distance", "ascending"), ("docid", "ascending")])
    assert pq.read_table(chosen)["docid"].to_pylist() == best["docid"].to_pylist()[:18]
    reverse = tmp_path / "r.parquet"
    assert run("index", "query", tmp_path / "i", found.path, "--reverse", "--k", 2, "--out", reverse) == 0
    assert pq.read_table(reverse).num_rows == 20
    assert run("index", "build", where.path, "--out", tmp_path / "i", "--method", "exact", "--overwrite") == 0
    assert "40 targets, exact" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["exact", "ivf", "faiss", "minhash"])
def test_every_method_goes_through_the_command_line(tmp_path, pool, targets, capsys, method):
    batch, found = pool
    near = store(tmp_path / "targets", targets)
    assert run("index", "build", near.path, "--out", tmp_path / "i", "--method", method) == 0
    assert f"40 targets, {method}" in capsys.readouterr().out
    assert run("index", "query", tmp_path / "i", found.path, "--k", 3, "--out", tmp_path / "n.parquet") == 0
    table = pq.read_table(tmp_path / "n.parquet")
    counts, _ = reference_sets.nearest(batch.indices, targets.indices, SPEC.num_neurons, 3)
    best = [row[0] if row else 0.0 for row in table["similarity"].to_pylist()]
    truth = (counts[:, 0] / 18).tolist()
    assert all(got <= true for got, true in zip(best, truth, strict=True))
    if method != "minhash":  # which finds near-duplicates only
        assert np.mean(np.equal(best, truth)) > 0.9
    assert table["nag_distance"].to_pylist() == [1 - s for s in best]
    assert run("index", "query", tmp_path / "i", found.path, "--reverse", "--out", tmp_path / "r.parquet") == 0
    assert pq.read_table(tmp_path / "r.parquet").num_rows == 40


def test_options_of_a_method_on_the_command_line(tmp_path, pool, targets, capsys, caplog):
    _, found = pool
    near = store(tmp_path / "targets", targets)
    build = ("index", "build", near.path, "--out", tmp_path / "i", "--overwrite")
    assert run(*build, "--method", "faiss", "--sketch", "simhash", "--queries", found.path) == 0
    assert "recall@10" in capsys.readouterr().out
    assert NearestTargets.open(tmp_path / "i").record.parameters["recall_queries"] == "given"
    assert not [r for r in caplog.records if r.name.startswith("faiss") and r.levelname == "INFO"]
    assert run(*build, "--method", "minhash", "--threshold", 0.9, "--num-perm", 64) == 0
    assert "Jaccard similarity of 0.9 and above" in capsys.readouterr().out
    assert run("index", "query", tmp_path / "i", found.path, "--out", tmp_path / "n.parquet") == 0
    without = sum(not row for row in pq.read_table(tmp_path / "n.parquet")["nearest"].to_pylist())
    assert f"nothing found: {without} documents, similarity 0" in capsys.readouterr().out
    assert run(*build, "--method", "exact", "--threshold", 0.9) == 2
    assert "threshold: got 0.9 with method exact" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["index"], 2, "VERB"),
        (["index", "build", "STORE", "--out", "x", "--recall", "2"], 2, "--recall: got 2.0"),
        (["index", "build", "STORE", "--out", "x", "--method", "tree"], 2, "--method: got 'tree'"),
        (["index", "build", "missing", "--out", "x"], 2, "not a NAG store"),
        (["index", "build", "STORE", "--out", "x", "--where", "docid = 'none'"], 2, "no documents"),
        (["index", "query", "missing", "STORE", "--out", "x"], 2, "not an index"),
        (["index", "query", "missing", "STORE", "--out", "x", "--bandwidth", "0"], 2, "--bandwidth"),
    ],
)
def test_wrong_commands_are_one_line(tmp_path, pool, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    _, found = pool
    try:
        got = run(*[found.path if a == "STORE" else a for a in arguments])
    except SystemExit as stop:
        got = stop.code
    assert got == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
