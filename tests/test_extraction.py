"""Text in, NAGs out: in memory and into a store; resume, quarantine and exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from golden_cases import GOLDEN

from nagfast import gradients, ops
from nagfast.backbone import Backbone
from nagfast.config import ExtractConfig
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.extract_job import run_extract
from nagfast.extraction import default_batch_tokens, extract, token_nags
from nagfast.packing import encode
from nagfast.scorer import Scorer
from nagfast.store import NagStore
from nagfast.targets import TargetProfile

MODEL = GOLDEN / "qwen3" / "model"
WORDS = [
    "red",
    "green",
    "blue",
    "seven",
    "apples",
    "trains",
    "river",
    "bank",
    "doctor",
    "patient",
    "court",
    "law",
    "of",
    "the",
    "a",
    "and",
    "runs",
]


@pytest.fixture(scope="module")
def backbone():
    return Backbone.load(MODEL, dtype="float32", device="cpu")


def some_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 60))) for _ in range(n)]


@pytest.fixture
def pool(tmp_path):
    """Two parquet files and one jsonl."""
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(2):
        texts = some_texts(45, part)
        ids = [f"d{part}-{i:03d}" for i in range(45)]
        pq.write_table(pa.table({"docid": ids, "doc": texts, "dataset": ["x"] * 45}), folder / f"p{part}.parquet")
    lines = [json.dumps({"docid": f"j{i}", "doc": t, "dataset": "y"}) for i, t in enumerate(some_texts(7, 9))]
    (folder / "q.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def config(pool, out, **kwargs):
    return ExtractConfig(
        inputs=(str(pool),), out=str(out), backbone=str(MODEL), top_k=8, max_length=32, shard_rows=20, **kwargs
    )


def store_bytes(path):
    return {p.name: p.read_bytes() for p in sorted(path.glob("*.parquet"))}


def test_in_memory_and_store_agree(pool, tmp_path, backbone):
    summary = run_extract(config(pool, tmp_path / "s", keep="dataset", count_tokens=True), backbone)
    assert (summary.documents, summary.shards, summary.resumed, summary.exit_code) == (97, 7, 0, 0)
    docids, nags = NagStore.open(tmp_path / "s").read()
    assert len(docids) == len(set(docids)) == 97
    texts = dict(zip([f"j{i}" for i in range(7)], some_texts(7, 9), strict=True))
    for part in range(2):
        texts |= dict(zip([f"d{part}-{i:03d}" for i in range(45)], some_texts(45, part), strict=True))
    direct = extract([texts[d] for d in docids], backbone, top_k=8, max_length=32)
    np.testing.assert_array_equal(nags.indices, direct.indices)
    np.testing.assert_array_equal(nags.tokens, direct.tokens)
    table = NagStore.open(tmp_path / "s").table(["docid", "dataset", "token_num"])
    counts = [
        len(backbone.tokenizer(texts[d], add_special_tokens=False)["input_ids"]) for d in table["docid"].to_pylist()
    ]
    assert table["token_num"].to_pylist() == counts
    assert set(table["dataset"].to_pylist()) == {"x", "y"}


def test_a_second_run_does_nothing(pool, tmp_path, backbone):
    run_extract(config(pool, tmp_path / "s"), backbone)
    before = store_bytes(tmp_path / "s")
    again = run_extract(config(pool, tmp_path / "s"), backbone)
    assert (again.documents, again.shards, again.resumed) == (0, 0, 7)
    assert store_bytes(tmp_path / "s") == before


def test_a_lost_shard_comes_back_the_same(pool, tmp_path, backbone):
    run_extract(config(pool, tmp_path / "s"), backbone)
    before = store_bytes(tmp_path / "s")
    for name in list(before)[1::3]:
        (tmp_path / "s" / name).unlink()
    summary = run_extract(config(pool, tmp_path / "s"), backbone)
    assert 0 < summary.shards < 7
    assert store_bytes(tmp_path / "s") == before


def test_other_settings_do_not_mix(pool, tmp_path, backbone):
    run_extract(config(pool, tmp_path / "s"), backbone)
    other = ExtractConfig(inputs=(str(pool),), out=str(tmp_path / "s"), top_k=8, max_length=16)
    with pytest.raises((SpecMismatchError, ArgumentError), match="max_length"):
        run_extract(other, backbone)


def test_kill_9_loses_at_most_the_shards_in_flight(tmp_path):
    """Killed in the middle and run again: the same bytes as one run."""
    folder = tmp_path / "in"
    folder.mkdir()
    texts = some_texts(6000, 5)
    pq.write_table(pa.table({"docid": [f"d{i:05d}" for i in range(6000)], "doc": texts}), folder / "p.parquet")
    arguments = [str(folder), "--backbone", str(MODEL), "--top-k", "8", "--max-length", "48", "--shard-rows", "300"]
    command = [sys.executable, "-m", "nagfast.cli", "extract", *arguments, "--threads", "1", "--out"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, str(tmp_path / "killed")], env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").glob("*.parquet"))) < 3:
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = len(list((tmp_path / "killed").glob("*.parquet")))
    assert 3 <= left < 20
    subprocess.run([*command, str(tmp_path / "killed")], env=env, check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], env=env, check=True, capture_output=True)
    whole = store_bytes(tmp_path / "whole")
    assert len(whole) == 20
    assert store_bytes(tmp_path / "killed") == whole
    assert not list((tmp_path / "killed").glob(".*"))


def test_bad_rows_and_files_are_set_aside(tmp_path, backbone, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [
        json.dumps({"docid": "good", "doc": "seven apples"}),
        json.dumps({"docid": "empty", "doc": ""}),
        json.dumps({"docid": "null", "doc": None}),
        json.dumps({"docid": "number", "doc": 7}),
        json.dumps({"doc": "no id"}),
        "{broken",
    ]
    (folder / "a.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"docid": "utf8", "doc": "\xff\xfe"}\n')
    (folder / "b.parquet").write_bytes(b"PAR1 this is not parquet PAR1")
    summary = run_extract(config(folder, tmp_path / "s"), backbone)
    assert (summary.documents, summary.empty, summary.quarantined, summary.exit_code) == (2, 1, 5, 3)
    assert [p.rsplit("/", 1)[-1] for p in summary.unreadable] == ["b.parquet"]
    rows = [json.loads(x) for f in (tmp_path / "s" / "quarantine").glob("*.jsonl") for x in f.read_text().splitlines()]
    assert sorted(r["row"] for r in rows) == [2, 3, 4, 5, 6]
    assert all(r["file"].endswith("a.jsonl") and r["reason"] for r in rows)
    docids, nags = NagStore.open(tmp_path / "s").read()
    assert docids == ["good", "empty"]
    assert nags.empty.tolist() == [False, True]
    assert (nags.indices[1] == 0xFFFF).all()


def test_missing_columns_and_inputs_are_named(pool, tmp_path, backbone):
    with pytest.raises(ArgumentError, match=r"text.*docid|docid.*text"):
        run_extract(config(pool, tmp_path / "s", text_column="text"), backbone)
    with pytest.raises(ArgumentError, match="nowhere"):
        run_extract(ExtractConfig(inputs=(str(tmp_path / "nowhere"),), out=str(tmp_path / "s")), backbone)


def test_overwrite_leaves_files_of_others_in_the_quarantine(pool, tmp_path, backbone):
    shared = tmp_path / "q"
    shared.mkdir()
    (shared / "mine.jsonl").write_text("{}\n")
    (pool / "bad.jsonl").write_text('{"docid": "a", "doc": null}\n{"docid": "b", "doc": "x y"}\n')
    first = run_extract(config(pool, tmp_path / "s", quarantine=str(shared)), backbone)
    again = run_extract(config(pool, tmp_path / "s", quarantine=str(shared), overwrite=True), backbone)
    assert first.quarantined == again.quarantined == 1
    assert (shared / "mine.jsonl").read_text() == "{}\n"
    (pool / "bad.jsonl").write_text('{"docid": "b", "doc": "x y"}\n')
    mended = run_extract(config(pool, tmp_path / "s", quarantine=str(shared), overwrite=True), backbone)
    assert (mended.quarantined, mended.exit_code) == (0, 0)


def test_other_columns_or_content_of_the_same_name_are_refused(pool, tmp_path, backbone):
    run_extract(config(pool, tmp_path / "s"), backbone)
    before = store_bytes(tmp_path / "s")
    with pytest.raises(ArgumentError, match="text_column 'doc' then and 'dataset' now"):
        run_extract(config(pool, tmp_path / "s", text_column="dataset"), backbone)
    elsewhere = tmp_path / "other" / "in"
    elsewhere.mkdir(parents=True)
    pq.write_table(pa.table({"docid": ["n"], "doc": ["other text"]}), elsewhere / "p0.parquet")
    with pytest.raises(ArgumentError, match=r"source of the same name that differs \(content"):
        run_extract(config(elsewhere, tmp_path / "s"), backbone)
    assert store_bytes(tmp_path / "s") == before
    moved = tmp_path / "moved" / "in"
    moved.parent.mkdir()
    pool.rename(moved)
    assert run_extract(config(moved, tmp_path / "s"), backbone).resumed == 7


def test_a_later_file_without_the_column_is_set_aside(pool, tmp_path, backbone):
    pq.write_table(pa.table({"docid": ["n"], "body": ["x"]}), pool / "p05.parquet")
    summary = run_extract(config(pool, tmp_path / "s"), backbone)
    assert (summary.documents, summary.exit_code) == (97, 3)
    assert [p.rsplit("/", 1)[-1] for p in summary.unreadable] == ["p05.parquet"]


def test_settings_that_differ_from_the_run_before_are_said(pool, tmp_path, backbone, caplog):
    run_extract(config(pool, tmp_path / "s"), backbone)
    run_extract(config(pool, tmp_path / "s", batch_tokens=100), backbone)
    assert "--batch-tokens: 100 now, None in the run before" in caplog.text


def test_out_of_memory_halves_and_loses_nothing(backbone, monkeypatch, caplog):
    texts = some_texts(30)
    tokens, _ = encode(backbone.tokenizer, texts, 32)
    specs = {"fwd_up": backbone.spec(top_k=8, max_length=32)}
    expected = token_nags(backbone, tokens, specs, 1000)["fwd_up"]
    original = Backbone.start_nags

    def small_device(self, batch, *args, **kwargs):
        if len(batch.input_ids) > 100:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, batch, *args, **kwargs)

    monkeypatch.setattr(Backbone, "start_nags", small_device)
    np.testing.assert_array_equal(token_nags(backbone, tokens, specs, 1000)["fwd_up"], expected)
    assert "halving" in caplog.text


def test_out_of_memory_halves_under_act_grad_too(backbone, monkeypatch, caplog):
    texts = some_texts(30)
    tokens, _ = encode(backbone.tokenizer, texts, 32)
    specs = {"fwd_up": backbone.spec(top_k=8, max_length=32, impact="act_grad")}
    expected = token_nags(backbone, tokens, specs, 1000)["fwd_up"]
    original = ops.swiglu_backward

    def small_device(gate_up, *args, **kwargs):
        if len(gate_up) > 100:  # on the way back, with the activations of all layers still held
            raise torch.OutOfMemoryError("out of memory")
        return original(gate_up, *args, **kwargs)

    monkeypatch.setattr(ops, "swiglu_backward", small_device)
    np.testing.assert_array_equal(token_nags(backbone, tokens, specs, 1000)["fwd_up"], expected)
    assert "halving" in caplog.text


def test_act_grad_takes_as_many_tokens_as_fit(backbone, monkeypatch):
    monkeypatch.setattr(gradients.env, "memory_budget", lambda: 600 * gradients.saved_bytes_per_token(backbone))
    assert default_batch_tokens(backbone, "projection") == 2048
    assert default_batch_tokens(backbone, "act_grad") == 512
    sizes = []
    whole = gradients.start_act_grad_nags
    monkeypatch.setattr(
        "nagfast.extraction.start_act_grad_nags",
        lambda b, batch, *a: sizes.append(len(batch.input_ids)) or whole(b, batch, *a),
    )
    extract(some_texts(120), backbone, top_k=8, max_length=32, impact="act_grad")
    assert 400 < max(sizes) <= 512


def test_act_grad_goes_through_the_same_store(pool, tmp_path, backbone):
    summary = run_extract(config(pool, tmp_path / "s", impact="act_grad"), backbone)
    assert summary.documents == 97
    store = NagStore.open(tmp_path / "s")
    assert store.spec.impact == "act_grad"
    _, nags = store.read()
    assert nags.empty.tolist() == (nags.tokens < 2).tolist()


def test_act_grad_scores_like_any_impact_and_does_not_mix(backbone):
    texts = some_texts(40)
    settings = {"top_k": 8, "max_length": 32}
    nags = extract(texts, backbone, impact="act_grad", **settings)
    profile = TargetProfile.fit(nags)
    scores = Scorer(backbone, profile).score(texts)
    np.testing.assert_array_equal(scores, profile.similarity(nags))
    assert (scores[nags.empty] == 0).all()
    with pytest.raises(SpecMismatchError, match="impact"):
        profile.similarity(extract(texts, backbone, **settings))


def test_several_neuron_types_in_one_store(pool, tmp_path, backbone):
    run_extract(config(pool, tmp_path / "s", neurons="fwd_up,att_q"), backbone)
    store = NagStore.open(tmp_path / "s")
    assert list(store.specs) == ["fwd_up", "att_q"]
    assert store.specs["att_q"].num_neurons == 64


def test_texts_must_be_strings(backbone):
    with pytest.raises(ArgumentError, match="item 1 is a NoneType"):
        extract(["a", None], backbone)
    assert len(extract([], backbone, top_k=3)) == 0
