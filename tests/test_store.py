"""NAG stores: what was written comes back, whole, in order, and only where it may be compared."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nagfast import shards
from nagfast.errors import ArgumentError, NagfastError, SpecMismatchError
from nagfast.schema import NagSpec
from nagfast.store import NagStore, StoreWriter, open_many

SPEC = NagSpec("0123456789abcdef", num_layers=3, num_neurons=100, top_k=4, tokenizer="t", backbone="tiny")
WIDE = replace(SPEC, neuron_type="fwd_down", num_neurons=70_000, top_k=2)


def nags(n, spec=SPEC, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random((n, spec.num_layers, min(spec.num_neurons, 200)))
    return np.argsort(scores, axis=-1)[..., : spec.top_k].astype(spec.index_dtype)


def write(writer, shard, n, seed=0, *, source=None, kept=None):
    indices = {name: nags(n, spec, seed) for name, spec in writer.specs.items()}
    docids = [f"{shard}-ü-{i}" for i in range(n)]
    tokens = np.arange(n, dtype=np.int32)
    writer.write(shard, docids, tokens, indices, kept, source or {"name": shard, "chunk": 0})
    return docids, tokens, indices


def make(path, n=10, spec=SPEC, count=1, **options):
    writer = StoreWriter(path, {spec.neuron_type: spec}, **options)
    for i in range(count):
        write(writer, f"s-{i}", n, i)
    return writer


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 33])
def test_round_trip(tmp_path, monkeypatch, n):
    monkeypatch.setattr(shards, "GROUP_ROWS", 16)
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC, "fwd_down": WIDE})
    first = write(writer, "a", n)
    second = write(writer, "b", 5, seed=1)
    store = NagStore.open(tmp_path / "st")
    assert len(store) == n + 5
    assert store.spec == SPEC
    assert store.specs == {"fwd_up": SPEC, "fwd_down": WIDE}
    assert [p.name for p in store.shards] == ["a.parquet", "b.parquet"]
    for name, spec in store.specs.items():
        docids, found = store.read(neuron_type=name)
        assert docids == first[0] + second[0]
        assert found.spec == spec
        assert found.indices.dtype == spec.index_dtype
        np.testing.assert_array_equal(found.indices, np.concatenate([first[2][name], second[2][name]]))
        np.testing.assert_array_equal(found.tokens, np.concatenate([first[1], second[1]]))
    assert store.table().column_names == ["docid", "nag_tokens"]


@pytest.mark.parametrize("rows", [1, 7, 16, 1000])
def test_batches_are_the_store_cut_anywhere(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(shards, "GROUP_ROWS", 16)
    make(tmp_path / "st", 33, count=2)
    store = NagStore.open(tmp_path / "st")
    docids, whole = store.read()
    parts = list(store.batches(rows, columns=["nag_tokens"]))
    assert max(len(p) for p in parts) <= rows
    np.testing.assert_array_equal(np.concatenate([p.nags.indices for p in parts]), whole.indices)
    np.testing.assert_array_equal(np.concatenate([p.nags.tokens for p in parts]), whole.tokens)
    assert [d for p in parts for d in p.docids.to_pylist()] == docids
    assert [t for p in parts for t in p.columns["nag_tokens"].to_pylist()] == whole.tokens.tolist()


def test_nags_are_views_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 64)
    make(tmp_path / "st", 300)

    def no_decoding(*_args):
        raise AssertionError("decoded")

    monkeypatch.setattr(shards.ShardReader, "_decoded", no_decoding)
    for batch in NagStore.open(tmp_path / "st").batches():
        assert not batch.nags.indices.flags.owndata
        assert not batch.nags.indices.flags.writeable
        assert batch.nags.indices.ctypes.data % shards.ALIGNMENT == 0


def rewrite(path, change=lambda table: table, **options):
    """The shard as another program may have written it."""
    table = pq.read_table(path)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"compression": "NONE", "use_dictionary": False, "data_page_size": 64, "write_batch_size": 2},
        {"compression": "NONE", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "NONE", "use_dictionary": False, "column_encoding": {"fwd_up": "BYTE_STREAM_SPLIT"}},
        {"compression": "NONE", "use_dictionary": False, "row_group_size": 3},
    ],
)
def test_shards_rewritten_by_another_program(tmp_path, options):
    make(tmp_path / "st", 40)
    want = NagStore.open(tmp_path / "st").read()
    rewrite(tmp_path / "st" / "s-0.parquet", **options)
    docids, found = NagStore.open(tmp_path / "st").read()
    assert docids == want[0]
    np.testing.assert_array_equal(found.indices, want[1].indices)


def test_nullable_columns_are_read_and_nulls_refused(tmp_path):
    make(tmp_path / "st", 5)
    path = tmp_path / "st" / "s-0.parquet"
    want = NagStore.open(tmp_path / "st").read()[1].indices

    def nullable(table):
        return table.cast(pa.schema([f.with_nullable(True) for f in table.schema]))

    def with_null(table):
        values = table["fwd_up"].to_pylist()
        array = pa.array([None, *values[1:]], table.schema.field("fwd_up").type)
        return table.set_column(table.schema.get_field_index("fwd_up"), "fwd_up", array)

    rewrite(path, nullable)
    np.testing.assert_array_equal(NagStore.open(tmp_path / "st").read()[1].indices, want)
    rewrite(path, with_null)
    with pytest.raises(NagfastError, match=r"s-0\.parquet.*nulls"):
        NagStore.open(tmp_path / "st").read()


def test_lower_k(tmp_path):
    make(tmp_path / "st", 20)
    store = NagStore.open(tmp_path / "st")
    whole = store.read()[1]
    for k in (1, 3, 4):
        _, found = store.read(top_k=k)
        assert found.spec.top_k == k
        np.testing.assert_array_equal(found.indices, whole.indices[:, :, :k])
        np.testing.assert_array_equal(next(store.batches(top_k=k)).nags.indices, whole.indices[:, :, :k])
    with pytest.raises(SpecMismatchError, match="top_k"):
        store.batches(top_k=5)


def test_kept_columns_and_conditions(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 16)
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC}, ["meta.set", "tags"])
    for shard in ("a", "b"):
        tags = pa.array([["x"] * (i % 3) for i in range(40)])
        sets = pa.array([None if i % 5 == 0 else f"d{i % 4}" for i in range(40)])
        write(writer, shard, 40, kept=pa.table({"meta.set": sets, "tags": tags}))
    store = NagStore.open(tmp_path / "st")
    assert store.keep == ("meta.set", "tags")
    everything = store.table()
    docids, whole = store.read()
    where = "\"meta.set\" = 'd1' and nag_tokens > 3 and len(tags) > 0 -- and no more"
    chosen = [
        i
        for i, row in enumerate(everything.to_pylist())
        if row["meta.set"] == "d1" and row["nag_tokens"] > 3 and row["tags"]
    ]
    assert chosen
    found_ids, found = store.read(where=where)
    assert found_ids == [docids[i] for i in chosen]
    np.testing.assert_array_equal(found.indices, whole.indices[chosen])
    np.testing.assert_array_equal(found.tokens, whole.tokens[chosen])
    parts = list(store.batches(2, where=where, columns=["tags"]))
    assert all(len(p) <= 2 and p.columns.column_names == ["tags"] for p in parts)
    assert [d for p in parts for d in p.docids.to_pylist()] == found_ids
    assert [t for p in parts for t in p.columns["tags"].to_pylist()] == everything["tags"].take(chosen).to_pylist()
    assert store.table(["tags"], where=where).to_pydict() == {
        "docid": found_ids,
        "tags": everything["tags"].take(chosen).to_pylist(),
    }
    ids, none = store.read(where="docid = 'nobody'", top_k=2)
    assert ids == []
    assert none.indices.shape == (0, 3, 2)


@pytest.mark.parametrize(
    "where",
    [
        "nonsense = 1",
        "1 =",
        "docid",
        "CAST(docid AS INT) = 1",
        "1=1); DROP VIEW nags; SELECT (1",
        "docid IN (SELECT docid FROM 'other.parquet')",
        "",
    ],
)
def test_wrong_conditions_are_arguments(tmp_path, where):
    make(tmp_path / "st", 3)
    store = NagStore.open(tmp_path / "st")
    with pytest.raises(ArgumentError, match="where") as caught:
        list(store.batches(where=where))
    assert "\n" not in str(caught.value)


def test_kept_types_that_differ_between_shards(tmp_path):
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC}, ["a", "b"])
    write(writer, "0", 2, kept=pa.table({"a": pa.nulls(2), "b": [1, 2]}))
    write(writer, "1", 2, kept=pa.table({"a": [1, None], "b": ["x", None]}))
    write(writer, "2", 2, kept=pa.table({"a": [0.5, 2.0], "b": ["y", "z"]}))
    table = NagStore.open(tmp_path / "st").table(["a", "b"])
    assert table["a"].to_pylist() == [None, None, 1.0, None, 0.5, 2.0]
    assert table["b"].to_pylist() == ["1", "2", "x", None, "y", "z"]


def test_the_same_rows_make_the_same_bytes(tmp_path):
    for name in ("x", "y"):
        make(tmp_path / name, 20, count=2)
    for file in ("nag.json", "s-0.parquet", "s-1.parquet"):
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes()


def test_other_readers_read_it(tmp_path):
    make(tmp_path / "st", 20)
    path = str(tmp_path / "st" / "s-0.parquet")
    total = duckdb.sql(f"SELECT sum(nag_tokens), max(octet_length(fwd_up)) FROM '{path}'").fetchall()[0]
    assert total == (190, SPEC.row_bytes)
    assert pq.ParquetFile(path, page_checksum_verification=True).read().num_rows == 20


def test_empty_documents_are_counted(tmp_path):
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC})
    indices = nags(4)
    indices[2] = SPEC.sentinel
    writer.write("a", list("abcd"), np.zeros(4, np.int32), {"fwd_up": indices}, None, {})
    store = NagStore.open(tmp_path / "st")
    assert store.empty == 1
    assert store.read()[1].empty.tolist() == [False, False, True, False]
    assert store.provenance()["empty"] == 1


def test_strided_indices_and_sliced_columns(tmp_path):
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC}, ["c"])
    big = nags(20)
    kept = pa.table({"c": pa.chunked_array([pa.array(range(9)), pa.array(range(11))])}).slice(5, 10)
    writer.write("a", [str(i) for i in range(10)], np.arange(20, dtype=np.int32)[::2], {"fwd_up": big[::2]}, kept, {})
    store = NagStore.open(tmp_path / "st")
    np.testing.assert_array_equal(store.read()[1].indices, big[::2])
    assert store.table()["nag_tokens"].to_pylist() == list(range(0, 20, 2))
    assert store.table()["c"].to_pylist() == kept["c"].to_pylist()


def test_decoded_columns_with_an_offset(tmp_path, monkeypatch):
    """Arrow arrays that are slices: their buffer starts before the values."""
    make(tmp_path / "st", 20)
    want = NagStore.open(tmp_path / "st").read()[1].indices
    real = shards.ShardReader.table
    monkeypatch.setattr(shards.ShardReader, "_mapped", lambda *_args: None)
    monkeypatch.setattr(
        shards.ShardReader,
        "table",
        lambda self, names, groups: pa.concat_tables([real(self, names, groups)] * 2).combine_chunks().slice(20),
    )
    batch = next(NagStore.open(tmp_path / "st").batches())
    np.testing.assert_array_equal(batch.nags.indices, want)


# --- resume -----------------------------------------------------------------------------------------------------------


def test_has_and_resume(tmp_path):
    source = {"name": "f", "chunk": 0, "rows_per_chunk": 10, "size": 5}
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC})
    assert not writer.has("f-0", source)
    write(writer, "f-0", 5, source=source)
    assert writer.has("f-0", source)
    again = StoreWriter(tmp_path / "st", {"fwd_up": replace(SPEC, dtype="bfloat16", versions={"torch": "9"})})
    assert again.has("f-0", source)
    assert not again.has("f-0", source | {"size": 6})
    assert not again.has("f-1", source)
    other = StoreWriter(tmp_path / "st", {"fwd_up": SPEC})
    assert not again.has("f-7", source | {"chunk": 7})
    write(other, "f-7", 5, source=source | {"chunk": 7})
    assert again.has("f-7", source | {"chunk": 7})  # another process wrote it


def test_damaged_shards_are_written_again(tmp_path):
    source = {"name": "s-0", "chunk": 0}
    make(tmp_path / "st")
    path = tmp_path / "st" / "s-0.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC})
    assert not writer.has("s-0", source)
    write(writer, "s-0", 10)
    assert path.read_bytes() == whole


def test_pieces_cut_otherwise_are_refused(tmp_path):
    old = {"name": "f", "rows_per_chunk": 5, "size": 1}
    new = {"name": "f", "rows_per_chunk": 10, "size": 1}
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC})
    for chunk in range(3):
        write(writer, f"f-{chunk}", 5, source=old | {"chunk": chunk})
    write(writer, "g-0", 5, source=old | {"name": "g", "chunk": 0})
    again = StoreWriter(tmp_path / "st", {"fwd_up": SPEC})
    for chunk in range(2):
        with pytest.raises(ArgumentError, match="rows_per_chunk 5 then and 10 now"):
            write(again, f"f-{chunk}", 10, source=new | {"chunk": chunk})
    write(again, "f-3", 5, source=old | {"chunk": 3})
    names = [p.stem for p in NagStore.open(tmp_path / "st").shards]
    assert names == ["f-0", "f-1", "f-2", "f-3", "g-0"]


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "x"},
        {"max_length": 5},
        {"impact": "act_grad"},
        {"reduction": "l2"},
        {"tokenizer": "u"},
        {"num_neurons": 101},
        {"num_layers": 4},
        {"top_k": 3},
    ],
)
def test_another_identity_is_refused(tmp_path, change):
    make(tmp_path / "st")
    other = replace(SPEC, **change)
    with pytest.raises(SpecMismatchError, match="--overwrite"):
        StoreWriter(tmp_path / "st", {"fwd_up": other})
    assert len(NagStore.open(tmp_path / "st")) == 10
    StoreWriter(tmp_path / "st", {"fwd_up": other}, overwrite=True)
    assert len(NagStore.open(tmp_path / "st")) == 0
    assert NagStore.open(tmp_path / "st").spec == other


def test_other_columns_or_neuron_types_are_refused(tmp_path):
    make(tmp_path / "st")
    with pytest.raises(ArgumentError, match="keeps columns"):
        StoreWriter(tmp_path / "st", {"fwd_up": SPEC}, ["c"])
    with pytest.raises(ArgumentError, match="fwd_down"):
        StoreWriter(tmp_path / "st", {"fwd_up": SPEC, "fwd_down": WIDE})


def test_overwrite_touches_nothing_but_stores(tmp_path):
    folder = tmp_path / "st"
    folder.mkdir()
    (folder / "thesis.parquet").write_bytes(b"1")
    for overwrite in (False, True):
        with pytest.raises(ArgumentError, match="not empty and not a NAG store"):
            StoreWriter(folder, {"fwd_up": SPEC}, overwrite=overwrite)
    (folder / "thesis.parquet").unlink()
    make(folder)
    (folder / "extract.json").write_text("{}")
    pq.write_table(pa.table({"a": [1]}), folder / "payload.parquet")
    with pytest.raises(ArgumentError, match=r"payload\.parquet.*nothing was removed"):
        StoreWriter(folder, {"fwd_up": SPEC}, overwrite=True)
    assert (folder / "s-0.parquet").exists()
    (folder / "payload.parquet").unlink()
    (folder / "s-0.parquet").write_bytes(b"broken")
    StoreWriter(folder, {"fwd_up": SPEC}, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["extract.json", "nag.json"]
    (folder / "nag.json").write_text('{"name": "something else"}')
    with pytest.raises(ArgumentError, match="not of a NAG store"):
        StoreWriter(folder, {"fwd_up": SPEC}, overwrite=True)


def test_killed_while_writing(tmp_path):
    """Killed between the last byte and the rename: no shard, and the rerun makes the bytes of an unbroken run."""
    script = f"""
import os, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
from test_store import SPEC, write
from nagfast import files
from nagfast.store import StoreWriter
writer = StoreWriter({str(tmp_path / "st")!r}, {{"fwd_up": SPEC}})
write(writer, "s-0", 10, 0)
files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write(writer, "s-1", 10, 1)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert [p.name for p in NagStore.open(tmp_path / "st").shards] == ["s-0.parquet"]
    assert len(list((tmp_path / "st").glob(".*tmp*"))) == 1
    make(tmp_path / "st", 10, count=2)
    make(tmp_path / "whole", 10, count=2)
    assert not list((tmp_path / "st").glob(".*tmp*"))
    for file in ("nag.json", "s-0.parquet", "s-1.parquet"):
        assert (tmp_path / "st" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    writer = make(tmp_path / "st")

    real = pq.ParquetWriter.write_table

    def full(self, table, *args, **options):
        if isinstance(self.where, pa.OSFile):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, table, *args, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(NagfastError, match=r"s-1\.parquet.*No space left"):
        write(writer, "s-1", 10)
    assert sorted(p.name for p in (tmp_path / "st").iterdir()) == ["nag.json", "s-0.parquet"]


# --- arguments of write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": "../a"}, "shard"),
        ({"shard": ".a"}, "shard"),
        ({"docids": ["a"]}, "tokens"),
        ({"docids": ["a", None]}, "docids"),
        ({"docids": ["a", "\ud800"]}, "docids"),
        ({"tokens": np.zeros(2, np.int64)}, "tokens"),
        ({"tokens": np.zeros(3, np.int32)}, "tokens"),
        ({"indices": {}}, "indices"),
        ({"indices": {"fwd_up": nags(2).astype(np.int64)}}, "indices"),
        ({"indices": {"fwd_up": nags(2)[:, :2]}}, "indices"),
        ({"indices": {"fwd_up": nags(3)}}, "indices"),
        ({"indices": {"fwd_up": np.full((2, 3, 4), 100, np.uint16)}}, "outside the 100 neurons"),
        ({"kept": pa.table({"d": [1, 2]})}, "kept"),
        ({"kept": pa.table({"c": [1]})}, "kept"),
        ({"kept": None}, "kept"),
    ],
)
def test_wrong_rows_are_refused(tmp_path, change, message):
    writer = StoreWriter(tmp_path / "st", {"fwd_up": SPEC}, ["c"])
    good = {
        "shard": "a",
        "docids": ["a", "b"],
        "tokens": np.zeros(2, np.int32),
        "indices": {"fwd_up": nags(2)},
        "kept": pa.table({"c": [1, 2]}),
        "source": {},
    }
    with pytest.raises(ArgumentError, match=message):
        writer.write(**(good | change))
    assert [p.name for p in (tmp_path / "st").iterdir()] == ["nag.json"]
    writer.write(**good)


def test_wrong_stores_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="keep"):
        StoreWriter(tmp_path / "a", {"fwd_up": SPEC}, ["docid"])
    with pytest.raises(ArgumentError, match="keep"):
        StoreWriter(tmp_path / "a", {"fwd_up": SPEC}, ["x", "x"])
    with pytest.raises(ArgumentError, match="specs"):
        StoreWriter(tmp_path / "a", {})
    with pytest.raises(ArgumentError, match="specs"):
        StoreWriter(tmp_path / "a", {"fwd_down": SPEC})
    with pytest.raises(ArgumentError, match="local folder"):
        StoreWriter("s3://bucket/store", {"fwd_up": SPEC})


# --- untrusted stores -------------------------------------------------------------------------------------------------


def test_not_a_store(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArgumentError, match="not a NAG store"):
            NagStore.open(path)
    with pytest.raises(ArgumentError, match="local folder"):
        NagStore.open("s3://bucket/store")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"format": "other"}',
        '{"format": "nagfast-store", "version": 2}',
        '{"format": "nagfast-store", "version": 1}',
        '{"format": "nagfast-store", "version": 1, "specs": {}, "keep": []}',
        '{"format": "nagfast-store", "version": 1, "specs": {"fwd_up": 3}, "keep": []}',
        '{"format": "nagfast-store", "version": 1, "specs": {"fwd_up": {"fingerprint": 1}}, "keep": []}',
        "\xff",
    ],
)
def test_broken_manifests(tmp_path, text):
    (tmp_path / "nag.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArgumentError) as caught:
        NagStore.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_manifest_details(tmp_path):
    make(tmp_path / "st")
    path = tmp_path / "st" / "nag.json"
    value = json.loads(path.read_text())
    for change in ({"keep": "c"}, {"keep": [1]}, {"specs": {"fwd_down": value["specs"]["fwd_up"]}}):
        path.write_text(json.dumps(value | change))
        with pytest.raises(ArgumentError, match=r"nag\.json"):
            NagStore.open(tmp_path / "st")
    path.write_text(json.dumps(value | {"keep": ["c"]}))
    with pytest.raises(NagfastError, match=r"s-0\.parquet: keeps columns"):
        NagStore.open(tmp_path / "st")


def test_shards_of_another_store(tmp_path):
    make(tmp_path / "st")
    changes = ({"fingerprint": "x"}, {"top_k": 3}, {"num_layers": 4}, {"neuron_type": "fwd_down"})
    for i, change in enumerate(changes):
        make(tmp_path / f"other{i}", spec=replace(SPEC, **change))
        foreign = tmp_path / "st" / "z.parquet"
        foreign.write_bytes((tmp_path / f"other{i}" / "s-0.parquet").read_bytes())
        with pytest.raises(SpecMismatchError, match=r"z\.parquet"):
            NagStore.open(tmp_path / "st")


def test_damaged_shards_are_named(tmp_path):
    make(tmp_path / "st", 30)
    path = tmp_path / "st" / "s-0.parquet"
    whole = path.read_bytes()
    for data in (b"", b"PAR1", whole[:10], whole[:-1], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(NagfastError, match=r"s-0\.parquet"):
            NagStore.open(tmp_path / "st")
    path.write_bytes(whole[100:])  # the footer is whole, what it points to is not there
    with pytest.raises(NagfastError, match=r"s-0\.parquet"):
        NagStore.open(tmp_path / "st").read()
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(NagfastError, match="not a shard"):
        NagStore.open(tmp_path / "st")


def test_wrong_columns_are_named(tmp_path):
    make(tmp_path / "st", 5)
    path = tmp_path / "st" / "s-0.parquet"
    whole = path.read_bytes()

    def narrower(table):
        return table.set_column(2, "fwd_up", pa.array([b"1234"] * 5, pa.binary(4)))

    def plain(table):
        return table.set_column(2, "fwd_up", table["fwd_up"].cast(pa.binary()))

    changes = (
        (narrower, "fwd_up"),
        (plain, "fwd_up"),
        (lambda t: t.drop_columns("fwd_up"), "fwd_up is missing"),
        (lambda t: t.drop_columns("docid"), "docid is missing"),
        (lambda t: t.set_column(1, "nag_tokens", t["nag_tokens"].cast("int64")), "nag_tokens is int64"),
        (lambda t: t.append_column("extra", t["nag_tokens"]), "keeps columns"),
        (lambda t: t.slice(1), "4 rows where"),
    )
    for change, message in changes:
        path.write_bytes(whole)
        rewrite(path, change)
        with pytest.raises(NagfastError, match=message):
            NagStore.open(tmp_path / "st")


def test_flipped_bytes_never_crash(tmp_path, monkeypatch):
    """Every byte outside the arrays, flipped: refused by name, or read without harm."""
    monkeypatch.setattr(shards, "GROUP_ROWS", 8)
    make(tmp_path / "st", 20)
    path = tmp_path / "st" / "s-0.parquet"
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    positions = [*range(0, len(whole) - footer, 97), *range(len(whole) - footer, len(whole), 11)]
    refused = 0
    for at in positions:
        data = bytearray(whole)
        data[at] ^= 0x55
        path.write_bytes(bytes(data))
        try:
            store = NagStore.open(tmp_path / "st")
            store.read()
            store.table()
        except NagfastError as error:
            assert str(tmp_path) in str(error)
            refused += 1
    assert refused > len(positions) // 8


def test_checksums_find_damaged_ids(tmp_path):
    make(tmp_path / "st", 20)
    path = tmp_path / "st" / "s-0.parquet"
    path.write_bytes(path.read_bytes().replace(b"s-0-\xc3\xbc-11", b"s-0-\xc3\xbc-77"))
    with pytest.raises(NagfastError, match=r"s-0\.parquet"):
        NagStore.open(tmp_path / "st").read()


def test_page_headers():
    parse = shards._plain_page_bytes
    with_crc = "1500158080c011158080c01115908a99c0071c158080021500150615061c000000"
    assert parse(bytes.fromhex(with_crc)) == 18_350_080
    assert parse(bytes.fromhex("1500158080c011158080c0112c15808002150015061506000000")) == 18_350_080
    assert parse(bytes.fromhex(with_crc.replace("02150015", "02150415"))) is None
    assert parse(bytes.fromhex("1504" + with_crc[4:])) is None
    for length in range(20):
        assert parse(bytes.fromhex(with_crc)[:length]) is None
    for header in ("ff" * 9, "1c1500", "1c15001500", "15001c1500150015", "1500" * 5 + "1c1500"):
        assert parse(bytes.fromhex(header[: len(header) // 2 * 2])) is None


# --- use --------------------------------------------------------------------------------------------------------------


def test_views_outlive_a_replaced_shard(tmp_path):
    writer = make(tmp_path / "st", 50)
    batch = next(NagStore.open(tmp_path / "st").batches())
    before = batch.nags.indices.copy()
    write(writer, "s-0", 50, seed=9)
    np.testing.assert_array_equal(batch.nags.indices, before)


def test_ids_can_be_read_by_other_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 16)
    make(tmp_path / "st", 640)
    store = NagStore.open(tmp_path / "st")
    batches = list(store.batches())
    found = [None] * len(batches)

    def look(at):
        found[at] = batches[at].docids.to_pylist()

    threads = [threading.Thread(target=look, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [d for part in found for d in part] == store.read()[0]


def test_wrong_arguments_of_readers(tmp_path):
    make(tmp_path / "st", 3)
    store = NagStore.open(tmp_path / "st")
    for options in ({"rows": 0}, {"neuron_type": "att_q"}, {"columns": ["fwd_up"]}, {"columns": ["nothing"]}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            store.batches(**options)


def test_provenance_notes_and_open_many(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b", spec=replace(SPEC, dtype="bfloat16", top_k=3))
    make(tmp_path / "c", spec=replace(SPEC, fingerprint="x"))
    make(tmp_path / "d", spec=WIDE)
    stores, notes = open_many([tmp_path / "a", tmp_path / "b"])
    assert [s.path.name for s in stores] == ["a", "b"]
    assert notes == ["fwd_up: K=4 and K=3", "fwd_up: dtype:  and bfloat16"]
    with pytest.raises(SpecMismatchError, match="fingerprint"):
        open_many([tmp_path / "a", tmp_path / "c"])
    with pytest.raises(ArgumentError, match="fwd_down"):
        open_many([tmp_path / "a", tmp_path / "d"])
    with pytest.raises(ArgumentError, match="paths"):
        open_many([])
    write(StoreWriter(tmp_path / "a", {"fwd_up": replace(SPEC, dtype="float32")}), "later", 3)
    record = NagStore.open(tmp_path / "a").provenance()
    assert record["notes"] == ["fwd_up: dtype:  and float32"]
    assert record["rows"] == 13
    json.dumps(record)
