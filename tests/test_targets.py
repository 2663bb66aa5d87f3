"""Target profiles: exact against the reference definitions, round trips, and refusals."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nagfast import reference
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.schema import NagBatch, NagSpec
from nagfast.store import NagStore, StoreWriter
from nagfast.targets import TargetProfile, stack_tables

SPEC = NagSpec("0123456789abcdef", num_layers=3, num_neurons=50, top_k=5, tokenizer="t", backbone="tiny")
WIDE = replace(SPEC, num_neurons=70_000)
BACKENDS = ("reference", "cpp", "auto")


def nags(n, seed=0, spec=SPEC, empty=()):
    rng = np.random.default_rng(seed)
    scores = rng.random((n, spec.num_layers, min(spec.num_neurons, 400))) ** 3  # uneven: ties and common neurons
    indices = np.argsort(scores + np.linspace(1, 0, scores.shape[-1]), axis=-1)[..., : spec.top_k]
    indices = indices.astype(spec.index_dtype)
    indices[list(empty)] = spec.sentinel
    tokens = np.full(n, 7, np.int32)
    tokens[list(empty)] = 0
    return NagBatch(indices, tokens, spec)


def store(path, batch, kept=None):
    writer = StoreWriter(path, {batch.spec.neuron_type: batch.spec}, keep=kept.column_names if kept else ())
    half = len(batch) // 2
    for i, rows in enumerate((slice(0, half), slice(half, None))):
        docids = [f"d{j:03d}" for j in range(len(batch))][rows]
        part = kept.slice(rows.start, len(docids)) if kept else None
        writer.write(f"s{i}", docids, batch.tokens[rows], {batch.spec.neuron_type: batch.indices[rows]}, part, {"i": i})
    return NagStore.open(path)


@pytest.mark.parametrize("spec", [SPEC, WIDE], ids=["uint16", "uint32"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_similarity_is_the_reference_sum_divided_once(spec, backend):
    target, pool = nags(40, 1, spec, empty=[3]), nags(30, 2, spec, empty=[0, 29])
    profile = TargetProfile.fit(target)
    assert profile.num_targets == 39
    sums = reference.integer_sums(pool.indices, profile.counts)
    assert profile.similarity(pool, backend=backend).tolist() == (sums / (3 * 39 * 5)).tolist()
    plain = reference.similarity(pool.indices, profile.weights)
    np.testing.assert_allclose(profile.similarity(pool), plain, atol=1e-12)
    assert profile.similarity(pool)[[0, 29]].tolist() == [0, 0]
    assert profile.distance(pool)[0] == 1
    assert profile.similarity(pool.indices).tolist() == profile.similarity(pool).tolist()


@pytest.mark.parametrize("power", [0.5, 2.0, 3.7])
def test_powers_stay_within_the_fixed_point(power):
    profile = TargetProfile.fit(nags(40, 1), power)
    pool = nags(200, 2)
    exact = reference.similarity(pool.indices, reference.profile_weights(profile.counts, power))
    np.testing.assert_allclose(profile.similarity(pool), exact, atol=SPEC.top_k * 2.0**-32, rtol=0)
    assert profile.table()[0].dtype == np.uint32


def test_a_weight_of_one_fits_the_table():
    one = replace(SPEC, top_k=1)
    batch = NagBatch(np.full((4, 3, 1), 7, np.uint16), np.ones(4, np.int32), one)
    assert TargetProfile.fit(batch, 2.0).similarity(batch) == pytest.approx([1.0] * 4, abs=1e-9)
    assert TargetProfile.fit(batch).similarity(batch).tolist() == [1.0] * 4


def test_identical_documents_have_similarity_one():
    one = nags(1)
    assert TargetProfile.fit(one).similarity(one).tolist() == [1.0]
    assert TargetProfile.fit(one).distance(one).tolist() == [0.0]


def test_many_targets_take_a_wider_table():
    profile = TargetProfile.fit(nags(3))
    many = TargetProfile(profile.counts * 30_000, 90_000, SPEC)
    assert many.table()[0].dtype == np.uint32
    assert many.similarity(nags(9)).tolist() == profile.similarity(nags(9)).tolist()
    edge = TargetProfile(profile.counts * 21_845, 65_535, SPEC)
    assert edge.table()[0].dtype == np.uint16


def test_k_is_lowered_never_raised():
    wide = nags(20, 1)
    low = wide.with_top_k(2)
    profile = TargetProfile.fit(low)
    assert profile.similarity(nags(9)).tolist() == profile.similarity(nags(9).with_top_k(2)).tolist()
    assert profile.similarity(nags(9).indices).tolist() == profile.similarity(nags(9)).tolist()
    with pytest.raises(SpecMismatchError, match=r"K=5.*K=2|counts K=5.*hold 2.*--top-k 2"):
        TargetProfile.fit(wide).similarity(low)
    with pytest.raises(SpecMismatchError, match="at least 5"):
        TargetProfile.fit(wide).similarity(low.indices)


def test_other_identities_are_refused_with_both_named():
    profile = TargetProfile.fit(nags(5))
    other = nags(5, spec=replace(SPEC, fingerprint="ffffffffffffffff", backbone="other"))
    with pytest.raises(SpecMismatchError, match=r"tiny.*other.*fingerprint"):
        profile.similarity(other)
    with pytest.raises(SpecMismatchError):
        profile.similarity(np.zeros((2, 4, 5), np.uint16))


def test_no_targets_is_an_error(tmp_path):
    with pytest.raises(ArgumentError, match="empty target set"):
        TargetProfile.fit(nags(0))
    with pytest.raises(ArgumentError, match="none of the 2 documents"):
        TargetProfile.fit(nags(2, empty=[0, 1]))
    with pytest.raises(ArgumentError, match=r"empty target set.*where nag_tokens > 99"):
        TargetProfile.from_store(store(tmp_path / "s", nags(6)), where="nag_tokens > 99")


def test_from_store_streams_to_the_same_profile(tmp_path):
    batch = nags(21, 4, empty=[2, 20])
    kept = pa.table({"dataset": ["math" if i % 3 else "law" for i in range(21)]})
    found = store(tmp_path / "s", batch, kept)
    whole = TargetProfile.from_store(found)
    assert (whole.counts == TargetProfile.fit(batch).counts).all()
    assert whole.provenance["without_nag"] == 2
    rows = [i for i in range(21) if i % 3]
    part = NagBatch(batch.indices[rows], batch.tokens[rows], SPEC)
    math = TargetProfile.from_store(found, where="dataset = 'math'", top_k=3)
    assert (math.counts == TargetProfile.fit(part.with_top_k(3)).counts).all()
    assert math.provenance["where"] == "dataset = 'math'"


def test_from_store_joins_a_payload(tmp_path):
    batch = nags(20, 4)
    found = store(tmp_path / "s", batch, pa.table({"kind": ["a", "b"] * 10}))
    payload = {"id": [f"d{i:03d}" for i in range(19)], "year": list(range(19)), "kind": ["z"] * 19}
    pq.write_table(pa.table(payload), tmp_path / "p.parquet")
    options = {"payload": tmp_path / "p.parquet", "id_column": "id"}
    some = TargetProfile.from_store(found, where="year >= 10 AND kind = 'a'", **options)
    rows = [i for i in range(10, 19) if i % 2 == 0]
    assert (some.counts == TargetProfile.fit(NagBatch(batch.indices[rows], batch.tokens[rows], SPEC)).counts).all()
    assert TargetProfile.from_store(found, **options).num_targets == 19
    with pytest.raises(ArgumentError, match=r"where: 'colour = 1'.*year"):
        TargetProfile.from_store(found, where="colour = 1", **options)
    with pytest.raises(ArgumentError, match="where"):
        TargetProfile.from_store(found, where=f"year IN (SELECT year FROM '{tmp_path / 'p.parquet'}')", **options)
    with pytest.raises(ArgumentError, match="no column 'docid'"):
        TargetProfile.from_store(found, payload=tmp_path / "p.parquet")


def test_a_payload_of_json_lines_with_values_of_several_types_joins(tmp_path):
    batch = nags(6, 4)
    docids = ["b-3", "7", str(2**64 + 1), "-1", "x", "y"]
    writer = StoreWriter(tmp_path / "s", {SPEC.neuron_type: SPEC})
    writer.write("s0", docids, batch.tokens, {SPEC.neuron_type: batch.indices}, None, {})
    rows = zip(["b-3", 7, 2**64 + 1, -1], ["law", 3, "law", "math"], strict=True)
    text = "".join(json.dumps({"docid": docid, "kind": kind}) + "\n" for docid, kind in rows)
    (tmp_path / "p.jsonlines").write_text(text)
    found = NagStore.open(tmp_path / "s")
    for where, want in ((None, [0, 1, 2, 3]), ("kind = 'law'", [0, 2]), ("kind = '3'", [1])):
        profile = TargetProfile.from_store(found, where=where, payload=tmp_path / "p.jsonlines")
        assert (
            profile.counts == TargetProfile.fit(NagBatch(batch.indices[want], batch.tokens[want], SPEC)).counts
        ).all()


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_saved_profiles_come_back(tmp_path, power):
    profile = TargetProfile.fit(nags(12), power)
    profile.save(tmp_path / "a.npz")
    profile.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = TargetProfile.load(tmp_path / "a.npz")
    assert (again.counts == profile.counts).all()
    assert (again.spec, again.power, again.num_targets) == (profile.spec, power, 12)
    assert again.provenance == profile.provenance
    assert again.similarity(nags(9)).tolist() == profile.similarity(nags(9)).tolist()


def rewrite(path, **changes):
    with np.load(path, allow_pickle=False) as found:
        members = dict(found)
    members |= changes
    np.savez(path, **{k: v for k, v in members.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": None}, "it has no counts"),
        ({"counts": np.zeros((3, 51), np.int64)}, "counts is int64"),
        ({"counts": np.zeros((3, 50), np.int32)}, "counts is int32"),
        ({"counts": np.zeros((3, 50), np.int64)}, "layer 0 sums to 0"),
        ({"counts": np.full((3, 50), -1)}, "outside"),
        ({"counts": np.array([[object()]], dtype=object)}, "counts is object"),
        ({"weights": np.zeros((3, 50))}, "do not follow"),
        ({"num_targets": np.array(0)}, "num_targets"),
        ({"power": np.array(np.nan)}, "power"),
        ({"format": np.array("something else")}, "format"),
        ({"spec": np.array("{}")}, "missing"),
        ({"spec": np.array("not json")}, "damaged"),
        ({"spec": np.array(json.dumps(replace(SPEC, top_k=4).to_dict()))}, "sums to"),
        ({"provenance": np.array("[]")}, "provenance"),
    ],
)
def test_damaged_profiles_are_refused(tmp_path, changes, message):
    path = tmp_path / "p.npz"
    TargetProfile.fit(nags(12)).save(path)
    rewrite(path, **changes)
    with pytest.raises(ArgumentError, match=message) as caught:
        TargetProfile.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_and_cut_files_are_refused(tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(ArgumentError, match="no such file"):
        TargetProfile.load(path)
    TargetProfile.fit(nags(12)).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], whole[:100] + bytes(50) + whole[150:]):
        path.write_bytes(damaged)
        with pytest.raises(ArgumentError, match=r"p\.npz"):
            TargetProfile.load(path)


def test_stacked_tables_keep_their_columns():
    profiles = [TargetProfile.fit(nags(n, n)) for n in (3, 8)] + [TargetProfile.fit(nags(4), 2.0)]
    table, denominators = stack_tables(profiles)
    assert table.dtype == np.uint32
    assert table.shape == (3, 50, 3)
    assert denominators.tolist() == [3 * 3 * 5, 3 * 8 * 5, 3 * 2**32]
    assert stack_tables(profiles[:2])[0].dtype == np.uint16
    with pytest.raises(SpecMismatchError, match="K=5 and K=2"):
        stack_tables([profiles[0], TargetProfile.fit(nags(3).with_top_k(2))])
    with pytest.raises(ArgumentError, match="got none"):
        stack_tables([])
