"""Text in: every file found once, every row either usable or set aside, the same pieces on every run."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nagfast import jsonl as json_lines
from nagfast import records
from nagfast.errors import ArgumentError, MissingDependencyError, NagfastError
from nagfast.inputs import FINAL, Columns, Source, UnreadableSourceError, find_sources, read_rows
from nagfast.quarantine import decode_value

DOC = Columns()


def table(n, **more):
    return pa.table({"docid": [f"d{i}" for i in range(n)], "doc": [f"text {i}" for i in range(n)], **more})


def parquet(path, data, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, **options)
    return one(path)


def jsonl(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
    if path.suffix == ".gz":
        raw = gzip.compress(raw)
    elif path.suffix == ".zst":
        raw = zstandard.compress(raw)
    path.write_bytes(raw)
    return one(path)


def one(path):
    (source,) = find_sources([str(path)])
    return source


def read(source, columns=DOC, **options):
    return list(read_rows(source, columns, **options))


def merged(chunks):
    """Everything a run would see, with row numbers."""
    return [
        (int(row), docid, text)
        for chunk in chunks
        for row, docid, text in zip(chunk.rows, chunk.docids, chunk.texts, strict=True)
    ]


def reasons(chunks):
    return [(bad.row, bad.reason, bad.docid) for chunk in chunks for bad in chunk.bad]


# --- finding ----------------------------------------------------------------------------------------------------------


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(folder, *inputs):
    return [os.path.relpath(s.path, folder) for s in find_sources([str(i) for i in inputs])]


def test_folders_are_searched_in_order(tmp_path):
    wanted = ["a.jsonl", "b/1.parquet", "b/c/2.jsonl.gz", "b/c/3.json.zst", "z.ndjson.zst"]
    touch(
        tmp_path,
        *reversed(wanted),
        ".hidden.parquet",
        "_SUCCESS",
        "_tmp/x.parquet",
        ".git/x.parquet",
        "info.json",
        "r.md",
    )
    assert found(tmp_path, tmp_path) == wanted
    assert found(tmp_path, tmp_path / "z.ndjson.zst", tmp_path) == ["z.ndjson.zst", *wanted[:-1]]
    assert found(tmp_path, f"{tmp_path}/b/*/*") == wanted[2:4]
    assert found(tmp_path, f"{tmp_path}/**/*.parquet") == ["_tmp/x.parquet", "b/1.parquet"]
    assert found(tmp_path, f"{tmp_path}/*") == [*wanted[:4], "info.json", wanted[4]]
    assert found(tmp_path, tmp_path / "info.json") == ["info.json"]
    assert [s.format for s in find_sources([str(tmp_path)])] == ["jsonl", "parquet", "jsonl", "jsonl", "jsonl"]


def test_stores_are_no_text(tmp_path):
    touch(tmp_path, "a.parquet", "out/nag.json", "out/shard.parquet", "out/quarantine/x.jsonl", "output/b.jsonl")
    assert found(tmp_path, tmp_path) == ["a.parquet", "output/b.jsonl"]
    with pytest.raises(ArgumentError, match="no file to read"):
        found(tmp_path, tmp_path / "out")


def test_nothing_found_names_the_input(tmp_path):
    touch(tmp_path, "readme.md", "sub/x.txt")
    (tmp_path / "empty").mkdir()
    for text in (tmp_path, tmp_path / "empty", tmp_path / "absent", f"{tmp_path}/*.parquet", tmp_path / "readme.md"):
        with pytest.raises(ArgumentError, match=str(text).replace("*", r"\*")) as caught:
            find_sources([str(text)])
        assert "\n" not in str(caught.value)
    for inputs in ([], [""], ["  "]):
        with pytest.raises(ArgumentError, match="inputs"):
            find_sources(inputs)


def test_names_do_not_depend_on_where_the_folder_lies(tmp_path):
    files = ("p/data/part-0.parquet", "p/data/sub/part-0.parquet", "p/data/odd näme!.jsonl.gz")
    touch(tmp_path, *files)
    before = [s.name for s in find_sources([str(tmp_path / "p" / "data")])]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p" / "data").rename(tmp_path / "elsewhere" / "data")
    assert [s.name for s in find_sources([str(tmp_path / "elsewhere" / "data")])] == before
    assert len(set(before)) == 3
    assert before[0].startswith("odd_n_me_-")
    assert before[1].startswith("part-0-")
    assert all(len(name.rpartition("-")[2]) == 8 for name in before)
    single = tmp_path / "elsewhere" / "data" / "part-0.parquet"
    assert [s.name for s in find_sources([str(single)])] == [before[1]]
    assert [s.name for s in find_sources([f"{single.parent}/*.parquet"])] == [before[1]]


def test_names_are_unique(tmp_path):
    touch(tmp_path, "a/data/x.parquet", "b/data/x.parquet", "c/x.parquet", "c/x.jsonl")
    names = [s.name for s in find_sources([str(tmp_path / d) for d in ("a/data", "b/data", "c")])]
    assert len(set(names)) == 4
    assert names[1] == names[0] + "-2"


def test_relative_paths_and_sizes(tmp_path, monkeypatch):
    (tmp_path / "x.jsonl").write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    (source,) = find_sources(["x.jsonl"])
    (absolute,) = find_sources([str(tmp_path / "x.jsonl")])
    assert source.name == absolute.name
    assert source.size == 5
    assert find_sources(["."])[0] == source
    assert find_sources(["x.jsonl", "./x.jsonl"]) == [source]


def test_urls():
    system = fsspec.filesystem("memory")
    for name in ("pool/a.jsonl", "pool/sub/b.jsonl", "pool/.c.jsonl", "pool/readme.md"):
        system.pipe(f"/{name}", b'{"docid": 1, "doc": "x"}\n')
    sources = find_sources(["memory://pool"])
    assert [s.path for s in sources] == ["memory:///pool/a.jsonl", "memory:///pool/sub/b.jsonl"]
    assert [s.name for s in find_sources(["memory://pool/*.jsonl"])][:1] == [sources[0].name]
    assert find_sources(["memory://pool/a.jsonl"]) == sources[:1]
    assert merged(read(sources[1])) == [(0, "1", "x")]
    buffer = pa.BufferOutputStream()
    pq.write_table(table(20), buffer, row_group_size=7)
    system.pipe("/pool/t.parquet", buffer.getvalue().to_pybytes())
    assert len(merged(read(find_sources(["memory://pool/t.parquet"])[0]))) == 20
    with pytest.raises(ArgumentError, match="memory://nowhere"):
        find_sources(["memory://nowhere"])
    system.rm("/pool", recursive=True)
    with pytest.raises(UnreadableSourceError, match=r"a\.jsonl"):
        read(sources[0])


def test_url_of_a_local_file(tmp_path):
    touch(tmp_path, "a.jsonl")
    assert find_sources([f"file://{tmp_path}/a.jsonl"]) == find_sources([str(tmp_path / "a.jsonl")])


def test_url_without_its_package(monkeypatch):
    def absent(_url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingDependencyError, match="s3fs"):
        find_sources(["s3://bucket/x"])
    monkeypatch.undo()
    with pytest.raises(ArgumentError, match="nonsense"):
        find_sources(["nonsense://x"])


# --- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 35])
def test_chunks_are_cut_at_fixed_rows(tmp_path, kind, n):
    path = tmp_path / f"x.{kind}"
    data = table(n)
    source = parquet(path, data, row_group_size=4) if kind == "parquet" else jsonl(path, data.to_pylist())
    chunks = read(source, rows_per_chunk=10)
    assert [c.start for c in chunks] == list(range(0, n, 10))
    assert [c.count for c in chunks] == [min(10, n - s) for s in range(0, n, 10)]
    assert merged(chunks) == [(i, f"d{i}", f"text {i}") for i in range(n)]
    assert all(c.rows.dtype == np.int64 and c.kept is None and not c.bad for c in chunks)
    everything = read(source)
    assert merged(everything) == merged(chunks)
    assert len(everything) == (n > 0)


@pytest.mark.parametrize("group", [1, 3, 4, 7, 1000])
def test_row_groups_do_not_matter(tmp_path, monkeypatch, group):
    monkeypatch.setattr(records, "BATCH_ROWS", 5)
    data = table(50, quality=list(range(50)))
    columns = Columns(keep=("quality",))
    want = read(parquet(tmp_path / "a.parquet", data), columns, rows_per_chunk=12)
    got = read(parquet(tmp_path / "b.parquet", data, row_group_size=group), columns, rows_per_chunk=12)
    for a, b in zip(want, got, strict=True):
        assert (a.start, a.docids, a.texts, a.rows.tolist()) == (b.start, b.docids, b.texts, b.rows.tolist())
        assert a.kept.equals(b.kept)
        assert b.kept["quality"].to_pylist() == b.rows.tolist()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("done", [set(), {0}, {1}, {0, 2}, {4}, {0, 1, 2, 3, 4}])
def test_skipped_chunks(tmp_path, kind, done):
    path = tmp_path / f"x.{kind}"
    data = table(47)
    source = parquet(path, data, row_group_size=6) if kind == "parquet" else jsonl(path, data.to_pylist())
    asked = []

    def skip(chunk):
        asked.append(chunk)
        return chunk in done

    whole = {c.start: merged([c]) for c in read(source, rows_per_chunk=10)}
    chunks = read(source, rows_per_chunk=10, skip=skip)
    assert [c.start for c in chunks] == [i * 10 for i in range(5) if i not in done]
    assert all(merged([c]) == whole[c.start] for c in chunks)
    assert len(asked) == len(set(asked))


def test_skipped_row_groups_are_not_decoded(tmp_path, monkeypatch):
    source = parquet(tmp_path / "x.parquet", table(40), row_group_size=10)
    read_groups = []
    real = pq.ParquetFile.iter_batches

    def watched(self, *args, **options):
        read_groups.extend(options["row_groups"])
        return real(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    read(source, rows_per_chunk=20, skip=lambda chunk: chunk == 0)
    assert read_groups == [2, 3]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_text_and_ids_of_every_arrow_type(tmp_path):
    texts = ["", "née", None, "x" * 30]
    for i, kind in enumerate(
        [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
    ):
        values = pa.array([None if t is None else t.encode() for t in texts], pa.binary()).cast(pa.string())
        column = values.cast(pa.binary()).cast(kind) if "binary" in str(kind) else values.cast(kind)
        for j, ids in enumerate([pa.array([7, 8, 9, -1]), pa.array([1, 2, 3, 2**64 - 1], pa.uint64()), column]):
            source = parquet(tmp_path / f"{i}-{j}.parquet", pa.table({"docid": ids, "doc": column}))
            chunks = read(source)
            usable = [row for row, _, _ in merged(chunks)]
            assert usable == ([1, 3] if j == 2 else [0, 1, 3]), (kind, ids.type)
            assert [t for _, _, t in merged(chunks)] == [texts[row] for row in usable]
            if j == 0:
                assert [d for _, d, _ in merged(chunks)] == ["7", "8", "-1"]
                assert reasons(chunks) == [(2, records.NO_TEXT, "9")]


def test_dictionary_columns(tmp_path):
    data = pa.table({"docid": ["a", "b", "c"], "doc": pa.array(["x", None, "x"]).dictionary_encode()})
    chunks = read(parquet(tmp_path / "x.parquet", data))
    assert merged(chunks) == [(0, "a", "x"), (2, "c", "x")]


def broken_strings(values):
    """A string column whose bytes were never checked."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    )


def test_broken_utf8_in_parquet(tmp_path):
    texts = broken_strings([b"good", b"\xff\xfe", b"caf\xc3", b"\xed\xa0\x80", b"also good"])
    ids = broken_strings([b"a", b"b", b"c", b"d", b"\xffe"])
    keep = pa.array(range(5))
    source = parquet(tmp_path / "x.parquet", pa.table({"docid": ids, "doc": texts, "k": keep}))
    chunks = read(source, Columns(keep=("k",)))
    assert merged(chunks) == [(0, "a", "good")]
    assert chunks[0].kept.to_pydict() == {"k": [0]}
    assert [bad[1] for bad in reasons(chunks)] == [records.BROKEN_TEXT] * 3 + [records.BROKEN_DOCID]
    assert [decode_value(bad.value) for bad in chunks[0].bad] == [b"\xff\xfe", b"caf\xc3", b"\xed\xa0\x80", "also good"]
    assert [decode_value(bad.docid) for bad in chunks[0].bad] == ["b", "c", "d", b"\xffe"]
    assert chunks[0].bad[0].file == source.path


def test_bad_rows_of_parquet(tmp_path):
    data = pa.table({"docid": ["a", None, "", "d"], "doc": ["x", "y", "z", None]})
    chunks = read(parquet(tmp_path / "x.parquet", data))
    assert reasons(chunks) == [(1, records.NO_DOCID, None), (2, records.NO_DOCID, ""), (3, records.NO_TEXT, "d")]
    assert [bad.value for bad in chunks[0].bad] == ["y", "z", None]


def test_all_rows_bad_is_still_a_chunk(tmp_path):
    data = pa.table({"docid": ["a", "b"], "doc": pa.nulls(2)})
    (chunk,) = read(parquet(tmp_path / "x.parquet", data))
    assert (chunk.docids, len(chunk.bad), chunk.count) == ([], 2, 2)


def test_bad_lines(tmp_path):
    good = {"docid": "a", "doc": "x", "k": 1}
    deep = b"[" * 100_000
    lines = [
        good,
        b"",
        b"{not json",
        b'"a string"',
        b"[1]",
        b'{"docid": "b", "doc": "\xff"}',
        {"doc": "no id"},
        {"docid": None, "doc": "x"},
        {"docid": 1.5, "doc": "x"},
        {"docid": True, "doc": "x"},
        {"docid": "c"},
        {"docid": "d", "doc": None},
        {"docid": "e", "doc": 3},
        {"docid": "f", "doc": ["x"]},
        b'{"docid": "g", "doc": "\\ud800"}',
        b'{"docid": "\\udfff", "doc": "x"}',
        deep,
        b'{"docid": 12345678901234567890123, "doc": "\\ud83d\\ude00"}',
        {"docid": "last", "doc": "", "k": 2},
    ]
    (chunk,) = read(jsonl(tmp_path / "x.jsonl", lines), Columns(keep=("k",)))
    assert merged([chunk]) == [(0, "a", "x"), (17, "12345678901234567890123", "😀"), (18, "last", "")]
    assert chunk.kept.to_pydict() == {"k": [1, None, 2]}
    assert chunk.count == len(lines)
    assert reasons([chunk]) == [
        (2, json_lines.BAD_JSON, None),
        (3, json_lines.NO_OBJECT, None),
        (4, json_lines.NO_OBJECT, None),
        (5, json_lines.BROKEN_LINE, None),
        (6, records.NO_DOCID, None),
        (7, records.NO_DOCID, None),
        (8, records.BAD_DOCID, None),
        (9, records.BAD_DOCID, None),
        (10, records.NO_TEXT, "c"),
        (11, records.NO_TEXT, "d"),
        (12, records.BAD_TEXT, "e"),
        (13, records.BAD_TEXT, "f"),
        (14, records.BROKEN_TEXT, "g"),
        (15, records.BROKEN_DOCID, "base64:7b+/"),
        (16, json_lines.BAD_JSON, None),
    ]
    raw = [decode_value(bad.value) for bad in chunk.bad]
    assert raw[0] == "{not json"
    assert raw[3] == lines[5]
    assert raw[12] == '{"docid": "g", "doc": "\\ud800"}'


def test_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"docid": 1, "doc": "a\\nb"}\r\n\r\n{"docid": 2, "doc": "\xe2\x80\xa8"}')
    assert merged(read(one(path))) == [(0, "1", "a\nb"), (2, "2", "\u2028")]


def test_lines_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BLOCK", 7)
    rows = [{"docid": i, "doc": "x" * i} for i in range(40)]
    assert [len(t) for _, _, t in merged(read(jsonl(tmp_path / "x.jsonl", rows)))] == list(range(40))


def test_compressed_members_one_after_another(tmp_path):
    lines = [json.dumps({"docid": i, "doc": "x"}).encode() + b"\n" for i in range(4)]
    (tmp_path / "x.jsonl.gz").write_bytes(b"".join(map(gzip.compress, lines)))
    (tmp_path / "x.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, lines)))
    for source in find_sources([str(tmp_path)]):
        assert len(merged(read(source))) == 4


def test_final_records(tmp_path):
    rows = [{"meta": {"docid": f"d{i}"}, "content_split": f"t{i}"} for i in range(3)]
    want = [(i, f"d{i}", f"t{i}") for i in range(3)]
    assert merged(read(jsonl(tmp_path / "x.jsonl", rows), FINAL)) == want
    assert merged(read(parquet(tmp_path / "x.parquet", pa.Table.from_pylist(rows)), FINAL)) == want
    source = parquet(tmp_path / "y.parquet", pa.Table.from_pylist([*rows, {"meta": None, "content_split": "t"}]))
    assert reasons(read(source, FINAL)) == [(3, records.NO_DOCID, None)]
    source = jsonl(tmp_path / "y.jsonl", [*rows, {"meta": None, "content_split": "t"}])
    assert reasons(read(source, FINAL)) == [(3, records.NO_DOCID, None)]


def test_a_dot_in_the_name_of_a_column(tmp_path):
    columns = Columns(id="meta.docid", keep=("a.b",))
    rows = [{"meta.docid": "x", "doc": "t", "a": {"b": 5}}]
    for source in (
        jsonl(tmp_path / "x.jsonl", rows),
        parquet(tmp_path / "x.parquet", pa.Table.from_pylist(rows)),
    ):
        (chunk,) = read(source, columns)
        assert merged([chunk]) == [(0, "x", "t")]
        assert chunk.kept.to_pydict() == {"a.b": [5]}


def test_kept_columns_keep_their_type_in_parquet(tmp_path):
    data = table(3, t=pa.array([1, 2, None], pa.timestamp("ms")), tags=pa.array([["a"], [], None]))
    (chunk,) = read(parquet(tmp_path / "x.parquet", data), Columns(keep=("tags", "t")))
    assert chunk.kept.column_names == ["tags", "t"]
    assert chunk.kept.equals(data.select(["tags", "t"]))


def test_kept_columns_of_lines(tmp_path):
    values = [
        ([1, 2], pa.int64()),
        ([1, 2.5], pa.float64()),
        (["a", None], pa.string()),
        ([None, None], pa.null()),
        ([True, None], pa.bool_()),
        ([1, "a"], pa.string()),
        ([2**70, 1], pa.string()),
        ([{"x": 1}, [1, "é"]], pa.string()),
    ]
    for i, (pair, kind) in enumerate(values):
        rows = [{"docid": j, "doc": "t", "k": value} for j, value in enumerate(pair)]
        (chunk,) = read(jsonl(tmp_path / f"{i}.jsonl", rows), Columns(keep=("k",)))
        assert chunk.kept.schema.field("k").type == kind, pair
        assert chunk.kept.num_rows == 2
    assert chunk.kept["k"].to_pylist() == ['{"x": 1}', '[1, "é"]']
    source = jsonl(
        tmp_path / "s.jsonl", [b'{"docid": 1, "doc": "t", "k": "\\ud800"}', {"docid": 2, "doc": "t", "k": "x"}]
    )
    assert reasons(read(source, Columns(keep=("k",)))) == [(0, json_lines.BROKEN_KEPT, "1")]


# --- arguments and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text="body"), "'body' .*--text-column.*docid, doc, meta.set"),
        (Columns(id="id"), "'id' .*--id-column"),
        (Columns(keep=("nope",)), "'nope' .*--keep"),
        (Columns(keep=("meta.nope",)), "'meta.nope'"),
        (Columns(keep=("doc.x",)), "'doc.x'"),
        (Columns(text="docid"), "two columns"),
    ],
)
def test_missing_columns_are_arguments(tmp_path, kind, columns, message):
    rows = [{"docid": "a", "doc": "x", "meta": {"set": "s"}}]
    path = tmp_path / f"x.{kind}"
    source = jsonl(path, rows) if kind == "jsonl" else parquet(path, pa.Table.from_pylist(rows))
    with pytest.raises(ArgumentError, match=message) as caught:
        read(source, columns)
    assert "two columns" in message or str(path) in str(caught.value)


def test_a_column_missing_in_some_lines_is_their_problem(tmp_path):
    source = jsonl(tmp_path / "x.jsonl", [{"docid": 1}, {"docid": 2, "doc": "x"}, {"other": 1}])
    assert merged(read(source)) == [(1, "2", "x")]
    assert merged(read(source, rows_per_chunk=2)) == [(1, "2", "x")]
    late = read(source, rows_per_chunk=2, skip=lambda chunk: chunk == 0)
    assert reasons(late) == [(2, records.NO_DOCID, None)]


@pytest.mark.parametrize("column", ["docid", "doc"])
def test_columns_of_a_wrong_type(tmp_path, column):
    data = table(2).set_column(("docid", "doc").index(column), column, pa.array([1.5, 2.5]))
    with pytest.raises(ArgumentError, match=rf"{column}.*double"):
        read(parquet(tmp_path / "x.parquet", data))
    data = table(2).set_column(1, "doc", pa.array([1, 2]))
    with pytest.raises(ArgumentError, match=r"doc.*int64"):
        read(parquet(tmp_path / "y.parquet", data))
    with pytest.raises(ArgumentError, match="rows_per_chunk"):
        read(one(tmp_path / "y.parquet"), rows_per_chunk=0)


def test_damaged_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    parquet(path, table(3000), row_group_size=1000, compression="zstd", use_dictionary=False)
    whole = path.read_bytes()
    for data in (b"", b"nothing of the kind", whole[:-1], whole[: len(whole) // 2], whole[2000:]):
        path.write_bytes(data)
        with pytest.raises(UnreadableSourceError, match=r"x\.parquet") as caught:
            read(one(path))
        assert "\n" not in str(caught.value)


def test_damage_in_the_middle_keeps_what_came_before(tmp_path):
    path = tmp_path / "x.parquet"
    parquet(path, table(3000), row_group_size=1000, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset
    data[start : start + 200] = bytes(200)
    path.write_bytes(bytes(data))
    seen = []
    with pytest.raises(UnreadableSourceError):
        seen.extend(chunk.start for chunk in (c for c in read_rows(one(path), DOC, rows_per_chunk=1000)))
    chunks = []
    reader = read_rows(one(path), DOC, rows_per_chunk=1000)
    with pytest.raises(UnreadableSourceError):
        while True:
            chunks.append(next(reader))
    assert [(c.start, len(c.docids)) for c in chunks] == [(0, 1000), (1000, 1000)]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_truncated_compressed_lines(tmp_path, suffix):
    path = tmp_path / f"x.jsonl.{suffix}"
    rng = np.random.default_rng(0)
    jsonl(path, [{"docid": i, "doc": rng.bytes(300).hex()} for i in range(5000)])
    path.write_bytes(path.read_bytes()[:-1000])
    chunks = []
    reader = read_rows(one(path), DOC, rows_per_chunk=1000)
    with pytest.raises(UnreadableSourceError, match=r"x\.jsonl"):
        while True:
            chunks.append(next(reader))
    assert [c.start for c in chunks] in ([0, 1000, 2000], [0, 1000, 2000, 3000])
    assert all(len(c.docids) == 1000 for c in chunks)
    path.write_bytes(b"not compressed at all, whatever the name says")
    with pytest.raises(UnreadableSourceError):
        read(one(path))


def test_flipped_bytes_in_parquet_never_crash(tmp_path):
    path = tmp_path / "x.parquet"
    parquet(path, table(60), row_group_size=20)
    whole = path.read_bytes()
    for at in range(0, len(whole), 23):
        data = bytearray(whole)
        data[at] ^= 0x55
        path.write_bytes(bytes(data))
        try:
            read(one(path), rows_per_chunk=25)
        except NagfastError as error:
            assert str(path) in str(error)


def test_a_file_that_went_away(tmp_path):
    source = parquet(tmp_path / "x.parquet", table(3))
    Path(source.path).unlink()
    with pytest.raises(UnreadableSourceError, match="No such file"):
        read(source)
    with pytest.raises(UnreadableSourceError):
        read(Source(str(tmp_path), "jsonl", None, "x"))


def test_golden_pool(tmp_path):
    del tmp_path
    pool = Path(__file__).parent / "golden" / "qwen3" / "pool"
    if not pool.exists():
        pytest.skip("no golden files")
    (chunk,) = read(one(pool / "part-0.parquet"), Columns(keep=("dataset", "quality")))
    want = pq.read_table(pool)
    assert chunk.docids == want["docid"].to_pylist()
    assert chunk.texts == want["doc"].to_pylist()
    assert chunk.kept["quality"].to_pylist() == want["quality"].to_pylist()
