"""From the published features on, everything downstream agrees with the published outputs.

The reference adds float64 in layer order, so rows that tie exactly are up to 1e-16 apart there: their order, and which
of them makes the cut, is an accident. Nothing else may differ.
"""

import json
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from golden_cases import FAMILIES, GOLDEN, read_golden_features

from nagfast import reference
from nagfast.adapters.reference import main
from nagfast.adapters.reference_files import as_batches
from nagfast.analysis.deactivation import deactivation_keys, load_keys, write_keys
from nagfast.selection import select, select_multi
from nagfast.targets import TargetProfile


class Case:
    """One family: published features as arrays, payload tables and settings; no model is loaded."""

    def __init__(self, family):
        self.folder = GOLDEN / family
        self.settings = json.loads((self.folder / "settings.json").read_text())
        self.features = {part: read_golden_features(family, part) for part in ("pool", "target")}
        self.payload = str(self.folder / "pool" / "*.parquet")
        self.target = pq.read_table(self.folder / "target")
        self.pool = pq.read_table(self.folder / "pool")
        self.docids = list(self.features["pool"])

    def nags(self, feature="fwd_up", dataset=None):
        """Target (of one dataset) and pool NAGs."""
        rows = self.target if dataset is None else self.target.filter(pc.equal(self.target["dataset"], dataset))
        target = [self.features["target"][d][feature] for d in rows["docid"].to_pylist()]
        pool = [self.features["pool"][d][feature] for d in self.docids]
        parts = [np.array(part, np.uint16) for part in (target, pool)]
        return as_batches(parts, f"{feature}_feature")

    def distances(self, feature="fwd_up", dataset=None):
        target, pool = self.nags(feature, dataset)
        return TargetProfile.fit(target).distance(pool)

    def scores(self, path, **columns):
        columns = columns or {"nag_distance": self.distances()}
        pq.write_table(pa.table({"docid": self.docids, **columns}), path)
        return path

    def published(self, name):
        return pq.read_table(self.folder / "selected" / f"{name}.parquet")

    def flags(self):
        return [
            *("--target_features", str(self.folder / "features/target/*.jsonl")),
            *("--target_payload", str(self.folder / "target/*.parquet")),
            *("--num_layers", str(self.settings["num_layers"])),
        ]

    def rank_flags(self, out, fraction):
        return [
            *self.flags(),
            *("--pool_features", str(self.folder / "features/pool/*.jsonl")),
            *("--pool_payload", self.payload),
            *("--top_k", str(self.settings["top_k"])),
            *("--fraction", str(self.settings["fraction"][fraction])),
            *("--output_path", str(out)),
        ]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    return Case(request.param)


def same(found, published, score="nag_distance"):
    """Equal but for the order of exact ties, and for which of the last tie makes the cut."""
    added = [c for c in found.column_names if c not in {"nag_target"}]
    assert added == published.column_names
    ours, theirs = found.to_pylist(), published.to_pylist()
    assert ours

    def groups(rows):
        return [list(part) for _, part in groupby(rows, key=lambda r: round(r[score], 12))]

    def rows_of(part):
        keys = [c for c in published.column_names if c not in {"nag_distance", "combined_score"}]
        return sorted(repr([r[c] for c in keys]) for r in part)

    mine, other = groups(ours), groups(theirs)
    assert len(mine) == len(other)
    for i, (a, b) in enumerate(zip(mine, other, strict=True)):
        assert a[0][score] == pytest.approx(b[0][score], abs=1e-12)
        if i < len(mine) - 1:
            assert rows_of(a) == rows_of(b)
    shared = {r["docid"]: r for r in theirs}
    for row in ours:
        for column in {"nag_distance", "combined_score"} & set(row) if row["docid"] in shared else ():
            assert row[column] == pytest.approx(shared[row["docid"]][column], abs=1e-12)


def test_distances(case):
    published = pq.read_table(case.folder / "distances.parquet")
    want = dict(zip(published["docid"].to_pylist(), published["nag_distance"].to_pylist(), strict=True))
    found = dict(zip(case.docids, case.distances(), strict=True))
    assert set(found) == set(want)
    assert max(abs(found[d] - want[d]) for d in want) < 1e-12


@pytest.mark.parametrize(
    ("name", "fraction"), [("all", "all"), ("math", "per_dataset"), ("report", "per_dataset"), ("att_q", "att_q")]
)
def test_selections(case, tmp_path, name, fraction):
    feature = "att_q" if name == "att_q" else "fwd_up"
    dataset = name if name in {"math", "report"} else None
    distance = case.distances(feature, dataset)
    scores = case.scores(tmp_path / "s.parquet", nag_distance=distance)
    out = tmp_path / "o.parquet"
    summary = select(scores, case.payload, out, fraction=case.settings["fraction"][fraction])
    assert summary.exit_code == 0
    same(pq.read_table(out), case.published(name))
    amounts = dict(zip(*(case.pool[c].to_pylist() for c in ("docid", "token_num")), strict=True))
    share = case.settings["fraction"][fraction]
    want = reference.select(distance, case.docids, [amounts[d] for d in case.docids], share)
    assert pq.read_table(out)["docid"].to_pylist() == [case.docids[i] for i in want]


@pytest.mark.parametrize("inverted", [False, True])
def test_quality_selections(case, tmp_path, inverted):
    out = tmp_path / "o.parquet"
    options = {"quality": "quality", "higher_is_better": inverted}
    select(case.scores(tmp_path / "s.parquet"), case.payload, out, fraction=0.25, **options)
    same(pq.read_table(out), case.published("quality_inverted" if inverted else "quality"), "combined_score")


def test_merged_targets(case, tmp_path):
    """Each published target selects 0.3: together that is a selection of 0.6 for two targets."""
    columns = {f"nag_distance_{name}": case.distances(dataset=name) for name in ("math", "report")}
    out = tmp_path / "o.parquet"
    fraction = 2 * case.settings["fraction"]["per_dataset"]
    select_multi(case.scores(tmp_path / "s.parquet", **columns), case.payload, out, fraction=fraction)
    found = pq.read_table(out)
    for name in ("math", "report"):
        same(found.filter(pc.equal(found["nag_target"], name)), case.published(name))


def keys_agree(found, published, counts):
    """Equal sets but for neurons whose counts tie with the last key's."""
    assert len(found) == len(published)
    for layer, neurons in found.items():
        theirs = published[layer]
        assert len(neurons) == len(theirs)
        assert sorted(counts[layer][neurons]) == sorted(counts[layer][theirs])
        last = counts[layer][neurons].min()
        assert {n for n in neurons if counts[layer][n] > last} == {n for n in theirs if counts[layer][n] > last}


def test_deactivation_keys(case, tmp_path):
    profile = TargetProfile.fit(case.nags()[0])
    published = load_keys(case.folder / "deactivation_keys.json")
    keys_agree(deactivation_keys(profile), published, profile.counts)
    write_keys(profile, tmp_path / "keys.json")
    assert load_keys(tmp_path / "keys.json") == deactivation_keys(profile)


# --- the adapter's command line ---------------------------------------------------------------------------------------


def test_rank_commands(case, tmp_path):
    out = tmp_path / "made" / "o.parquet"
    assert main(["rank", *case.rank_flags(out, "all")]) == 0
    same(pq.read_table(out), case.published("all"))
    assert main(["rank", *case.rank_flags(out, "att_q"), "--feature_col", "att_q_feature"]) == 0
    same(pq.read_table(out), case.published("att_q"))
    for name in ("math", "report"):
        path = tmp_path / f"{name}.parquet"
        assert main(["rank", *case.rank_flags(path, "per_dataset"), "--target_filter", name]) == 0
        same(pq.read_table(path), case.published(name))
    paths = [str(tmp_path / "math.parquet"), str(tmp_path / "report.parquet")]
    assert main(["merge_multitarget", "--input_paths", *paths, "--output_path", str(out)]) == 0
    ours = [pq.read_table(p) for p in paths]
    assert pq.read_table(out).equals(pa.concat_tables(ours).replace_schema_metadata(None))
    assert main(["merge_multitarget", "--input_paths", *paths, "--output_path", str(out), "--deduplicate"]) == 0
    docids = pa.concat_tables(ours)["docid"].to_pylist()
    assert pq.read_table(out)["docid"].to_pylist() == list(dict.fromkeys(docids))


def test_quality_command(case, tmp_path):
    flags = [*case.rank_flags(tmp_path / "o.parquet", "quality"), "--quality_col", "quality"]
    assert main(["rank_with_quality", *flags]) == 0
    same(pq.read_table(tmp_path / "o.parquet"), case.published("quality"), "combined_score")
    assert main(["rank_with_quality", *flags, "--invert_quality"]) == 0
    same(pq.read_table(tmp_path / "o.parquet"), case.published("quality_inverted"), "combined_score")


@pytest.mark.parametrize("deduplicate", [False, True])
def test_merging_the_published_selections_gives_the_published_merge(case, tmp_path, deduplicate):
    paths = [str(case.folder / "selected" / f"{name}.parquet") for name in ("math", "report")]
    flags = ["--output_path", str(tmp_path / "o.parquet"), *(["--deduplicate"] if deduplicate else [])]
    assert main(["merge_multitarget", "--input_paths", *paths, *flags]) == 0
    published = case.published("merged_dedup" if deduplicate else "merged")
    assert pq.read_table(tmp_path / "o.parquet").to_pylist() == published.to_pylist()


@pytest.mark.parametrize(("layers", "name"), [("last", "last"), ("0,2", "0_2"), ("2, 0,", "0_2")])
def test_slicing(case, tmp_path, layers, name):
    shape = ["--num_layers", str(case.settings["num_layers"]), "--top_k", str(case.settings["top_k"])]
    features = str(case.folder / "features/pool/*.jsonl")
    flags = ["--input_glob", features, "--output_path", str(tmp_path / "o.parquet"), *shape, "--layers", layers]
    assert main(["slice_layers", *flags]) == 0
    published = pq.read_table(case.folder / "sliced" / f"{name}.parquet")
    found = pq.read_table(tmp_path / "o.parquet")
    assert found.column_names == published.column_names
    assert found.to_pylist() == published.to_pylist()
    flags[1] = str(tmp_path / "o.parquet")  # and Parquet goes in as well
    flags[3:] = [str(tmp_path / "p.parquet"), "--num_layers", str(len(layers.strip(", ").split(","))), *shape[2:]]
    assert main(["slice_layers", *flags, "--layers", "first"]) == 0


def test_deactivation_command(case, tmp_path):
    flags = [*case.flags(), "--out", str(tmp_path / "k.json"), "--top_k_extraction", str(case.settings["top_k"])]
    assert main(["deactivation", "build", *flags]) == 0
    counts = TargetProfile.fit(case.nags()[0]).counts
    keys_agree(load_keys(tmp_path / "k.json"), load_keys(case.folder / "deactivation_keys.json"), counts)
    assert json.loads((tmp_path / "k.json").read_text()).keys() == {"0", "1", "2"}
