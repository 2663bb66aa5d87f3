"""The command line from text to a selected corpus, in process; exit codes and one-line errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_cases import GOLDEN
from test_extraction import some_texts

from nagfast import config as configs
from nagfast.cli import COMMANDS, build_parser, main

MODEL = str(GOLDEN / "qwen3" / "model")
EXTRACT = ("--backbone", MODEL, "--top-k", "8", "--max-length", "32", "--dtype", "float32")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Stores of a pool and a target, a profile and scores, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    texts = some_texts(60)
    ids = [f"d{i:02d}" for i in range(60)]
    domains = ["even" if i % 2 == 0 else "odd" for i in range(60)]
    pool = pa.table({"docid": ids, "doc": texts, "dataset": domains, "score": [i / 60 for i in range(60)]})
    pq.write_table(pool, folder / "pool.parquet")
    lines = [json.dumps({"docid": f"t{i}", "doc": t, "kind": "ab"[i % 2]}) for i, t in enumerate(some_texts(9, 4))]
    (folder / "target.jsonl").write_text("\n".join(lines))
    run = [str(folder / "pool.parquet"), "--out", str(folder / "pool"), "--keep", "dataset", "--count-tokens"]
    assert main(["extract", *run, *EXTRACT]) == 0
    run = [str(folder / "target.jsonl"), "--out", str(folder / "target"), "--keep", "kind"]
    assert main(["extract", *run, *EXTRACT]) == 0
    assert main(["profile", str(folder / "target"), "--out", str(folder / "p.npz")]) == 0
    scores = ["score", str(folder / "pool"), "--profile", str(folder / "p.npz"), "--out", str(folder / "s.parquet")]
    assert main(scores) == 0
    return folder


def test_scores_hold_what_the_store_kept(work):
    table = pq.read_table(work / "s.parquet")
    assert table.column_names == ["docid", "nag_distance", "dataset", "token_num"]
    assert len(table) == 60


def test_select_takes_the_token_counts_of_the_store(work, capsys):
    payload = ["--payload", str(work / "pool.parquet")]
    assert (
        main(["select", str(work / "s.parquet"), *payload, "--fraction", "0.3", "--out", str(work / "o.parquet")]) == 0
    )
    assert "of 60 documents" in capsys.readouterr().out
    chosen = pq.read_table(work / "o.parquet")
    distances = chosen["nag_distance"].to_pylist()
    assert distances == sorted(distances) and 0 < len(chosen) < 60
    counts = dict(zip(*(pq.read_table(work / "s.parquet")[c].to_pylist() for c in ("docid", "token_num")), strict=True))
    spent = sum(counts[d] for d in chosen["docid"].to_pylist())
    assert spent <= int(0.3 * sum(counts.values()))


@pytest.mark.parametrize("unit", ["bytes", "documents"])
def test_rank_does_it_in_one_command(work, unit):
    flags = ["--target", str(work / "target"), "--payload", str(work / "pool.parquet"), "--unit", unit]
    assert main(["rank", str(work / "pool"), *flags, "--budget", "10", "--out", str(work / f"{unit}.parquet")]) == 0
    chosen = pq.read_table(work / f"{unit}.parquet")
    assert len(chosen) == (10 if unit == "documents" else 1)


def test_quality_and_several_targets(work, capsys):
    for kind in "ab":
        where = ["--where", f"kind = '{kind}'"]
        assert main(["profile", str(work / "target"), *where, "--out", str(work / f"{kind}.npz")]) == 0
    both = ["--profile", str(work / "a.npz"), "--profile", str(work / "b.npz")]
    assert main(["score", str(work / "pool"), *both, "--out", str(work / "ab.parquet")]) == 0
    assert pq.read_schema(work / "ab.parquet").names[1:3] == ["nag_distance_a", "nag_distance_b"]
    select = ["select", str(work / "ab.parquet"), "--payload", str(work / "pool.parquet"), "--unit", "documents"]
    assert main([*select, "--fraction", "0.5", "--refill", "--out", str(work / "multi.parquet")]) == 0
    docids = pq.read_table(work / "multi.parquet")["docid"].to_pylist()
    assert len(docids) == len(set(docids)) == 30
    select[1] = str(work / "s.parquet")
    flags = ["--fraction", "0.5", "--quality", "score", "--higher-is-better", "--out", str(work / "q.parquet")]
    assert main([*select, *flags]) == 0
    assert "combined_score" in pq.read_schema(work / "q.parquet").names


def test_analysis_commands(work, capsys):
    assert main(["explain", str(work / "pool"), "--profile", str(work / "p.npz"), "--docid", "d07"]) == 0
    assert "d07: similarity 0." in capsys.readouterr().out
    assert main(["deactivate", str(work / "p.npz"), "--out", str(work / "keys.json")]) == 0
    assert {k: len(v) for k, v in json.loads((work / "keys.json").read_text()).items()} == {"0": 8, "1": 8, "2": 8}
    assert main(["tsne", str(work / "pool"), "--out", str(work / "map.png"), "--perplexity", "5"]) == 0
    assert (work / "map.png").read_bytes().startswith(b"\x89PNG")
    payload = ["--payload", str(work / "pool.parquet")]
    select = ["select", str(work / "s.parquet"), *payload, "--fraction", "0.3", "--out", str(work / "r.parquet")]
    assert main(select) == 0
    flags = ["--profile", str(work / "p.npz"), "--selection", str(work / "r.parquet"), "--out", str(work / "r.html")]
    assert main(["report", str(work / "pool"), *payload, *flags]) == 0
    assert "</html>" in (work / "r.html").read_text()
    assert main(["doctor"]) == 0
    assert "instruction sets here: scalar" in capsys.readouterr().out


def test_a_profile_of_a_larger_k_is_refused(work, capsys):
    run = [str(work / "pool.parquet"), "--out", str(work / "small"), *EXTRACT]
    run[run.index("8")] = "4"
    assert main(["extract", *run]) == 0
    capsys.readouterr()
    flags = ["--profile", str(work / "p.npz"), "--out", str(work / "no.parquet")]
    assert main(["score", str(work / "small"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "K=8" in error and "--top-k" in error
    assert not (work / "no.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["extract"], "required: INPUT"),
        (["extract", "in", "--out", "o", "--top-k", "0"], "--top-k: got 0"),
        (["extract", "in", "--out", "o", "--neurons", "fwd_sideways"], "fwd_sideways"),
        (["extract", "in", "--out", "o", "--top-k", "5", "--top-ratio", "0.1"], "give one of the two"),
        (["extract", "no/such/file.parquet", "--out", "o"], "no/such/file.parquet"),
        (["profile", "no-such-store", "--out", "p.npz"], "no-such-store"),
        (["score", "no-such-store", "--profile", "p.npz", "--out", "o"], "p.npz"),
        (["select", "s.parquet", "--payload", "p", "--out", "o"], "--fraction or --budget"),
        (["select", "s.parquet", "--payload", "p", "--out", "o", "--fraction", "1.5"], "--fraction: got 1.5"),
        (["select", "s.parquet", "--payload", "p", "--out", "o", "--fraction", "1", "--unit", "lines"], "lines"),
        (["fly"], "fly"),
        (["profile", "s", "--out", "p.npz", "--neuron-type", "foo"], "--neuron-type: got 'foo'"),
        (["demo", "--threads", "0"], "--threads: got 0"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unexpected_error_is_one_line_too(monkeypatch, capsys):
    def fail(_config):
        raise RuntimeError("out of\nluck")

    monkeypatch.setitem(COMMANDS, "doctor", (configs.DoctorConfig, fail))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == (
        "nagfast doctor: RuntimeError: out of luck; nagfast --debug doctor ... shows where\n"
    )
    with pytest.raises(RuntimeError):
        main(["--debug", "doctor"])


def test_bad_rows_exit_3(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"docid": "a", "doc": "one two"}\n{"docid": "b", "doc": null}\n')
    assert main(["extract", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "s"), *EXTRACT]) == 3
    assert "quarantined: 1 rows" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_an_error_and_the_rerun_finishes(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        texts = some_texts(3000)
        pq.write_table(pa.table({"docid": [f"d{i}" for i in range(3000)], "doc": texts}), tmp_path / "in.parquet")
        command = [sys.executable, "-m", "nagfast.cli", "extract", str(tmp_path / "in.parquet"), *EXTRACT]
        command += ["--out", str(disk / "store"), "--shard-rows", "500", "--threads", "1"]
        full = subprocess.run(command, capture_output=True, text=True, check=False)
        assert full.returncode == 1
        last = full.stderr.strip().splitlines()[-1]
        assert last.startswith("nagfast extract: ") and "No space left" in last
        whole = sorted(p.name for p in (disk / "store").glob("*.parquet"))
        assert whole and not [p for p in (disk / "store").iterdir() if p.name.startswith(".")]
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"{6 - len(whole)} shards written, {len(whole)} were there" in again.stdout
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_every_option_has_help():
    for config, _ in COMMANDS.values():
        documented = configs.field_help(config)
        assert set(documented) == set(config.__dataclass_fields__)
    assert build_parser().prog == "nagfast"


def test_help_needs_no_torch():
    code = "import sys; from nagfast.cli import build_parser; build_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    import nagfast

    assert len(nagfast.__all__) <= 10
    for name in nagfast.__all__:
        assert getattr(nagfast, name) is not None
    assert callable(nagfast.extract)
    assert Path(nagfast.__file__).name == "__init__.py"
