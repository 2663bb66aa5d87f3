"""Feature files of the published reference: read, checked, written."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nagfast import interchange
from nagfast.errors import ArgumentError
from nagfast.inputs import UnreadableSourceError
from nagfast.interchange import read_reference, write_reference_jsonl
from nagfast.schema import NagSpec
from nagfast.store import NagStore, StoreWriter

GOLDEN = Path(__file__).parent / "golden"
SPEC = NagSpec("0" * 16, num_layers=2, num_neurons=50, top_k=3)
UP = "fwd_up_feature"


def record(docid, values, feature=UP):
    return {"docid": docid, feature: {"layer_topk_value_index": values}}


def lines(path, rows):
    path.write_bytes(b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows))
    return path


@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3"])
def test_golden_features(family):
    folder = GOLDEN / family
    settings = json.loads((folder / "settings.json").read_text())
    layers, k = settings["num_layers"], settings["top_k"]
    raw = [json.loads(line) for line in (folder / "features" / "pool" / "part-0.jsonl").read_text().splitlines()]
    for kind in settings["neuron_types"]:
        docids, found = read_reference([folder / "features" / "pool"], f"{kind}_feature", layers, k)
        assert docids == [r["docid"] for r in raw]
        assert found.dtype == np.uint16
        assert found.reshape(len(raw), -1).tolist() == [r[f"{kind}_feature"]["layer_topk_value_index"] for r in raw]
    sliced = folder / "sliced" / "last.parquet"
    if sliced.exists():
        ids, last = read_reference([sliced], UP, 1, k, 192)
        _, whole = read_reference([folder / "features" / "pool"], UP, layers, k, 192)
        assert ids == [r["docid"] for r in raw]
        np.testing.assert_array_equal(last, whole[:, -1:])


def make_store(path, specs, n=5, empty=()):
    writer = StoreWriter(path, {s.neuron_type: s for s in specs})
    rng = np.random.default_rng(0)
    indices = {}
    for spec in specs:
        scores = rng.random((n, spec.num_layers, 50))
        indices[spec.neuron_type] = np.argsort(scores, axis=-1)[..., : spec.top_k].astype(spec.index_dtype)
        indices[spec.neuron_type][list(empty)] = spec.sentinel
    writer.write("a", [f"é{i}" for i in range(n)], np.arange(n, dtype=np.int32), indices, None, {})
    return NagStore.open(path)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9])
def test_round_trip(tmp_path, monkeypatch, n):
    monkeypatch.setattr(interchange, "ROWS", 4)
    wide = replace(SPEC, neuron_type="att_q", num_neurons=70_000, top_k=2)
    store = make_store(tmp_path / "st", [SPEC, wide], n)
    out = tmp_path / "deep" / "out.jsonl"
    assert write_reference_jsonl(store, out) == (n, 0)
    for spec in (SPEC, wide):
        feature = f"{spec.neuron_type}_feature"
        docids, found = read_reference([out], feature, 2, spec.top_k, spec.num_neurons)
        want_ids, want = store.read(neuron_type=spec.neuron_type)
        assert docids == want_ids
        assert found.dtype == spec.index_dtype
        np.testing.assert_array_equal(found, want.indices)
    assert write_reference_jsonl(store, out, neuron_types=["fwd_up"], top_k=2, where="nag_tokens < 3") == (min(n, 3), 0)
    docids, found = read_reference([out], UP, 2, 2)
    np.testing.assert_array_equal(found, store.read(top_k=2)[1].indices[:3])
    first = out.read_text().splitlines()[:1]
    assert all(set(json.loads(line)) == {"docid", UP} for line in first)


def test_documents_without_a_nag_are_left_out(tmp_path):
    store = make_store(tmp_path / "st", [SPEC], 5, empty=[0, 3])
    assert write_reference_jsonl(store, tmp_path / "out.jsonl") == (3, 2)
    assert read_reference([tmp_path / "out.jsonl"], UP, 2, 3)[0] == ["é1", "é2", "é4"]


def test_wrong_requests_write_nothing(tmp_path):
    store = make_store(tmp_path / "st", [SPEC])
    for options in ({"neuron_types": ["att_q"]}, {"neuron_types": []}, {"top_k": 4}, {"where": "nonsense"}):
        with pytest.raises(ArgumentError):
            write_reference_jsonl(store, tmp_path / "out.jsonl", **options)
    assert not (tmp_path / "out.jsonl").exists()


def test_ids_blank_lines_and_empty_lists(tmp_path):
    path = lines(tmp_path / "x.jsonl", [record(7, [1, 2, 3, 4]), b"", record("a", []), record("b", [4, 3, 2, 1])])
    docids, found = read_reference([path], UP, 2, 2)
    assert docids == ["7", "a", "b"]
    assert found.tolist() == [[[1, 2], [3, 4]], [[0xFFFF] * 2] * 2, [[4, 3], [2, 1]]]
    table = pa.Table.from_pylist([record("7", [1, 2, 3, 4]), record("a", []), record("b", [4, 3, 2, 1])])
    pq.write_table(table, tmp_path / "x.parquet")
    ids, same = read_reference([tmp_path / "x.parquet"], UP, 2, 2)
    assert ids == docids
    np.testing.assert_array_equal(same, found)


def test_several_files_and_compression(tmp_path):
    lines(tmp_path / "b.jsonl", [record("b", [1])])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(record("a", [2])).encode()))
    docids, found = read_reference([tmp_path], UP, 1, 1)
    assert docids == ["a", "b"]
    assert found.ravel().tolist() == [2, 1]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(UnreadableSourceError, match=r"a\.jsonl\.gz"):
        read_reference([tmp_path], UP, 1, 1)


@pytest.mark.parametrize(
    ("values", "num_neurons", "dtype"),
    [([65_534], None, np.uint16), ([65_535], None, np.uint32), ([3], 65_535, np.uint16), ([3], 65_536, np.uint32)],
)
def test_width_of_indices(tmp_path, values, num_neurons, dtype):
    path = lines(tmp_path / "x.jsonl", [record("a", values), record("b", [])])
    _, found = read_reference([path], UP, 1, 1, num_neurons)
    assert found.dtype == dtype
    assert found.ravel().tolist() == [values[0], np.iinfo(dtype).max]


BAD = [
    ([1, 2, 3], "3 indices where L=2 and K=2 make 4"),
    ([1, 2, 3, 4, 5, 6, 7, 8], "8 indices"),
    ([1, 2, 3, -1], "index -1, outside 0 to 49"),
    ([1, 2, 3, 50], "index 50, outside 0 to 49"),
    ([1, 1, 2, 3], "twice in a layer"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_bad_lists_name_file_and_row(tmp_path, kind, values, message):
    rows = [record("a", [1, 2, 1, 2]), record("e", []), record("b", values)]
    path = tmp_path / f"x.{kind}"
    if kind == "jsonl":
        lines(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(ArgumentError, match=message) as caught:
        read_reference([path], UP, 2, 2, 50)
    assert f"{path}: row 2" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not a JSON object"),
        ({"docid": "b"}, "no column 'fwd_up_feature'"),
        ({"docid": "b", UP: [1, 2, 3, 4]}, "no list"),
        ({"docid": "b", UP: {}}, "no list"),
        (record("b", "1234"), "no list"),
        (record("b", [1, 2, 3, 4.0]), "no list of whole numbers"),
        (record("b", [1, 2, 3, True]), "no list of whole numbers"),
        (record("b", [1, 2, 3, 2**80]), "outside"),
        (record("", [1, 2, 3, 4]), "docid ''"),
        (record(None, [1, 2, 3, 4]), "docid None"),
        (record(1.5, [1, 2, 3, 4]), "docid 1.5"),
    ],
)
def test_bad_lines(tmp_path, row, message):
    path = lines(tmp_path / "x.jsonl", [record("a", [1, 2, 3, 4]), row])
    with pytest.raises(ArgumentError, match=message) as caught:
        read_reference([path], UP, 2, 2)
    assert str(path) in str(caught.value)


def test_bad_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    good = pa.Table.from_pylist([record("a", [1, 2, 3, 4])])
    cases = [
        (good.drop_columns("docid"), "no column 'docid'"),
        (good.drop_columns(UP), "no column 'fwd_up_feature'"),
        (good.set_column(1, UP, pa.array([[1, 2, 3, 4]])), "not a struct"),
        (pa.Table.from_pylist([record("a", ["1"])]), "not a struct"),
        (pa.Table.from_pylist([record("a", [1, 2, 3, 4]), record("b", None)]), "row 1 has no list"),
        (pa.Table.from_pylist([record("a", [1, 2, None, 4])]), "null among"),
        (pa.Table.from_pylist([record(None, [1, 2, 3, 4])], schema=good.schema), "docid None"),
    ]
    for table, message in cases:
        pq.write_table(table, path)
        with pytest.raises(ArgumentError, match=message):
            read_reference([path], UP, 2, 2)
    path.write_bytes(b"not parquet")
    with pytest.raises(UnreadableSourceError):
        read_reference([path], UP, 2, 2)
    with pytest.raises(ArgumentError, match="num_layers"):
        read_reference([path], UP, 0, 2)
