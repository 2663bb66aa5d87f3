"""Stored NAGs -> distances: one pass, many profiles, any K; and texts -> similarities."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_targets import SPEC, nags, store

from nagfast.errors import ArgumentError, NagfastError, SpecMismatchError
from nagfast.schema import NagBatch
from nagfast.scorer import Scorer, _chunks
from nagfast.scoring import score_store
from nagfast.targets import TargetProfile


@pytest.fixture
def pool(tmp_path):
    batch = nags(101, 9, empty=[0, 50])
    kept = pa.table({"dataset": [f"k{i % 4}" for i in range(101)], "token_num": pa.array(range(101))})
    return batch, store(tmp_path / "pool", batch, kept)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_one_profile(tmp_path, pool, backend):
    batch, found = pool
    profile = TargetProfile.fit(nags(20, 1))
    summary = score_store(found, {"math": profile}, tmp_path / "s.parquet", rows=7, backend=backend)
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["docid", "nag_distance", "dataset", "token_num"]
    assert table["docid"].to_pylist() == [f"d{i:03d}" for i in range(101)]
    assert table["nag_distance"].to_pylist() == profile.distance(batch).tolist()
    assert table["dataset"].to_pylist()[:5] == ["k0", "k1", "k2", "k3", "k0"]
    assert (summary.documents, summary.empty, summary.columns) == (101, 2, ("nag_distance",))
    assert summary.highest == (1.0,)
    assert summary.lowest == (min(profile.distance(batch)),)
    record = json.loads(table.schema.metadata[b"nagfast"])
    assert record["profiles"]["math"]["num_targets"] == 20
    assert record["stores"][0]["rows"] == 101


def test_several_profiles_of_several_k_in_one_pass(tmp_path, pool):
    batch, found = pool
    profiles = {"a": TargetProfile.fit(nags(20, 1)), "b c": TargetProfile.fit(nags(9, 2).with_top_k(3))}
    profiles |= {f"p{i}": TargetProfile.fit(nags(i + 1, i)) for i in range(40)}
    profiles["squared"] = TargetProfile.fit(nags(20, 1), 2.0)
    summary = score_store([found], profiles, tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    for name, profile in profiles.items():
        assert table[f"nag_distance_{name}"].to_pylist() == profile.distance(batch).tolist(), name
    assert any("K=3 and K=5" in note for note in summary.notes)


def test_several_stores_and_their_columns(tmp_path, pool):
    batch, found = pool
    other = nags(11, 5, spec=replace(SPEC, dtype="bfloat16"))
    second = store(tmp_path / "more", other, pa.table({"dataset": ["x"] * 11, "extra": [1.5] * 11}))
    profile = TargetProfile.fit(nags(20, 1))
    summary = score_store([found, second], {"math": profile}, tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["docid", "nag_distance", "dataset", "token_num", "extra"]
    assert table["token_num"].null_count == 11
    assert table["extra"].null_count == 101
    whole = NagBatch.concatenate([batch, NagBatch(other.indices, other.tokens, SPEC)])
    assert table["nag_distance"].to_pylist() == profile.distance(whole).tolist()
    assert any("bfloat16" in note for note in summary.notes)


def test_what_may_not_be_compared_is_refused_before_anything_is_written(tmp_path, pool):
    _, found = pool
    out = tmp_path / "s.parquet"
    foreign = TargetProfile.fit(nags(5, spec=replace(SPEC, max_length=64)))
    with pytest.raises(SpecMismatchError, match="max_length: 64 against 120"):
        score_store(found, {"a": foreign}, out)
    with pytest.raises(SpecMismatchError, match="profile a .* counts K=6 .* hold 5; .* --top-k 5"):
        score_store(found, {"a": TargetProfile.fit(nags(5, spec=replace(SPEC, top_k=6)))}, out)
    with pytest.raises(ArgumentError, match="neuron types"):
        kinds = {t: TargetProfile.fit(nags(5, spec=replace(SPEC, neuron_type=t))) for t in ("fwd_up", "att_q")}
        score_store(found, kinds, out)
    with pytest.raises(ArgumentError, match="at least one"):
        score_store(found, {}, out)
    named = store(tmp_path / "n", nags(4), pa.table({"nag_distance": [1, 2, 3, 4]}))
    with pytest.raises(ArgumentError, match="'nag_distance'"):
        score_store(named, {"a": TargetProfile.fit(nags(5))}, out)
    assert not out.exists()


def test_an_empty_store_gives_an_empty_file(tmp_path):
    empty = store(tmp_path / "e", nags(0))
    summary = score_store(empty, {"a": TargetProfile.fit(nags(5))}, tmp_path / "s.parquet")
    assert summary.documents == 0
    assert pq.read_table(tmp_path / "s.parquet").column_names == ["docid", "nag_distance"]


def test_scorer_agrees_with_extract_and_streams(golden):
    from nagfast.extraction import extract

    backbone = golden["backbone"]
    texts = [*golden["pool"]["doc"].to_pylist()[:20], ""]
    target = extract(golden["target"]["doc"].to_pylist()[:10], backbone, top_k=8, max_length=48)
    scorer = Scorer(backbone, TargetProfile.fit(target))
    whole = scorer.profile.similarity(extract(texts, backbone, top_k=8, max_length=48))
    assert scorer.score(iter(texts)).tolist() == whole.tolist()
    assert whole[-1] == 0
    assert scorer.score([]).shape == (0,)
    with pytest.raises(ArgumentError, match="one string"):
        scorer.score("text")
    with pytest.raises(ArgumentError, match="item 1 is a int"):
        scorer.score(["a", 3])
    with pytest.raises(SpecMismatchError, match="the backbone"):
        Scorer(backbone, TargetProfile.fit(nags(5)))


def test_scorer_searches_on_the_cpu_what_does_not_fit_the_gpu(golden, monkeypatch, caplog):
    from nagfast.extraction import extract
    from nagfast.search.nearest import NearestTargets

    backbone, texts = golden["backbone"], golden["pool"]["doc"].to_pylist()[:5]
    target = extract(golden["target"]["doc"].to_pylist()[:10], backbone, top_k=8, max_length=48)
    index = NearestTargets.build(target)
    wanted = Scorer(backbone, TargetProfile.fit(target), nearest=index).score_with_nearest(texts)[1]

    def full(self, device):
        raise NagfastError("the bit rows of 10 targets do not fit cuda:0")

    monkeypatch.setattr(NearestTargets, "to", full)
    scorer = Scorer(backbone, TargetProfile.fit(target), nearest=index)
    assert "searched on the CPU (the bit rows of 10 targets do not fit cuda:0)" in caplog.text
    assert scorer.score_with_nearest(texts)[1].tolist() == wanted.tolist()


def test_scorer_tells_the_nearest_target_too(golden):
    from nagfast.extraction import extract
    from nagfast.search.nearest import NearestTargets

    backbone = golden["backbone"]
    texts = [*golden["pool"]["doc"].to_pylist()[:20], ""]
    target = extract(golden["target"]["doc"].to_pylist()[:10], backbone, top_k=8, max_length=48)
    index = NearestTargets.build(target.with_top_k(6))
    scorer = Scorer(backbone, TargetProfile.fit(target), nearest=index)
    similarity, near = scorer.score_with_nearest(iter(texts), k=3, aggregate="mean")
    assert similarity.tolist() == scorer.score(texts).tolist()
    nags = extract(texts, backbone, top_k=8, max_length=48)
    assert near.tolist() == index.search(nags, 3).aggregate("mean").tolist()
    assert near[-1] == 0
    assert [part.shape for part in scorer.score_with_nearest([])] == [(0,), (0,)]
    with pytest.raises(ArgumentError, match="no index"):
        Scorer(backbone, TargetProfile.fit(target)).score_with_nearest(texts)
    with pytest.raises(SpecMismatchError, match="the index"):
        Scorer(backbone, TargetProfile.fit(target), nearest=NearestTargets.build(nags_of_another_model()))


def nags_of_another_model():
    return nags(5)


def test_chunks_are_bounded(monkeypatch):
    monkeypatch.setattr("nagfast.scorer.CHUNK_TEXTS", 3)
    monkeypatch.setattr("nagfast.scorer.CHUNK_CHARACTERS", 10)
    assert [len(c) for c in _chunks(["a"] * 7)] == [3, 3, 1]
    assert [len(c) for c in _chunks(["a" * 9] * 5)] == [2, 2, 1]
