"""Text -> distances without a store: what extract and score make, to the bit; taken up where it was killed."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_cases import GOLDEN
from test_extraction import some_texts

from nagfast import score_text
from nagfast.backbone import Backbone
from nagfast.cli import main
from nagfast.config import ExtractConfig, ScoreConfig
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.extract_job import run_extract
from nagfast.extraction import extract
from nagfast.ranks import Rank
from nagfast.score_text import run_score_text
from nagfast.scorer import Scorer
from nagfast.scoring import score_store
from nagfast.store import NagStore
from nagfast.targets import TargetProfile

MODEL = str(GOLDEN / "qwen3" / "model")


@pytest.fixture(scope="module")
def backbone():
    return Backbone.load(MODEL, dtype="float32", device="cpu")


@pytest.fixture
def pool(tmp_path):
    """Two files, kept columns of differing types, an empty text, a bad row."""
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [*some_texts(120, 1), "", None]
    ids = [f"p{i:03d}" for i in range(122)]
    pq.write_table(pa.table({"docid": ids, "doc": texts, "n": range(122)}), folder / "z.parquet")
    lines = [json.dumps({"docid": f"j{i}", "doc": t, "n": i + 0.5}) for i, t in enumerate(some_texts(9, 2))]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def targets(backbone, n=3, **more):
    found = {}
    for seed in range(n):
        nags = extract(some_texts(15, 50 + seed), backbone, top_k=8, max_length=24, **more)
        found[f"t{seed}"] = TargetProfile.fit(nags)
    return found


def config(pool, out, **more):
    options = {"keep": "n", "count_tokens": True, "shard_rows": 20} | more
    return ScoreConfig(from_text=(str(pool),), profile=("given",), out=str(out), **options)


def expected(pool, tmp_path, backbone, profiles, **more):
    """The long way: a store, then scores."""
    settings = ExtractConfig(
        inputs=(str(pool),),
        out=str(tmp_path / "store"),
        top_k=8,
        max_length=24,
        keep="n",
        count_tokens=True,
        shard_rows=20,
        **more,
    )
    run_extract(settings, backbone)
    score_store(NagStore.open(tmp_path / "store"), profiles, tmp_path / "long.parquet")
    return pq.read_table(tmp_path / "long.parquet")


@pytest.mark.parametrize(
    ("count", "more"),
    [(1, {}), (3, {}), (2, {"reduction": "l2"}), (2, {"impact": "act_grad"}), (1, {"neurons": "att_o"})],
    ids=str,
)
def test_equal_to_extract_and_score(pool, tmp_path, backbone, count, more):
    profiles = targets(backbone, count, **more)
    found = run_score_text(config(pool, tmp_path / "s.parquet"), profiles, backbone)
    long_way = expected(pool, tmp_path, backbone, profiles, **more)
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.equals(long_way)
    assert (found.documents, found.rows, found.shards, found.quarantined, found.exit_code) == (130, 130, 8, 1, 3)
    distances = np.array(table[table.column_names[1]])
    assert found.empty == sum(d == 1.0 for d in distances) > 0
    record = json.loads(table.schema.metadata[b"nagfast"])
    assert set(record["profiles"]) == set(profiles) and record["text"]["spec"]["top_k"] == 8
    assert not (tmp_path / "s.parquet.parts").exists()
    assert len(list((tmp_path / "s.parquet.quarantine").iterdir())) == 1


def test_several_k_and_powers_in_one_pass(pool, tmp_path, backbone):
    profiles = targets(backbone, 2)
    nags = extract(some_texts(9, 3), backbone, top_k=8, max_length=24)
    profiles |= {"k3": TargetProfile.fit(nags.with_top_k(3)), "squared": TargetProfile.fit(nags, 2.0)}
    run_score_text(config(pool, tmp_path / "s.parquet"), profiles, backbone)
    assert pq.read_table(tmp_path / "s.parquet").equals(expected(pool, tmp_path, backbone, profiles))


def test_one_profile_never_makes_a_nag(backbone, monkeypatch):
    profile = targets(backbone, 1)["t0"]
    texts = [*some_texts(50, 9), ""]
    whole = profile.similarity(extract(texts, backbone, top_k=8, max_length=24))
    monkeypatch.setattr(Backbone, "start_nags", None)
    for batch_tokens in (None, 60):
        found = Scorer(backbone, profile, batch_tokens=batch_tokens).score(iter(texts))
        assert found.tolist() == whole.tolist()


def test_a_run_that_stops_is_taken_up(pool, tmp_path, backbone, monkeypatch):
    out, profiles = tmp_path / "s.parquet", targets(backbone)
    run_score_text(config(pool, tmp_path / "whole.parquet"), profiles, backbone)
    write = score_text._Parts.write
    written = []

    def stops(self, shard, distances):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(shard.name)
        write(self, shard, distances)

    monkeypatch.setattr(score_text._Parts, "write", stops)
    with pytest.raises(KeyboardInterrupt):
        run_score_text(config(pool, out), profiles, backbone)
    monkeypatch.undo()
    assert not out.exists()
    assert len(list((tmp_path / "s.parquet.parts").glob("*.parquet"))) == 3
    damaged = sorted((tmp_path / "s.parquet.parts").glob("*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    summary = run_score_text(config(pool, out), profiles, backbone)
    assert (summary.resumed, summary.shards, summary.rows) == (2, 6, 130)
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not (tmp_path / "s.parquet.parts").exists()


def test_parts_of_another_profile_are_made_again(pool, tmp_path, backbone, monkeypatch):
    first, second = (dict([item]) for item in targets(backbone, 2).items())
    second = {"t0": second["t1"]}  # the same name, another target
    monkeypatch.setattr(score_text._Parts, "join", lambda *_: 0)
    run_score_text(config(pool, tmp_path / "s.parquet"), first, backbone)
    monkeypatch.undo()
    summary = run_score_text(config(pool, tmp_path / "s.parquet"), second, backbone)
    assert (summary.resumed, summary.shards) == (0, 8)
    assert pq.read_table(tmp_path / "s.parquet").equals(expected(pool, tmp_path, backbone, second))


def test_several_processes_write_a_file_each(pool, tmp_path, backbone):
    profiles = targets(backbone, 1)
    found = [run_score_text(config(pool, tmp_path / "s.parquet"), profiles, backbone, Rank(r, 2)) for r in range(2)]
    assert [s.out.rsplit("/", 1)[1] for s in found] == ["s-00000-of-00002.parquet", "s-00001-of-00002.parquet"]
    assert [s.exit_code for s in found] == [0, 0] and sum(s.quarantined for s in found) == 1
    table = pa.concat_tables([pq.read_table(s.out) for s in found], promote_options="permissive").sort_by("docid")
    run_score_text(config(pool, tmp_path / "one.parquet"), profiles, backbone)
    one = pq.read_table(tmp_path / "one.parquet").sort_by("docid")
    assert table.equals(one)
    assert not list(tmp_path.glob("*.parts"))


def test_what_does_not_fit_is_refused(pool, tmp_path, backbone):
    profiles = targets(backbone, 1)
    with pytest.raises(ArgumentError, match=r"--keep: 'nag_distance'"):
        run_score_text(config(pool, tmp_path / "s.parquet", keep="nag_distance"), profiles, backbone)
    other = TargetProfile(
        profiles["t0"].counts, profiles["t0"].num_targets, replace(profiles["t0"].spec, fingerprint="other")
    )
    with pytest.raises(SpecMismatchError, match="profile x .*the backbone"):
        run_score_text(config(pool, tmp_path / "s.parquet"), {"x": other}, backbone)
    assert not list(tmp_path.glob("s.parquet*"))


def test_the_command(pool, tmp_path, backbone, capsys):
    profile = targets(backbone, 1)["t0"]
    profile.save(tmp_path / "t.npz")
    run = ["score", "--profile", str(tmp_path / "t.npz"), "--out", str(tmp_path / "s.parquet")]
    text = ["--from-text", str(pool / "z.parquet"), str(pool / "a.jsonl"), "--backbone", MODEL, "--dtype", "float32"]
    assert main([*run, *text, "--keep", "n"]) == 3
    said = capsys.readouterr().out
    assert "130 documents scored against t" in said and "quarantined: 1 rows" in said
    assert pq.read_schema(tmp_path / "s.parquet").names == ["docid", "nag_distance", "n"]
    for wrong, says in (
        ([], "STORE or --from-text: give one of the two"),
        (["store", "--from-text", "x"], "STORE or --from-text: give one of the two"),
        (["store", "--keep", "n"], "--keep: belongs to --from-text"),
    ):
        assert main([*run, *wrong]) == 2
        assert says in capsys.readouterr().err
