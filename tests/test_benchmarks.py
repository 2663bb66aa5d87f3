"""The harness: refuses wrong results, takes ratios pair by pair, writes whole records; every benchmark runs small."""

import json
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nagfast import reference, reference_sets
from nagfast.benchmarks import (
    breakdown,
    ceilings,
    documents,
    harness,
    invariance,
    nag_data,
    native,
    separation,
    shapes,
    tables,
)
from nagfast.benchmarks.__main__ import main
from nagfast.benchmarks.baselines import gathered_similarity, pad_left

FIELDS = {
    "benchmark", "variant", "baseline", "params", "date", "rounds", "repeats", "seconds", "samples", "rates", "bytes",
    "GB/s", "ratio", "check", "found", "input_sha256", "peak_rss_bytes", "notes", "machine",
    "device", "error", "TFLOP/s", "ceilings", "mfu", "of_ceiling", "peak_device_bytes",
}  # fmt: skip


def make(passed=True, **more):
    calls = []
    variants = {"slow": lambda i: calls.append(("slow", i)), "fast": lambda i: calls.append(("fast", i))}
    check = lambda: harness.Check(passed, {"overlap": 0.5})  # noqa: E731
    return calls, harness.Benchmark(name="toy", variants=variants, check=check, units={"documents": 2.0}, **more)


def test_nothing_runs_when_the_check_fails():
    calls, benchmark = make(passed=False)
    with pytest.raises(harness.CheckFailedError, match=r"toy: refused to time.*0\.5"):
        harness.run(benchmark)
    assert calls == []


def test_variants_are_interleaved_and_inputs_rotate():
    calls, benchmark = make()
    records = harness.run(benchmark, rounds=3, warmup=0)
    assert calls == [(name, i) for i in range(3) for name in ("slow", "fast")]
    assert [len(r["samples"]) for r in records] == [3, 3]


def test_ratio_is_taken_pair_by_pair():
    # Drift: the machine gets four times slower; every pair still says 2, the medians alone would not.
    slow, fast = [2.0, 4.0, 8.0, 3.0], [1.0, 2.0, 4.0, 1.5]
    assert harness.pair_ratios(slow, fast) == {"median": 2.0, "p20": 2.0, "p80": 2.0}
    with pytest.raises(ValueError, match="shorter"):
        harness.pair_ratios([1.0, 2.0], [1.0])


def test_record_arithmetic(monkeypatch):
    ticks = iter([0.0, 2.0, 10.0, 10.5] * 3)
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(ticks))
    _, benchmark = make(bytes_per_call={"fast": 1e9}, params={"threads": 1}, input_hash="abc", notes=["a note"])
    slow, fast = harness.run(benchmark, rounds=3, warmup=0)
    assert set(slow) == FIELDS and set(fast) == FIELDS
    assert slow["ratio"]["median"] == 1.0 and fast["ratio"]["median"] == 4.0
    assert slow["rates"]["documents/s"]["median"] == 1.0 and fast["rates"]["documents/s"]["median"] == 4.0
    assert slow["GB/s"] is None and fast["GB/s"]["median"] == 2.0
    assert {"cpu", "cores", "versions", "commit", "dirty"} <= set(fast["machine"])
    text = tables.table([slow, fast])
    assert "4.00x" in text and "note: a note" in text and "overlap=0.5" in text


def test_short_calls_are_repeated(monkeypatch):
    clock = {"now": 0.0}

    def call(_i):
        clock["now"] += 0.01

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock["now"])
    benchmark = harness.Benchmark("toy", {"a": call}, lambda: harness.Check(True, {}), {"calls": 1.0})
    (record,) = harness.run(benchmark, rounds=2, warmup=1, min_seconds=0.1)
    assert record["repeats"] == 10
    assert record["seconds"]["median"] == pytest.approx(0.01)


def test_surroundings_are_not_timed(monkeypatch):
    clock = {"now": 0.0}

    @contextmanager
    def around():
        clock["now"] += 5.0
        yield
        clock["now"] += 5.0

    def now():
        clock["now"] += 0.125
        return clock["now"]

    monkeypatch.setattr(harness.time, "perf_counter", now)
    calls, benchmark = make(around={"slow": around})
    slow, _ = harness.run(benchmark, rounds=1, warmup=0)
    assert slow["samples"] == [0.125] and calls


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when")]
)
def test_a_variant_out_of_memory_is_reported_and_the_others_go_on(error):
    def fails(_i):
        raise error

    _, benchmark = make()
    benchmark = replace(benchmark, variants={"slow": fails, "fast": benchmark.variants["fast"]})
    for warmup in (0, 1):
        slow, fast = harness.run(benchmark, rounds=2, warmup=warmup)
        assert slow["error"] == "out of memory" and not slow["samples"] and not slow["rates"]
        assert fast["error"] is None and len(fast["samples"]) == 2 and fast["ratio"] is None
        assert "out of memory" in tables.table([slow, fast])
    benchmark = replace(benchmark, variants={"slow": lambda _i: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        harness.run(benchmark, rounds=1)


def test_a_call_may_do_the_work_of_several(monkeypatch):
    ticks = iter([0.0, 8.0, 10.0, 12.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(ticks))
    _, benchmark = make(work={"slow": 4.0})
    slow, fast = harness.run(benchmark, rounds=1, warmup=0)
    assert slow["samples"] == fast["samples"] == [2.0]


def test_a_budget_ends_the_rounds():
    _, benchmark = make()
    slow, fast = harness.run(benchmark, rounds=5, warmup=0, budget=0.0)
    assert slow["rounds"] == fast["rounds"] == 1


def test_shares_of_what_the_device_reached():
    _, benchmark = make()
    benchmark = replace(
        benchmark,
        variants={"a": lambda _i: time.sleep(0.01)},
        flops_per_call={"a": 1e9},
        bytes_per_call={"a": 1e6},
        ceilings={"a": {"TFLOP/s": 1.0, "GB/s": 0.1}},
    )
    (record,) = harness.run(benchmark, rounds=1)
    seconds = record["seconds"]["median"]
    assert record["mfu"] == pytest.approx(1e9 / seconds / 1e12)
    assert record["of_ceiling"] == pytest.approx(1e6 / seconds / 1e9 / 0.1)
    assert "MFU" in tables.table([record])


def test_tables_fit_the_terminal_and_leave_empty_columns_out():
    _, benchmark = make(params={f"setting_{i}": i for i in range(20)}, notes=["word " * 60])
    text = tables.table(harness.run(benchmark, rounds=1))
    assert max(map(len, text.splitlines())) <= 120
    assert "MFU" not in text and "GB/s" not in text and "peak" not in text


def test_ceilings_are_measured():
    rates = ceilings.measured("cpu", "float32")
    assert rates["TFLOP/s"] > 0 and rates["GB/s"] > 0
    assert "TFLOP/s" not in ceilings.measured("cpu", "float8")


def test_texts_have_the_tokens_they_promise():
    from nagfast.benchmarks import engines

    tokenizer = engines.bundled_tokenizer()
    words = documents.one_token_words(tokenizer)
    assert len(words) > 1000
    sizes = [1, 7, 300]
    for text, size in zip(documents.texts(sizes, words, 0), sizes, strict=True):
        assert len(tokenizer.encode(text, add_special_tokens=False)) == size


def test_lengths_of_documents():
    assert set(documents.draw_sizes("512", 5, 300.0, 0)) == {512}
    web, cut = documents.draw_sizes("web", 5000, 300.0, 0), documents.draw_sizes("web-120", 5000, 300.0, 0)
    assert web.min() >= 1 and web.max() == 2048 and (np.minimum(web, 120) == cut).all()
    a, b = documents.rotating(web[:50], 2, 100)
    assert sorted(map(len, a)) == sorted(map(len, b)) == sorted(web[:50])
    assert documents.mean_context(np.array([3, 1])) == (1 + 2 + 3 + 1) / 4


def test_hash_depends_on_every_input():
    a, b = np.arange(3), np.arange(4)
    assert harness.hash_inputs(a, b) == harness.hash_inputs([a, b]) != harness.hash_inputs(a, b + 1)
    assert len(harness.hash_inputs("text")) == 16


def test_left_padding():
    ids, mask = pad_left([np.array([5, 6, 7]), np.array([8])], pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def clustered(documents=400, noise=0.3, seed=0):
    return nag_data.clustered_nags(documents, 3, 20, 640, clusters=5, noise=noise, seed=seed)


def test_clustered_nags_are_distinct_and_repeat():
    nags = clustered()
    assert nags.dtype == np.uint16
    assert nags.max() < 640
    assert (np.diff(np.sort(nags.astype(np.int64), axis=2), axis=2) > 0).all()
    np.testing.assert_array_equal(nags, clustered())
    assert (nags != clustered(seed=1)).any()


def test_noise_takes_documents_of_a_cluster_apart():
    """Of the pairs of two seeds a fifth share a cluster: in full without noise, not to be told apart with all noise."""
    shared = {
        noise: reference_sets.overlap_counts(clustered(60, noise, 0), clustered(60, noise, 1), 640) / 60
        for noise in (0.0, 0.3, 1.0)
    }
    assert 0.1 < (shared[0.0] == 1).mean() < 0.3
    near = np.sort(shared[0.3].reshape(-1))[-360:]
    assert 0.45 < near.mean() < 0.65
    assert shared[1.0].max() < 0.4


def test_clustered_nags_refuse_wrong_shapes():
    with pytest.raises(ValueError, match="neurons: got 10"):
        nag_data.clustered_nags(5, 2, 20, 10, clusters=2, noise=0.5, seed=0)
    with pytest.raises(ValueError, match=r"noise: got 1\.5"):
        clustered(noise=1.5)


def test_synthetic_nags_are_distinct_and_skewed():
    nags = native.synthetic_nags(200, 3, 20, 640, seed=1)
    assert nags.shape == (200, 3, 20) and int(nags.max()) < 640
    assert all(len(set(row)) == 20 for document in nags.tolist() for row in document)
    counts, _ = reference.profile_counts(nags, 640)
    assert counts.max() > 4 * counts[counts > 0].mean()


def test_gathered_similarity_is_the_definition():
    nags = native.synthetic_nags(50, 3, 5, 100, seed=0)
    counts, _ = reference.profile_counts(nags[:20], 100)
    weights = reference.profile_weights(counts)
    np.testing.assert_allclose(gathered_similarity(nags, weights), reference.similarity(nags, weights), rtol=1e-12)


def test_flops_of_the_largest_shapes_are_twice_their_parameters():
    shape = shapes.SHAPES["qwen3-8b"]
    whole = shape.flops_per_token() + 2.0 * 2 * shape.hidden * shape.neurons + 2.0 * 2 * shape.vocab * shape.hidden
    assert whole / 2 == pytest.approx(8.19e9, rel=0.002)


def read_lines(folder):
    (path,) = Path(folder).glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


SMALL = {
    "extract": "--shape tiny --documents 11 --rounds 2 --batch-tokens 300 --variants padded padded-best hf hf-body "
    "nagfast text score allocator",
    "actgrad": "--shape tiny --layers 2 --documents 9 --rounds 2 --batch-tokens 300",
    "invariance": "--shape tiny --layers 2 --documents 5 --rounds 1 --lengths web-120 --batch-tokens 300",
    "score": "--documents 300 --neurons 640 --targets 40 --rounds 2 --min-seconds 0",
    "topk": "--rows 20 --neurons 640 --rounds 2 --min-seconds 0",
    "swiglu": "--documents 3 --length 40 --neurons 96 --rounds 2",
    "sets": "--targets 2100 --queries 4 --candidates 30 --layers 3 --neurons 640 --rounds 2 --min-seconds 0",
    "minhash": "--documents 60 --layers 3 --neurons 640 --rounds 2 --min-seconds 0",
    "store": "--documents 3000 --layers 3 --neurons 640 --rounds 2 --min-seconds 0",
    "select": "--documents 2000 --rounds 1 --text-bytes 10",
    "tokenize": "--documents 20 --characters 900 --rounds 2 --min-seconds 0",
}


@pytest.mark.parametrize("name", SMALL)
def test_benchmarks_run_small(name, tmp_path, capsys):
    assert main([name, *SMALL[name].split(), "--out", str(tmp_path / "out")]) == 0
    records = read_lines(tmp_path / "out")
    assert all(set(r) == FIELDS and r["benchmark"] == name and r["input_sha256"] for r in records)
    assert all(r["ratio"]["median"] > 0 for r in records)
    if name == "extract":
        assert {r["params"]["lengths"] for r in records} == {"120", "web-120"}
        assert all(r["check"]["overlap_float32"] >= 0.999 for r in records)
        assert all(0 < r["mfu"] == r["of_ceiling"] for r in records)
        for what in ("text to store", "text to scores"):
            assert sum(what in r["variant"] for r in records) == 2
    assert "check" in capsys.readouterr().out


def test_a_breakdown_covers_the_wall_time(tmp_path, capsys):
    arguments = "breakdown --shape tiny --layers 2 --documents 4 --lengths 120 --threads 1 --rounds 1"
    assert main([*arguments.split(), "--out", str(tmp_path / "out")]) == 0
    records = read_lines(tmp_path / "out")
    for record in records:
        groups = record["groups"]
        assert sum(g["share"] for g in groups.values()) == pytest.approx(1.0)
        assert groups["impact"]["calls"] and groups["top-k"]["calls"] and groups["products"]["seconds"] > 0
        assert groups["host gap"]["share"] > -0.05
    assert "nagfast::swiglu_impact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("void flash::flash_fwd_kernel<cutlass::bfloat16_t, 128>", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32", "products"),
        ("swiglu_impact_kernel", "impact"),
        ("segment_impact_finish_kernel", "impact"),
        ("topk_rows_kernel", "top-k"),
        ("add_rms_norm_kernel", "elementwise"),
        ("norm_rotary_kernel", "elementwise"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>", "elementwise"),
        ("Memcpy DtoH (Device -> Pinned)", "copies"),
        ("void at::native::indexSelectLargeIndex", "copies"),
        ("aten::mm", "products"),
        ("aten::view", "other"),
    ],
)
def test_kernels_have_their_group(name, group):
    assert breakdown.group_of(name) == group


def test_packing_that_changes_nags_is_measured():
    a = np.array([[[1, 2]], [[3, 4]]])
    found = invariance.compare(a, np.array([[[2, 1]], [[3, 4]]]))
    assert found == {"indices_differ": 0.5, "documents_differ": 0.5, "overlap": 1.0}


def test_summary_shows_the_newest_result(tmp_path, capsys):
    assert main(["summary", str(tmp_path)]) == 0
    assert "no results" in capsys.readouterr().out
    _, benchmark = make()
    for work in (2.0, 4000.0):
        benchmark = replace(benchmark, units={"tokens": work})
        for record in harness.run(benchmark, rounds=1):
            harness.append_json(tmp_path, "toy", record, "2026-01-01")
    assert main(["summary", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_bfloat16_runs_when_forced(tmp_path, monkeypatch):
    monkeypatch.setattr("nagfast.env.has_bfloat16_matrix", lambda: False)
    small = "extract --shape tiny --documents 3 --rounds 1 --lengths 120 --top-k 5"
    assert main([*small.split(), "--out", str(tmp_path / "a")]) == 0
    assert any("bfloat16 was not measured" in note for r in read_lines(tmp_path / "a") for note in r["notes"])
    monkeypatch.setattr(
        "nagfast.benchmarks.extract.OVERLAP", {"float32": 0.999, "bfloat16": 0.5}
    )  # of five neurons in a narrow random model
    assert main([*small.split(), "--force-bfloat16", "--out", str(tmp_path / "b")]) == 0
    assert {r["variant"] for r in read_lines(tmp_path / "b")} >= {"nagfast float32", "nagfast bfloat16"}


def test_extract_refuses_a_wrong_engine(tmp_path, monkeypatch, capsys):
    from nagfast.benchmarks import engines

    right = engines.token_nags

    def wrong(*arguments):
        found = right(*arguments)
        return {name: (a + 1) % 192 for name, a in found.items()}

    monkeypatch.setattr(engines, "token_nags", wrong)
    code = main(f"extract --shape tiny --documents 3 --rounds 1 --out {tmp_path / 'out'}".split())
    assert code == 1 and not (tmp_path / "out").exists()
    assert "refused to time" in capsys.readouterr().err


def test_roc_auc():
    positive = np.array([True, True, False, False])
    assert separation.roc_auc(positive, np.array([0.9, 0.8, 0.2, 0.1])) == 1.0
    assert separation.roc_auc(positive, np.array([0.9, 0.5, 0.5, 0.1])) == 0.875
    assert separation.roc_auc(positive, np.zeros(4)) == 0.5


@pytest.fixture
def corpus(tmp_path):
    """Two domains of a few documents; the target speaks like the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(path, domain, word, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{word} number {i} of the {word} kind, and more of it" for i in range(rows)]
        docids = [f"{domain}-{path.stem}-{i}" for i in range(rows)]
        pq.write_table(pa.table({"docid": docids, "doc": texts, "dataset": [domain] * rows}), path)

    for domain, word in (("math", "sum"), ("medical", "nerve"), ("science_qa", "rock")):
        write(tmp_path / "corpus/heldout" / f"{domain}.parquet", domain, word, 12)
    for name, word in (("gsm8k_train_500", "sum"), ("medical_500", "nerve"), ("science_qa_500", "rock")):
        write(tmp_path / "corpus/targets" / f"{name}.parquet", "", word, 6)
    return tmp_path / "corpus"


def test_separation_of_obvious_domains(corpus, tmp_path, capsys):
    pytest.importorskip("sklearn")
    model = Path(__file__).parent / "golden" / "qwen3" / "model"
    arguments = [str(corpus), "--backbone", str(model), "--per-domain", "5", "--top-k", "4", "8"]
    assert main(["separation", *arguments, "--max-length", "24", "--out", str(tmp_path / "out")]) == 0
    records = read_lines(tmp_path / "out")
    methods = {r["method"]: r["auc"] for r in records}
    assert {"nag K=4", "nag K=8 random weights", "tf-idf, whole text", "tf-idf, 24 tokens"} <= set(methods)
    assert methods["tf-idf stop words, whole text"] == dict.fromkeys(separation.TARGETS, 1.0)
    assert all(r["documents"] == {"math": 5, "medical": 5, "science_qa": 5} for r in records)
    assert "ROC-AUC" in capsys.readouterr().out


def test_separation_compares_two_impacts(corpus, tmp_path):
    model = Path(__file__).parent / "golden" / "qwen3" / "model"
    arguments = [str(corpus), "--backbone", str(model), "--per-domain", "5", "--top-k", "4", "192", "--only-nags"]
    arguments += ["--max-length", "24", "--impact", "projection", "act_grad"]
    assert main(["separation", *arguments, "--out", str(tmp_path / "out")]) == 0
    records = read_lines(tmp_path / "out")
    assert [r["method"] for r in records] == ["nag K=4", "nag K=192", "nag act_grad K=4", "nag act_grad K=192"]
    assert 0 < records[0]["shared_neurons"]["4"] < 1 == records[0]["shared_neurons"]["192"]
    assert set(records[0]["cost"]) == {"projection", "act_grad"}


def test_command_line_names_the_benchmarks(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name in (*SMALL, "nearest", "separation", "breakdown", "summary"):
        (line,) = [found for found in lines if found.split()[:1] == [name]]
        assert len(line.split()) > 4, line
