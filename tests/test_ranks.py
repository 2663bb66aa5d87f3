"""Several processes write one store: the same bytes as one process, also where one of them is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_cases import GOLDEN
from test_extraction import some_texts, store_bytes

from nagfast import store_writer
from nagfast.backbone import Backbone
from nagfast.config import ExtractConfig
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.extract_job import run_extract
from nagfast.manifest import read_manifest
from nagfast.quarantine import Quarantine
from nagfast.ranks import Rank
from nagfast.store_writer import StoreWriter

MODEL = str(GOLDEN / "qwen3" / "model")


def test_the_environment_is_read_in_one_place():
    assert Rank.from_environment({}) == Rank(0, 1, 0, 1)
    launched = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert Rank.from_environment(launched) == Rank(5, 8, 1, 4)
    assert Rank.from_environment({"RANK": "1", "WORLD_SIZE": "2"}) == Rank(1, 2, 1, 2)
    assert Rank(5, 8).describe() == "part 6 of 8"


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: got 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: got '0'"),
        ({"WORLD_SIZE": "2"}, "RANK: got ''"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: got '2' in the environment; use 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "-1"}, "LOCAL_RANK: got '-1'"),
    ],
)
def test_a_wrong_environment_is_named(found, says):
    with pytest.raises(ArgumentError, match=says):
        Rank.from_environment(found)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_chunk_is_one_process_s(world):
    ranks = [Rank(r, world) for r in range(world)]
    for source in range(5):
        taken = [[r.rank for r in ranks if r.takes(source, chunk)] for chunk in range(20)]
        assert all(len(t) == 1 for t in taken)
        assert {t[0] for t in taken} == set(range(world))  # one large file is dealt out as well


def test_the_device_is_the_process_s_own(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert Rank(5, 8, 1, 4).device("auto") == "cuda:1"
    assert Rank(5, 8, 1, 4).device("cpu") == "cpu"
    assert Rank().device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the launcher shows each its own
    assert Rank(5, 8, 1, 4).device("auto") == "auto"


def test_the_processes_share_the_processors(monkeypatch):
    monkeypatch.setattr("nagfast.env.cpu_count", lambda: 16)
    for given, rank, threads, found in (
        ({}, Rank(5, 8, 1, 4), None, "4"),
        ({}, Rank(0, 32, 0, 32), None, "1"),
        ({}, Rank(), 3, "3"),
        ({"RAYON_NUM_THREADS": "7"}, Rank(), 3, "7"),
    ):
        monkeypatch.setattr(os, "environ", dict(given))
        rank.share_processors(threads)
        assert os.environ["RAYON_NUM_THREADS"] == found


def test_notes_of_unreadable_files_are_cleared_by_who_wrote_them(tmp_path):
    class Source:
        name, path = "a-00000000", "a.parquet"

    quarantine, ranks = Quarantine(tmp_path), [Rank(r, 2) for r in range(2)]
    for noted, cleared_by in ((ranks[0], ranks[0]), (ranks[1], ranks[1]), (Rank(), ranks[0]), (Rank(5, 8), ranks[0])):
        quarantine.write_file(Source, "damaged", noted)
        for rank in ranks:
            if rank != cleared_by:
                quarantine.clear_file(Source, rank)
        assert quarantine.num_files == 1
        quarantine.clear_file(Source, cleared_by)
        assert quarantine.num_files == 0
    quarantine.write_file(Source, "damaged", ranks[1])
    quarantine.clear_file(Source)
    assert quarantine.num_files == 0


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A file of 20 chunks and one of 3, with a bad row in each."""
    folder = tmp_path_factory.mktemp("ranks") / "in"
    folder.mkdir()
    for name, rows in (("large", 2000), ("small", 300)):
        texts = some_texts(rows, rows)
        texts[rows // 2] = None
        pq.write_table(
            pa.table({"docid": [f"{name}{i}" for i in range(rows)], "doc": texts}), folder / f"{name}.parquet"
        )
    return folder


SETTINGS = {"backbone": MODEL, "top_k": 8, "max_length": 32, "shard_rows": 100, "dtype": "float32"}


def config(pool, out, **more):
    return ExtractConfig(inputs=(str(pool),), out=str(out), **SETTINGS | more)


def start(launcher, pool, out, **environment):
    """The command with SETTINGS in a process of its own."""
    flags = [text for name, value in SETTINGS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [*launcher, "extract", str(pool), "--out", str(out), "--threads", "1", *flags],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def backbone():
    return Backbone.load(MODEL, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def alone(pool, backbone):
    """The store of one process."""
    summary = run_extract(config(pool, pool.parent / "alone"), backbone)
    assert (summary.shards, summary.quarantined, summary.exit_code) == (23, 2, 3)
    return pool.parent / "alone"


def same_store(found, alone):
    assert store_bytes(found) == store_bytes(alone)
    assert (found / "nag.json").read_bytes() == (alone / "nag.json").read_bytes()
    noted = [{p.name: p.read_bytes() for p in (s / "quarantine").iterdir()} for s in (found, alone)]
    assert noted[0] == noted[1]
    assert not list(found.glob(".*"))


def test_one_is_killed_and_torchrun_takes_it_up(pool, alone, backbone, tmp_path):
    """The second of three is killed with -9; the launcher itself, with two, finishes the store."""
    out = tmp_path / "store"
    cli = [sys.executable, "-m", "nagfast.cli"]
    process = start(cli, pool, out, RANK="1", WORLD_SIZE="3", LOCAL_RANK="1")
    deadline = time.monotonic() + 200
    while not list(out.glob("*.parquet")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    summary = run_extract(config(pool, out), backbone, Rank(0, 3))
    assert (summary.shards, summary.resumed, summary.exit_code) == (8, 0, 0)
    left = len(list(out.glob("*.parquet")))
    assert 9 <= left <= 16
    script = Path(sys.executable).parent / "nagfast"
    if not script.exists():
        pytest.skip("the nagfast command is not installed beside this Python")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", str(script)]
    process = start(torchrun, pool, out)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "(part 1 of 2)" in said and "(part 2 of 2)" in said
    assert sum(map(int, re.findall(r"(\d+) shards written", said))) == 23 - left
    same_store(out, alone)


def test_any_number_of_processes_makes_the_same_store(pool, alone, backbone, tmp_path):
    for world in (2, 5):
        out = tmp_path / str(world)
        found = [run_extract(config(pool, out), backbone, Rank(r, world)) for r in reversed(range(world))]
        assert sum(s.documents for s in found) == 2298
        assert sum(s.quarantined for s in found) == 2 and {s.exit_code for s in found} == {0}
        same_store(out, alone)
    lost = sorted(out.glob("*.parquet"))[3:9]
    for path in lost:
        path.unlink()
    found = [run_extract(config(pool, out), backbone, Rank(r, 3)) for r in range(3)]
    assert sum(s.shards for s in found) == 6 and all(s.resumed for s in found)
    same_store(out, alone)
    again = run_extract(config(pool, out), backbone)
    assert (again.shards, again.resumed, again.exit_code) == (0, 23, 3)


def test_only_one_process_may_overwrite(pool, backbone, tmp_path):
    with pytest.raises(ArgumentError, match=r"--overwrite: 2 processes .* remove the folder first"):
        run_extract(config(pool, tmp_path / "store", overwrite=True), backbone, Rank(0, 2))
    assert not (tmp_path / "store").exists()


def test_a_store_of_other_settings_is_refused_by_every_process(pool, alone, backbone):
    before = (alone / "nag.json").read_bytes()
    for rank in range(2):
        with pytest.raises(SpecMismatchError, match="reduction"):
            run_extract(config(pool, alone, reduction="l2"), backbone, Rank(rank, 2))
    assert (alone / "nag.json").read_bytes() == before


def test_the_manifest_is_that_of_the_first(tmp_path, backbone, monkeypatch):
    """Both find an empty folder; the second one then finds the first one's manifest and is held to it."""
    specs = [{"fwd_up": backbone.spec(top_k=k)} for k in (4, 5)]
    write = store_writer.write_manifest

    def late(*args, **kwargs):
        write(tmp_path, specs[0], (), replace=False)
        write(*args, **kwargs)

    monkeypatch.setattr(store_writer, "write_manifest", late)
    with pytest.raises(SpecMismatchError, match="K=4, this run has K=5"):
        StoreWriter(tmp_path, specs[1])
    StoreWriter(tmp_path, specs[0])
    assert read_manifest(tmp_path)[0] == specs[0]
