"""The published command line: exit codes, one-line errors, odd input. Agreement is in test_golden_ranking.py."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_cases import GOLDEN
from test_targets import nags, store

from nagfast.adapters.reference import main
from nagfast.adapters.reference_files import as_batches, parse_layers
from nagfast.errors import ArgumentError
from nagfast.targets import TargetProfile

SHAPE = ["--num_layers", "3", "--top_k", "5"]


def features(path, indices, docids=None, column="fwd_up_feature"):
    docids = docids or [f"d{i:03d}" for i in range(len(indices))]
    lines = [
        json.dumps({"docid": d, column: {"layer_topk_value_index": nag.ravel().tolist()}})
        for d, nag in zip(docids, indices, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def payload(path, docids, **columns):
    columns = {"docid": docids, "token_num": [10] * len(docids)} | columns
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.fixture
def flags(tmp_path):
    target, pool = nags(12, 1), nags(40, 2)
    return [
        *("--target_features", features(tmp_path / "target.jsonl", target.indices)),
        *("--pool_features", features(tmp_path / "pool.jsonl", pool.indices)),
        *("--pool_payload", payload(tmp_path / "pool.parquet", [f"d{i:03d}" for i in range(40)])),
        *("--output_path", str(tmp_path / "o.parquet")),
        *SHAPE,
    ]


def changed(flags, **values):
    flags = list(flags)
    for name, value in values.items():
        flags[flags.index(f"--{name}") + 1] = str(value)
    return flags


def test_a_store_serves_as_features(tmp_path, flags):
    assert main(["rank", *flags]) == 0
    want = pq.read_table(tmp_path / "o.parquet")
    assert want["nag_distance"].to_pylist() == sorted(TargetProfile.fit(nags(12, 1)).distance(nags(40, 2)))[:8]
    store(tmp_path / "ts", nags(12, 1))
    store(tmp_path / "ps", nags(40, 2))
    again = changed(flags, target_features=tmp_path / "ts", pool_features=tmp_path / "ps")
    assert main(["rank", *again]) == 0
    assert pq.read_table(tmp_path / "o.parquet").equals(want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_features": "/nowhere/*.jsonl"}, "/nowhere"),
        ({"pool_payload": "/nowhere/*.parquet"}, "/nowhere"),
        ({"num_layers": 4}, "60|15"),
        ({"top_k": 6}, "90|18|15"),
    ],
)
def test_wrong_arguments_exit_2_with_one_line(flags, change, message, capsys):
    assert main(["rank", *changed(flags, **change)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(part in error for part in message.split("|"))


@pytest.mark.parametrize(
    "more",
    [
        ["--fraction", "0"],
        ["--token_col", "none"],
        ["--target_filter", "math"],
        ["--feature_col", "att_q_feature"],
    ],
)
def test_wrong_values_exit_2(flags, more, capsys):
    assert main(["rank", *flags, *more]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_target_filter(tmp_path, flags):
    kinds = ["math"] * 5 + ["law"] * 6
    path = payload(tmp_path / "t.parquet", [f"d{i:03d}" for i in range(11)], dataset=kinds, it=list(range(11)))
    assert main(["rank", *flags, "--target_payload", path, "--target_filter", "math"]) == 0
    some = nags(12, 1)
    profile = TargetProfile.fit(as_batches([some.indices[:5]], "fwd_up_feature")[0])
    low = min(1 - profile.similarity(nags(40, 2).indices))
    assert pq.read_table(tmp_path / "o.parquet")["nag_distance"][0].as_py() == low
    assert main(["rank", *flags, "--target_payload", path, "--target_filter", "art"]) == 2
    assert main(["rank", *flags, "--target_payload", path, "--target_filter", "x", "--target_filter_col", "z"]) == 2


def test_duplicates_are_set_aside_and_said(tmp_path, flags, caplog):
    path = payload(tmp_path / "dup.parquet", [f"d{i % 35:03d}" for i in range(40)])
    with caplog.at_level("INFO"):
        assert main(["rank", *changed(flags, pool_payload=path)]) == 0
    assert "5 rows could not be used" in caplog.text
    assert (tmp_path / "o.parquet.quarantine").is_dir()


def test_usage_errors_exit_2_with_one_line(capsys):
    for wrong in ([], ["rank"], ["dance"], ["slice_layers", "--input_glob", "x", "--num_layers", "many"]):
        with pytest.raises(SystemExit) as stopped:
            main(wrong)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "nagfast.adapters.reference", "slice_layers", "--input_glob", "/nowhere/*",
         "--output_path", "/nowhere/o", *SHAPE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("slice_layers: --input_glob: /nowhere/*")


def test_layers():
    assert parse_layers("last", 4) == [3]
    assert parse_layers("first", 4) == [0]
    assert parse_layers("3, 1,1", 4) == [1, 3]
    for wrong in ("4", "-1", "", "a", "1;2"):
        with pytest.raises(ArgumentError, match="--layers"):
            parse_layers(wrong, 4)


def test_slicing_checks_every_row(tmp_path, capsys):
    batch = nags(3)
    path = tmp_path / "f.jsonl"
    features(path, batch.indices)
    with path.open("a") as handle:
        handle.write('{"docid": "short", "fwd_up_feature": {"layer_topk_value_index": [1, 2]}}\n')
    out = ["--output_path", str(tmp_path / "o.parquet")]
    assert main(["slice_layers", "--input_glob", str(path), *out, *SHAPE]) == 2
    assert "row 3 has 2 indices" in capsys.readouterr().err
    assert main(["slice_layers", "--input_glob", str(path), *out, *SHAPE, "--feature_col", "z_feature"]) == 2
    path.write_text("{broken\n")
    assert main(["slice_layers", "--input_glob", str(path), *out, *SHAPE]) == 1
    assert not (tmp_path / "o.parquet").exists()


def test_merging_files_of_different_columns(tmp_path, capsys):
    a = payload(tmp_path / "a.parquet", ["x", "y"], one=[1, 2])
    b = payload(tmp_path / "b.parquet", ["y", "z"], two=["p", "q"])
    out = str(tmp_path / "o.parquet")
    assert main(["merge_multitarget", "--input_paths", a, b, "--output_path", out, "--deduplicate"]) == 0
    rows = pq.read_table(out).to_pylist()
    assert [(r["docid"], r["one"], r["two"]) for r in rows] == [("x", 1, None), ("y", 2, None), ("z", None, "q")]
    assert main(["merge_multitarget", "--input_paths", a, str(tmp_path / "c"), "--output_path", out]) == 2
    (tmp_path / "d.parquet").write_bytes(b"no")
    assert main(["merge_multitarget", "--input_paths", str(tmp_path / "d.parquet"), "--output_path", out]) == 1
    payload(tmp_path / "e.parquet", ["x"], one=["text"])
    assert main(["merge_multitarget", "--input_paths", a, str(tmp_path / "e.parquet"), "--output_path", out]) == 2


def test_deactivation_without_the_word_build(tmp_path, flags):
    shape = ["--num_layers", "3", "--top_k_extraction", "5", "--top_k_deactivate", "2"]
    assert main(["deactivation", *flags[:2], "--out", str(tmp_path / "k.json"), *shape]) == 0
    assert [len(v) for v in json.loads((tmp_path / "k.json").read_text()).values()] == [2, 2, 2]


def test_tsne_command(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    cells = [{"layer_topk_value_index": nag.ravel().tolist()} for nag in nags(30).indices] + [None]
    table = pa.table({"fwd_up_feature": cells, "dataset": ["a", "b", "c"] * 10 + ["a"]})
    pq.write_table(table, tmp_path / "f.parquet")
    flags = ["--parquet", str(tmp_path / "f.parquet"), *SHAPE, "--max_iter", "250", "--out", str(tmp_path / "m.png")]
    assert main(["tsne", *flags, "--target_datasets", "a", "b", "--use_pca", "--standardize"]) == 0
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["tsne", *flags, "--label_col", "z"]) == 2
    assert main(["tsne", *flags[2:], "--parquet", "/nowhere"]) == 2


def test_extract_writes_the_published_features(tmp_path):
    family = GOLDEN / "qwen3"
    flags = [
        "--model_type",
        "qwen3-0.6b-base",
        "--model_path",
        str(family / "model"),
        "--in_data_path",
        str(family / "pool"),
    ]
    flags += ["--out_data_path", str(tmp_path / "out"), "--max_length", "48", "--top_k", "8"]
    assert main(["extract", *flags, "--batch_size", "4", "--neuron_types", "fwd_up,att_o"]) == 0
    ours = [json.loads(line) for line in (tmp_path / "out" / "part-0.jsonl").read_text().splitlines()]
    published = [json.loads(x) for x in (family / "features" / "pool" / "part-0.jsonl").read_text().splitlines()]
    names = ("docid", "fwd_up_feature", "att_o_feature")
    assert ours == [{n: record[n] for n in names} for record in published]
    assert main(["extract", *flags]) == 0  # what is there is left alone
    assert len(json.loads((tmp_path / "out" / "part-0.jsonl").read_text().splitlines()[0])) == 3


def test_extract_reads_the_final_format_and_sets_bad_rows_aside(tmp_path):
    (tmp_path / "in").mkdir()
    rows = [{"meta": {"docid": "a"}, "content_split": "seven apples"}, {"meta": {"docid": "b"}, "content_split": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "x.parquet")
    flags = [
        "--model_type",
        "x",
        "--model_path",
        str(GOLDEN / "qwen3" / "model"),
        "--in_data_path",
        str(tmp_path / "in"),
    ]
    assert main(["extract", *flags, "--out_data_path", str(tmp_path / "out"), "--format", "final", "--top_k", "4"]) == 3
    lines = (tmp_path / "out" / "x.jsonl").read_text().splitlines()
    assert [json.loads(line)["docid"] for line in lines] == ["a"]


def test_extract_of_an_unreadable_file_writes_it_once_it_is_mended(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.parquet").write_bytes(b"PAR1 no PAR1")
    flags = [
        "--model_type",
        "x",
        "--model_path",
        str(GOLDEN / "qwen3" / "model"),
        "--in_data_path",
        str(tmp_path / "in"),
    ]
    flags += ["--out_data_path", str(tmp_path / "out"), "--top_k", "4"]
    assert main(["extract", *flags]) == 3
    assert not (tmp_path / "out" / "x.jsonl").exists()
    pq.write_table(pa.table({"docid": ["a"], "doc": ["seven apples"]}), tmp_path / "in" / "x.parquet")
    assert main(["extract", *flags]) == 0
    assert len((tmp_path / "out" / "x.jsonl").read_text().splitlines()) == 1


def test_wide_layers_and_sentinels_share_a_spec():
    narrow = np.array([[[1, 2]], [[0xFFFF, 0xFFFF]]], np.uint16)
    wide = np.array([[[70_000, 3]], [[0xFFFF_FFFF, 0xFFFF_FFFF]]], np.uint32)
    first, second = as_batches([narrow, wide], "x_feature")
    assert first.spec == second.spec
    assert first.spec.num_neurons == 70_001
    assert first.empty.tolist() == second.empty.tolist() == [False, True]
    (alone,) = as_batches([narrow], "att_q_feature")
    assert (alone.spec.num_neurons, alone.spec.neuron_type, alone.empty.tolist()) == (3, "att_q", [False, True])
