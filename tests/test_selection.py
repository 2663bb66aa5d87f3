"""Selection: the definitions of nagfast.reference to the row, whatever the files, ties, gaps and memory."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nagfast import reference
from nagfast.duck import Session
from nagfast.errors import ArgumentError, NagfastError
from nagfast.quarantine import Quarantine
from nagfast.selection import select, select_multi


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def pool(n=200, seed=0, ties=20):
    rng = np.random.default_rng(seed)
    docids = [f"d{i:04d}" if i % 3 else f"é{i:04d}" for i in rng.permutation(n)]
    distance = np.round(rng.random(n) * ties) / ties
    amount = [None if rng.random() < 0.1 else int(v) for v in rng.integers(0, 90, n)]
    return docids, distance, amount


@pytest.fixture
def files(tmp_path):
    """A pool in one scores file and two payload files in another order."""
    docids, distance, amount = pool()
    order = np.random.default_rng(1).permutation(len(docids))
    scores = write(tmp_path / "scores.parquet", docid=docids, nag_distance=distance)
    for i, part in enumerate(np.array_split(order, 2)):
        write(
            tmp_path / f"payload-{i}.parquet",
            docid=[docids[j] for j in part],
            doc=[f"text {docids[j]}" for j in part],
            token_num=pa.array([amount[j] for j in part], pa.int64()),
        )
    return docids, distance, amount, scores, str(tmp_path / "payload-*.parquet")


def read(path):
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("ties", [1, 20, 10**6])
def test_rows_and_order_are_the_reference(tmp_path, fraction, ties):
    docids, distance, amount = pool(300, 3, ties)
    scores = write(tmp_path / "s.parquet", docid=docids, nag_distance=distance)
    payload = write(tmp_path / "p.parquet", docid=docids, token_num=pa.array(amount, pa.int64()))
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=fraction)
    want = reference.select(distance, docids, amount, fraction)
    rows = read(tmp_path / "o.parquet")
    assert [r["docid"] for r in rows] == [docids[i] for i in want]
    assert [r["nag_distance"] for r in rows] == [distance[i] for i in want]
    total = sum(a or 0 for a in amount)
    assert (summary.total, summary.budget, summary.rows) == (total, int(total * fraction), len(want))
    assert summary.amount == sum(amount[i] or 0 for i in want)
    assert summary.exit_code == 0


def test_payload_columns_come_along(tmp_path, files):
    docids, distance, amount, scores, payload = files
    select(scores, payload, tmp_path / "o.parquet", fraction=0.3)
    rows = read(tmp_path / "o.parquet")
    assert list(rows[0]) == ["docid", "doc", "token_num", "nag_distance"]
    where = dict(zip(docids, range(len(docids)), strict=True))
    for row in rows:
        i = where[row["docid"]]
        assert (row["doc"], row["token_num"], row["nag_distance"]) == (f"text {docids[i]}", amount[i], distance[i])
    note = json.loads(pq.read_schema(tmp_path / "o.parquet").metadata[b"nagfast"])
    assert note["selection"]["rows"] == len(rows)


@pytest.mark.parametrize("unit", ["bytes", "documents"])
def test_other_units(tmp_path, files, unit):
    docids, distance, _, scores, payload = files
    amount = [1 if unit == "documents" else len(f"text {d}".encode()) for d in docids]
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=0.25, unit=unit, token_column="none")
    want = reference.select(distance, docids, amount, 0.25)
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == [docids[i] for i in want]
    assert summary.unit == unit


def test_an_absolute_budget(tmp_path, files):
    docids, distance, amount, scores, payload = files
    summary = select(scores, payload, tmp_path / "o.parquet", budget=500)
    total = sum(a or 0 for a in amount)
    want = reference.select(distance, docids, amount, 500.5 / total)
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == [docids[i] for i in want]
    assert 0 < summary.amount <= 500


def test_first_document_alone_over_budget_and_nothing_at_all(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=["b", "a"], nag_distance=[0.5, 0.5])
    payload = write(tmp_path / "p.parquet", docid=["a", "b"], token_num=[50, 60])
    assert select(scores, payload, tmp_path / "o.parquet", fraction=0.1).rows == 1
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == ["a"]
    for tokens in ([0, 0], [None, None]):
        payload = write(tmp_path / "p.parquet", docid=["a", "b"], token_num=pa.array(tokens, pa.int64()))
        summary = select(scores, payload, tmp_path / "o.parquet", fraction=1.0)
        assert (summary.rows, summary.total, summary.lowest) == (0, 0, None)
        assert pq.read_schema(tmp_path / "o.parquet").names == ["docid", "token_num", "nag_distance"]


def test_zero_amounts_ride_along_after_the_budget_is_met(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=list("abcd"), nag_distance=[0.1, 0.2, 0.3, 0.4])
    payload = write(tmp_path / "p.parquet", docid=list("abcd"), token_num=[5, 0, 0, 5])
    select(scores, payload, tmp_path / "o.parquet", fraction=0.5)
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == ["a", "b", "c"]


def test_neighbouring_floats_keep_their_order(tmp_path):
    distance = [0.5]
    for _ in range(40):
        distance.append(float(np.nextafter(distance[-1], 1)))
    distance += [0.0, 1e-300, 5e-324, 1.0]
    docids = [f"{i:03d}" for i in np.random.default_rng(0).permutation(len(distance))]
    scores = write(tmp_path / "s.parquet", docid=docids, nag_distance=distance)
    for fraction in (0.1, 0.4, 0.7):
        select(scores, None, tmp_path / "o.parquet", fraction=fraction, unit="documents")
        want = reference.select(np.array(distance), docids, [1] * len(docids), fraction)
        assert [r["docid"] for r in read(tmp_path / "o.parquet")] == [docids[i] for i in want]


def test_docids_break_ties_by_code_point(tmp_path):
    docids = ["a", "B", "é", "z", "Z", "10", "9", "中", "😀", "\ufffd", ""]
    scores = write(tmp_path / "s.parquet", docid=docids, nag_distance=[0.5] * len(docids))
    select(scores, None, tmp_path / "o.parquet", fraction=1.0, unit="documents")
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == sorted(docids)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines(tmp_path, suffix):
    docids, distance, amount = pool(40)
    scores = write(tmp_path / "s.parquet", docid=docids, nag_distance=distance)
    lines = [
        json.dumps({"docid": d, "doc": "2020-01-01", "token_num": a, "meta": {"lang": "en", "n": [1, 2]}})
        for d, a in zip(docids, amount, strict=True)
    ]
    lines[1:1] = ["", "{broken", '"text"', '{"docid": "nobody", "token_num": 1}']
    data = "\n".join(lines).encode() + b'\n{"docid": "\xff"}\n'
    packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(suffix[6:], bytes)(data)
    path = tmp_path / f"p{suffix}"
    path.write_bytes(packed)
    summary = select(scores, path, tmp_path / "o.parquet", fraction=0.5)
    rows = read(tmp_path / "o.parquet")
    assert [r["docid"] for r in rows] == [docids[i] for i in reference.select(distance, docids, amount, 0.5)]
    assert rows[0]["doc"] == "2020-01-01"
    assert rows[0]["meta"] == {"lang": "en", "n": [1, 2]}
    assert (summary.quarantined, summary.missing_in_scores, summary.exit_code) == (4, 1, 3)
    bad = list(Quarantine(tmp_path / "o.parquet.quarantine").rows())
    assert [(b.row, b.reason) for b in bad] == [(r, "missing docid") for r in (1, 2, 3, 44)]


def test_json_and_parquet_together_and_dotted_names(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"meta": {"docid": "x", "n": 3}, "text": "abc"}\n')
    write(tmp_path / "b.parquet", meta=[{"docid": "y", "n": 4}], text=["de"], more=[1])
    scores = write(tmp_path / "s.parquet", docid=["y", "x"], nag_distance=[0.2, 0.1])
    options = {"id_column": "meta.docid", "token_column": "meta.n"}
    files = [tmp_path / "a.jsonl", tmp_path / "b.parquet"]
    summary = select(scores, files, tmp_path / "o.parquet", fraction=1.0, **options)
    assert (summary.total, summary.rows) == (7, 2)
    assert [(r["text"], r["more"]) for r in read(tmp_path / "o.parquet")] == [("abc", None), ("de", 1)]


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


TEXTS = ['two\nlines\t"quoted" \\n', "grün 中 😀 \u2028", '"already"', "", "null", '{"a": 1}', " 7 ", "a\u0000b"]


@pytest.mark.parametrize("odd", [7, 1.5, True, [1, "x"], {"a": "b"}])
@pytest.mark.parametrize("unit", ["bytes", "documents"])
def test_texts_among_other_types_stay_as_they_are(tmp_path, odd, unit):
    docids = [f"d{i}" for i in range(len(TEXTS))]
    rows = [{"docid": d, "doc": t, "meta": {"t": t}, "list": [t]} for d, t in zip(docids, TEXTS, strict=True)]
    odd_row = {"docid": "odd", "doc": odd, "meta": {"t": odd}, "list": [odd]}
    payload = lines(tmp_path / "p.jsonl", *rows[:3], odd_row, *rows[3:])
    scores = write(tmp_path / "s.parquet", docid=[*docids, "odd"], nag_distance=np.linspace(0, 1, len(rows) + 1))
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=1.0, unit=unit)
    found = read(tmp_path / "o.parquet")
    assert [{k: row[k] for k in ("docid", "doc", "meta", "list")} for row in found[:-1]] == rows
    assert json.loads(found[-1]["doc"]) == odd
    odd_bytes = len(found[-1]["doc"].encode())
    want = sum(len(t.encode()) for t in TEXTS) + odd_bytes if unit == "bytes" else len(rows) + 1
    assert (summary.total, summary.missing_in_payload, summary.exit_code) == (want, 0, 0)


IDS = {
    "strings": ["b-3", 7, -1, "x y", "012"],
    "wide": [-1, 2**63 + 1, 2**64 - 1, 5, -(2**63)],
    "wider": [2**64 + 1, 10**22 + 1, 3, -4, 12],
    "numbers": [3, 1, 2**53 + 1, 2**63 - 1, 9],
    "negative": [-3, 1, 2**53 + 1, -(2**53) - 1, 9],
    "floats": ["1.5", 3, 2**53 + 1, 2.5, None],
}


@pytest.mark.parametrize("where", ["docid", "id", "meta.docid", "a.b.c", "dotted.name"])
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_of_several_types_join(tmp_path, where, ids):
    def row(docid, number):
        for part in reversed([where] if where == "dotted.name" else where.split(".")):
            docid = {part: docid}
        return docid | {"doc": f"t{number}", "token_num": 1}

    payload = lines(tmp_path / "p.jsonl", *(row(docid, i) for i, docid in enumerate(ids)))
    names = [str(docid) for docid in ids if docid is not None]
    scores = write(tmp_path / "s.parquet", docid=names, nag_distance=np.linspace(0, 1, len(names)))
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=1.0, id_column=where)
    assert [r["doc"] for r in read(tmp_path / "o.parquet")] == [f"t{i}" for i in range(len(names))]
    assert (summary.missing_in_payload, summary.missing_in_scores) == (0, 0)
    value = read(tmp_path / "o.parquet")
    for part in [where] if where == "dotted.name" else where.split("."):
        value = [v[part] for v in value]
    assert value == names


@pytest.mark.parametrize("names", [["s.jsonl", "p.jsonl"], ["s.parquet", "p.jsonl"], ["s.jsonl", "p.parquet"]])
def test_numbers_and_texts_of_json_and_parquet_join(tmp_path, names):
    for name, column in zip(names, ({"nag_distance": [0.1, 0.2, 0.3]}, {"token_num": [1, 2, 3]}), strict=True):
        table = pa.table({"docid": [3, -1, 2**62]} | column)
        if name.endswith(".jsonl"):
            lines(tmp_path / name, *table.to_pylist())
        else:
            pq.write_table(table, tmp_path / name)
    select(tmp_path / names[0], tmp_path / names[1], tmp_path / "o.parquet", fraction=1.0)
    assert [int(r["docid"]) for r in read(tmp_path / "o.parquet")] == [3, -1, 2**62]


def test_score_lines_with_ids_of_several_types_join(tmp_path):
    ids = ["b-3", 7, 2**64 + 1]
    rows = [{"docid": d, "nag_distance": i / 10, "nag_distance_t": i / 10} for i, d in enumerate(ids)]
    scores = lines(tmp_path / "s.jsonl", *rows)
    payload = write(tmp_path / "p.parquet", docid=[str(d) for d in ids], token_num=[1, 1, 1])
    for run, given in ((select, scores), (select_multi, scores), (select_multi, {"t": scores})):
        run(given, payload, tmp_path / "o.parquet", fraction=1.0)
        assert [r["docid"] for r in read(tmp_path / "o.parquet")] == [str(d) for d in ids]


def test_whole_numbers_of_any_sign_keep_every_digit(tmp_path):
    numbers = [-1, 3, 7]
    rows = [
        {"docid": str(i), "token_num": n, "meta": {"n": n * 2**53 + 1}, "far": 2**63 * i - 1}
        for i, n in enumerate(numbers)
    ]
    payload = lines(tmp_path / "p.jsonl", *rows)
    more = write(tmp_path / "q.parquet", docid=["3"], token_num=[5], meta=[{"n": -5}], far=pa.array([2], pa.int64()))
    scores = write(tmp_path / "s.parquet", docid=list("0123"), nag_distance=[0.1, 0.2, 0.3, 0.4])
    summary = select(scores, [payload, more], tmp_path / "o.parquet", fraction=1.0)
    found = read(tmp_path / "o.parquet")
    assert [(r["token_num"], r["meta"]["n"]) for r in found] == [(3, 3 * 2**53 + 1), (7, 7 * 2**53 + 1), (5, -5)]
    assert all(type(r["token_num"]) is int and type(r["meta"]["n"]) is int for r in found)
    assert [r["far"] for r in found] == [str(2**63 - 1), str(2**64 - 1), "2"]
    assert (summary.quarantined, summary.total) == (1, 15)


def test_broken_utf8_beside_numbers_of_both_signs(tmp_path):
    broken = pa.StructArray.from_arrays([pa.array([-1]), broken_text([b"a \xff"])], ["n", "t"])
    pq.write_table(pa.table({"docid": ["a"], "meta": broken}), tmp_path / "p.parquet")
    payload = [tmp_path / "p.parquet", lines(tmp_path / "q.jsonl", {"docid": "b", "meta": {"n": 1, "t": "b"}})]
    scores = write(tmp_path / "s.parquet", docid=["a", "b"], nag_distance=[0.1, 0.2])
    select(scores, payload, tmp_path / "o.parquet", fraction=1.0, unit="documents")
    assert [int(r["meta"]["n"]) for r in read(tmp_path / "o.parquet")] == [-1, 1]


def test_a_payload_folder_is_what_extraction_reads_there(tmp_path):
    docids, distance, amount = pool(30)
    scores = write(tmp_path / "s.parquet", docid=docids, nag_distance=distance)
    folder = tmp_path / "data"
    (folder / "b").mkdir(parents=True)
    rows = [{"docid": d, "token_num": a} for d, a in zip(docids, amount, strict=True)]
    write(folder / "a.pq", docid=docids[:5], token_num=pa.array(amount[:5], pa.int64()))
    write(folder / "b" / "c.PARQ", docid=docids[5:10], token_num=pa.array(amount[5:10], pa.int64()))
    lines(folder / "b" / "d.jsonlines", *rows[10:20])
    packed = "".join(json.dumps(row) + "\n" for row in rows[20:25]).encode()
    (folder / "e.ndjson.zstd").write_bytes(zstandard.compress(packed[:50]) + zstandard.compress(packed[50:]))
    (folder / "f.json.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(rows[25]).encode()))
    lines(folder / "g.jsonl", *rows[26:])
    want = select(scores, folder, tmp_path / "o.parquet", fraction=1.0)
    before = read(tmp_path / "o.parquet")
    assert (len(before), want.quarantined, want.missing_in_payload) == (30, 0, 0)

    other = [{"docid": d, "token_num": 1000} for d in docids]
    for name in ("aa/quarantine/x.jsonl", "aa/part.jsonl", ".h/x.jsonl", "_tmp/x.jsonl", "_x.jsonl", "0.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines(folder / name, *other)
    for name in ("nag.json", "extract.json"):
        (folder / "aa" / name).write_text("{}")
    write(folder / "aa" / "part.parquet", docid=docids, nag_tokens=[1] * 30)
    assert select(scores, folder, tmp_path / "o.parquet", fraction=1.0) == want
    assert read(tmp_path / "o.parquet") == before

    for name in ("0.json", "_tmp/x.jsonl", ".h/x.jsonl", "aa/part.jsonl"):  # named, they are taken
        assert select(scores, folder / name, tmp_path / "o.parquet", fraction=1.0).total == 30_000
        assert select(scores, str(folder / name), tmp_path / "o.parquet", fraction=1.0).total == 30_000
    with pytest.raises(ArgumentError, match=r"^--payload: .*aa: no file to read there"):
        select(scores, folder / "aa", tmp_path / "o.parquet", fraction=1.0)


def test_missing_rows_are_counted(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=list("abcx"), nag_distance=[0.1, 0.2, 0.3, 0.0])
    payload = write(tmp_path / "p.parquet", docid=list("cabyz"), token_num=[1] * 5)
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=1.0)
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == ["a", "b", "c"]
    assert (summary.pool, summary.missing_in_payload, summary.missing_in_scores) == (3, 1, 2)
    assert summary.exit_code == 0


def test_duplicates_keep_the_first_and_report_the_others(tmp_path):
    s0 = write(tmp_path / "s0.parquet", docid=["a", "b", "a"], nag_distance=[0.3, 0.2, 0.0])
    s1 = write(tmp_path / "s1.parquet", docid=["b", "c"], nag_distance=[0.9, 0.1])
    p0 = write(tmp_path / "p0.parquet", docid=["c", "a"], token_num=[1, 1], doc=["c0", "a0"])
    docs = ["a1", "b1", "b2", "n"]
    p1 = write(tmp_path / "p1.parquet", docid=["a", "b", "b", None], token_num=[5, 1, 7, 1], doc=docs)
    out = tmp_path / "o.parquet"
    for _ in range(2):  # a second run replaces the quarantine
        summary = select([s0, s1], [p0, p1], out, fraction=1.0)
        rows = [(r["docid"], r["nag_distance"], r["doc"]) for r in read(out)]
        assert rows == [("c", 0.1, "c0"), ("b", 0.2, "b1"), ("a", 0.3, "a0")]
        assert (summary.duplicates, summary.quarantined, summary.total, summary.exit_code) == (4, 5, 3, 3)
        bad = [(b.file, b.row, b.docid, b.reason) for b in Quarantine(tmp_path / "o.parquet.quarantine").rows()]
        assert bad == [
            (p1, 0, "a", "duplicate docid"),
            (p1, 2, "b", "duplicate docid"),
            (p1, 3, None, "missing docid"),
            (s0, 2, "a", "duplicate docid"),
            (s1, 0, "b", "duplicate docid"),
        ]


def test_unusable_distances_and_amounts_are_set_aside(tmp_path):
    nan, inf = float("nan"), float("inf")
    scores = write(tmp_path / "s.parquet", docid=list("abcdefg"), nag_distance=[nan, inf, None, 0.4, 0.5, 0.6, 0.7])
    payload = write(
        tmp_path / "p.parquet", docid=list("abcdefg"), token_num=pa.array([1.0, 1.0, 1.0, -1.0, 2.5, 3.0, None])
    )
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=1.0)
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == ["f", "g"]
    assert (summary.total, summary.quarantined) == (3, 5)
    reasons = Quarantine(tmp_path / "o.parquet.quarantine").summary()
    assert reasons == {"no distance": 3, "token_num is not a whole number of at least 0": 2}


def test_nan_amounts_count_nothing(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=list("ab"), nag_distance=[0.1, 0.2])
    payload = write(tmp_path / "p.parquet", docid=list("ab"), token_num=[float("nan"), 4.0])
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=1.0)
    assert (summary.rows, summary.total, summary.quarantined) == (2, 4, 0)


@pytest.mark.parametrize("higher", [False, True])
def test_quality_is_the_reference_mix(tmp_path, higher):
    docids, distance, amount = pool(300, 5)
    rng = np.random.default_rng(2)
    quality = [[None, float("nan"), float(rng.random())][min(2, i % 9)] for i in range(300)]
    scores = write(tmp_path / "s.parquet", docid=docids, nag_distance=distance)
    payload = write(tmp_path / "p.parquet", docid=docids, token_num=pa.array(amount, pa.int64()), q=quality)
    options = {"quality": "q", "higher_is_better": higher}
    summary = select(scores, payload, tmp_path / "o.parquet", fraction=0.3, **options)
    kept = [i for i in range(300) if quality[i] is not None and not np.isnan(quality[i])]
    mix = reference.quality_mix(distance[kept], [quality[i] for i in kept], higher_is_better=higher)
    want = reference.select(mix, [docids[i] for i in kept], [amount[i] for i in kept], 0.3)
    rows = read(tmp_path / "o.parquet")
    assert [r["docid"] for r in rows] == [docids[kept[i]] for i in want]
    assert [r["combined_score"] for r in rows] == [mix[i] for i in want]
    assert summary.without_quality == 300 - len(kept)
    assert summary.pool == len(kept)


def test_a_quality_that_never_differs_changes_nothing(tmp_path, files):
    _, _, _, scores, payload = files
    select(scores, payload, tmp_path / "plain.parquet", fraction=0.3)
    table = pa.concat_tables([pq.read_table(tmp_path / f"payload-{i}.parquet") for i in (0, 1)])
    pq.write_table(table.append_column("q", pa.array([2] * len(table))), tmp_path / "with.parquet")
    select(scores, tmp_path / "with.parquet", tmp_path / "o.parquet", fraction=0.3, quality="q")
    plain = [r["docid"] for r in read(tmp_path / "plain.parquet")]
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == plain


def multi(tmp_path, n=240, targets=3):
    docids, _, amount = pool(n, 7)
    rng = np.random.default_rng(8)
    distances = [np.round(rng.random(n) * 15) / 15 for _ in range(targets)]
    columns = {f"nag_distance_t{m}": d for m, d in enumerate(distances)}
    scores = write(tmp_path / "s.parquet", docid=docids, **columns)
    payload = write(tmp_path / "p.parquet", docid=docids, token_num=pa.array(amount, pa.int64()))
    return docids, amount, distances, scores, payload


@pytest.mark.parametrize("refill", [False, True])
@pytest.mark.parametrize("fraction", [0.05, 0.4, 1.0])
def test_several_targets_are_the_reference(tmp_path, refill, fraction):
    docids, amount, distances, scores, payload = multi(tmp_path)
    summary = select_multi(scores, payload, tmp_path / "o.parquet", fraction=fraction, refill=refill)
    want = reference.multi_target(distances, docids, amount, fraction, refill=refill)
    rows = read(tmp_path / "o.parquet")
    assert [(r["nag_target"], r["docid"]) for r in rows] == [(f"t{m}", docids[i]) for m, i in want]
    assert [r["nag_distance"] for r in rows] == [distances[m][i] for m, i in want]
    assert summary.targets == {f"t{m}": sum(k == m for k, _ in want) for m in range(3)}
    if refill:
        assert len({r["docid"] for r in rows}) == len(rows)


def test_score_files_of_several_targets(tmp_path):
    docids, amount, distances, _, payload = multi(tmp_path)
    files = {
        f"it's {m}": write(tmp_path / f"s{m}.parquet", docid=docids, nag_distance=d) for m, d in enumerate(distances)
    }
    names = ["it's 2", "it's 0"]
    select_multi(files, payload, tmp_path / "o.parquet", targets=names, fraction=0.3, refill=True)
    want = reference.multi_target([distances[2], distances[0]], docids, amount, 0.3, refill=True)
    rows = [(r["nag_target"], r["docid"]) for r in read(tmp_path / "o.parquet")]
    assert rows == [(names[m], docids[i]) for m, i in want]


def test_targets_whose_scores_cover_different_documents(tmp_path):
    a = write(tmp_path / "a.parquet", docid=list("xyz"), nag_distance=[0.1, 0.2, 0.3])
    b = write(tmp_path / "b.parquet", docid=list("zw"), nag_distance=[0.1, 0.2])
    payload = write(tmp_path / "p.parquet", docid=list("wxyz"), token_num=[1] * 4)
    summary = select_multi({"a": a, "b": b}, payload, tmp_path / "o.parquet", fraction=1.0)
    assert [(r["nag_target"], r["docid"]) for r in read(tmp_path / "o.parquet")] == [("a", "x"), ("b", "z")]
    assert (summary.pool, summary.missing_in_payload) == (4, 0)


def test_wrong_targets(tmp_path):
    *_, scores, payload = multi(tmp_path)
    for names in (["t9"], ["t0", "t0"], []):
        with pytest.raises(ArgumentError, match="targets"):
            select_multi(scores, payload, tmp_path / "o.parquet", targets=names, fraction=0.1)
    with pytest.raises(ArgumentError, match="payload"):
        select_multi({"a": scores}, None, tmp_path / "o.parquet", fraction=0.1)


def test_the_same_bytes_for_any_threads_and_memory(tmp_path):
    docids, distance, amount = pool(60_000, 11, 500)
    scores = write(tmp_path / "s.parquet", docid=docids, nag_distance=distance)
    texts = [d * 40 for d in docids]
    payload = write(tmp_path / "p.parquet", docid=docids, doc=texts, token_num=pa.array(amount, pa.int64()))
    for i, options in enumerate(({"threads": 1}, {"threads": 2, "memory_limit": "120MB"}, {"threads": 4})):
        select(scores, payload, tmp_path / f"o{i}.parquet", fraction=0.4, **options)
    first = pq.read_table(tmp_path / "o0.parquet")
    assert [r["docid"] for r in first.select(["docid"]).to_pylist()] == [
        docids[i] for i in reference.select(distance, docids, amount, 0.4)
    ]
    assert all(pq.read_table(tmp_path / f"o{i}.parquet").equals(first) for i in (1, 2))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_names_that_want_to_be_sql(tmp_path):
    evil = 'x" FROM pool; DROP TABLE pool; --'
    folder = tmp_path / "it's"
    folder.mkdir()
    scores = write(folder / "s'1.parquet", **{"docid": ["a'b", 'c"d'], evil: [0.2, 0.1]})
    payload = write(folder / "p.parquet", **{evil + "id": ["a'b", 'c"d'], "select": [1, 2], evil: ["t", "u"]})
    names = {"id_column": evil + "id", "token_column": "select", "score_column": evil}
    select(scores, payload, folder / "o'.parquet", fraction=1.0, **names)
    rows = read(folder / "o'.parquet")
    assert [(r[evil + "id"], r[evil], r["nag_distance"]) for r in rows] == [('c"d', "u", 0.1), ("a'b", "t", 0.2)]


def test_an_old_distance_is_replaced(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=["a"], nag_distance=[0.25])
    payload = write(tmp_path / "p.parquet", docid=["a"], token_num=[1], nag_distance=[9.0])
    select(scores, payload, tmp_path / "o.parquet", fraction=1.0)
    assert read(tmp_path / "o.parquet") == [{"docid": "a", "token_num": 1, "nag_distance": 0.25}]


def test_amounts_of_the_scores_serve_where_the_payload_has_none(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=["a", "b"], nag_distance=[0.2, 0.1], token_num=[3, 4])
    payload = write(tmp_path / "p.parquet", docid=["a", "b"], doc=["x", "y"])
    assert select(scores, payload, tmp_path / "o.parquet", fraction=0.6).total == 7
    assert [r["docid"] for r in read(tmp_path / "o.parquet")] == ["b"]
    assert select(scores, None, tmp_path / "o.parquet", fraction=1.0).rows == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of the two"),
        ({"fraction": 0.1, "budget": 1}, "give one of the two"),
        ({"fraction": 0.0}, "more than 0"),
        ({"fraction": float("nan")}, "more than 0"),
        ({"budget": -1}, "0 or more"),
        ({"fraction": 0.1, "unit": "words"}, "tokens, bytes, documents"),
        ({"fraction": 0.1, "token_column": "nope"}, "no column 'nope'.*--unit bytes or --unit documents"),
        ({"fraction": 0.1, "token_column": "doc"}, "is VARCHAR; give a column of whole numbers"),
        ({"fraction": 0.1, "unit": "bytes", "text_column": "token_num"}, "is BIGINT; give a column of text"),
        ({"fraction": 0.1, "id_column": "id"}, "no column 'id'.*--id-column"),
        ({"fraction": 0.1, "score_column": "s"}, "no score column 's'"),
        ({"fraction": 0.1, "quality": "s"}, "--quality: no column 's'"),
        ({"fraction": 0.1, "quality": "doc"}, "--quality: 'doc'.*numbers"),
        ({"fraction": 0.1, "memory_limit": "lots"}, "--memory-limit: got 'lots'"),
        ({"fraction": 0.1, "threads": 0}, "--threads: got 0"),
    ],
)
def test_wrong_arguments(tmp_path, files, options, message):
    *_, scores, payload = files
    with pytest.raises(ArgumentError, match=message) as caught:
        select(scores, payload, tmp_path / "o.parquet", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.parquet").exists()


def test_files_that_are_not_there(tmp_path, files):
    *_, scores, payload = files
    with pytest.raises(ArgumentError, match=r"--payload: .*nothing\*"):
        select(scores, str(tmp_path / "nothing*"), tmp_path / "o.parquet", fraction=0.1)
    with pytest.raises(ArgumentError, match="SCORES"):
        select([], payload, tmp_path / "o.parquet", fraction=0.1)


def test_an_unreadable_payload_file_is_named_and_the_others_finish(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=list("ab"), nag_distance=[0.2, 0.1])
    write(tmp_path / "p1.parquet", docid=list("ab"), token_num=[1, 1])
    (tmp_path / "p0.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "p2.jsonl.gz").write_bytes(b"not gzip")
    summary = select(scores, str(tmp_path / "p[012].*"), tmp_path / "o.parquet", fraction=1.0)
    assert summary.unreadable == (str(tmp_path / "p0.parquet"), str(tmp_path / "p2.jsonl.gz"))
    assert (summary.rows, summary.exit_code) == (2, 3)
    assert set(Quarantine(tmp_path / "o.parquet.quarantine").unreadable()) == set(summary.unreadable)
    with pytest.raises(NagfastError, match=r"p0\.parquet: could not be read"):
        select(tmp_path / "p0.parquet", None, tmp_path / "o.parquet", fraction=1.0)


def broken_text(values):
    data = b"".join(values)
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(data))


@pytest.mark.parametrize("unit", ["tokens", "bytes"])
def test_broken_utf8_does_not_stop_a_selection(tmp_path, unit, caplog):
    scores = write(tmp_path / "s.parquet", docid=list("abc"), nag_distance=[0.3, 0.2, 0.1])
    write(tmp_path / "p0.parquet", docid=["a"], doc=["fine"], token_num=[1])
    texts = broken_text([b"one \xff two", "grün".encode()])
    write(tmp_path / "p1.parquet", docid=["b", "c"], doc=texts, token_num=[1, 1])
    payload = [tmp_path / "p0.parquet", tmp_path / "p1.parquet"]
    assert select(scores, payload, tmp_path / "o.parquet", fraction=1.0, unit=unit).rows == 3
    assert [r["doc"] for r in read(tmp_path / "o.parquet")] == ["grün", "one \ufffd two", "fine"]
    assert "p1.parquet: holds text that is not UTF-8" in caplog.text


def test_a_payload_damaged_inside_is_named(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=[str(i) for i in range(2000)], nag_distance=np.linspace(0, 1, 2000))
    path = tmp_path / "p.parquet"
    rng = np.random.default_rng(0)
    table = pa.table({"docid": [str(i) for i in range(2000)], "doc": [rng.bytes(40).hex() for _ in range(2000)]})
    pq.write_table(table, path, compression="zstd")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(NagfastError, match=r"p\.parquet"):
        select(scores, path, tmp_path / "o.parquet", fraction=1.0, unit="documents")
    assert not (tmp_path / "o.parquet").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_columns_that_the_reader_needs_are_refused(tmp_path):
    scores = write(tmp_path / "s.parquet", docid=["a"], nag_distance=[0.1])
    payload = write(tmp_path / "p.parquet", docid=["a"], token_num=[1], file_index=[3])
    with pytest.raises(ArgumentError, match="file_index"):
        select(scores, payload, tmp_path / "o.parquet", fraction=1.0)


def test_spill_folders_of_killed_runs_are_removed(tmp_path):
    left = tmp_path / ".o.parquet.spill-999999999-x"
    left.mkdir()
    with Session(tmp_path / "o.parquet"):
        assert not left.exists()
    assert not list(tmp_path.iterdir())
