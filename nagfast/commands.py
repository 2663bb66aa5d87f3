"""What each command of the command line does: load, call the library, say what came out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nagfast import config as configs
from nagfast.errors import ArgumentError
from nagfast.ranks import Rank

if TYPE_CHECKING:
    from nagfast.targets import TargetProfile
    from nagfast.text_shards import TextSummary

log = logging.getLogger(__name__)


def say(line: str = "") -> None:
    """Write a line to standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def extract(config: configs.ExtractConfig) -> int:
    """Text -> NAG store."""
    from nagfast.extract_job import run_extract

    rank = Rank.from_environment()
    rank.share_processors(config.threads)
    summary = run_extract(config, rank=rank)
    return _say_text(summary, config.out, config.quarantine or f"{config.out}/quarantine")


def _say_text(summary: TextSummary, out: str, quarantine: str) -> int:
    rate = summary.tokens / max(summary.seconds, 1e-9)
    part = "" if summary.rank.alone else f" ({summary.rank.describe()})"
    say(
        f"{out}{part}: {summary.documents:,} documents, {summary.tokens:,} tokens in {summary.seconds:.1f} s "
        f"({rate:,.0f} tokens/s), {summary.shards} shards written, {summary.resumed} were there"
    )
    if summary.empty:
        say(f"without a NAG (no tokens, or one under act_grad): {summary.empty:,} documents, similarity 0")
    if summary.quarantined:
        say(f"quarantined: {summary.quarantined:,} rows, see {quarantine}")
    for path in summary.unreadable:
        say(f"could not be read: {path}")
    return summary.exit_code


def fit_profile(config: configs.ProfileConfig) -> int:
    """NAG store of the target -> profile."""
    from nagfast.store import NagStore
    from nagfast.targets import TargetProfile

    store = NagStore.open(config.store)
    profile = TargetProfile.from_store(
        store,
        where=config.where,
        power=config.power,
        top_k=config.top_k,
        neuron_type=config.neuron_type,
        payload=config.payload or None,
        id_column=config.id_column,
    )
    profile.save(config.out)
    say(f"{config.out}: {profile.num_targets:,} target documents, {profile.spec.describe()}")
    return 0


def score(config: configs.ScoreConfig) -> int:
    """NAG stores or text + profiles -> distances."""
    from nagfast.scoring import score_store
    from nagfast.store import open_many
    from nagfast.targets import TargetProfile

    names = [Path(p).stem for p in config.profile]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise ArgumentError(f"--profile: {repeated[0]!r} names two profiles; rename one file, names become columns")
    profiles = {name: TargetProfile.load(path) for name, path in zip(names, config.profile, strict=True)}
    if config.from_text:
        return _score_text(config, profiles)
    stores, notes = open_many(config.store)
    for note in notes:
        log.warning("stores differ in %s", note)
    summary = score_store(stores, profiles, config.out, threads=config.threads)
    say(f"{config.out}: {summary.documents:,} documents scored against {', '.join(names)}")
    if summary.empty:
        say(f"without a NAG: {summary.empty:,} documents, distance 1")
    return 0


def _score_text(config: configs.ScoreConfig, profiles: Mapping[str, TargetProfile]) -> int:
    from nagfast.score_text import run_score_text

    rank = Rank.from_environment()
    rank.share_processors(config.threads)
    summary = run_score_text(config, profiles, rank=rank)
    say(f"{summary.out}: {summary.rows:,} documents scored against {', '.join(profiles)}")
    return _say_text(summary, summary.out, config.quarantine or f"{config.out}.quarantine")


def _selection_options(config: configs.SelectConfig | configs.RankConfig) -> dict[str, Any]:
    return {
        "fraction": config.fraction,
        "budget": config.budget,
        "unit": config.unit,
        "token_column": config.token_column,
        "text_column": config.text_column,
        "id_column": config.id_column,
        "quality": config.quality,
        "higher_is_better": config.higher_is_better,
        "memory_limit": config.memory_limit,
        "threads": config.threads,
        "quarantine": config.quarantine or f"{config.out}.quarantine",
    }


def _say_selection(config: configs.SelectConfig | configs.RankConfig, summary: Any) -> int:
    out = config.out
    share = summary.amount / summary.total if summary.total else 0.0
    say(
        f"{out}: {summary.rows:,} of {summary.pool:,} documents, {summary.amount:,} of {summary.total:,} "
        f"{summary.unit} ({share:.1%}, budget {summary.budget:,})"
    )
    if summary.lowest is not None:
        say(f"distance {summary.lowest:.4f} to {summary.highest:.4f}")
    for name, rows in summary.targets.items():
        say(f"  {name}: {rows:,} documents")
    for count, what in (
        (summary.missing_in_payload, "scored documents are not in the payload"),
        (summary.missing_in_scores, "payload documents have no score"),
        (summary.without_quality, "documents have no quality"),
        (summary.quarantined, f"rows quarantined, see {config.quarantine or config.out + '.quarantine'}"),
    ):
        if count:
            say(f"{count:,} {what}")
    return int(summary.exit_code)


def select(config: configs.SelectConfig) -> int:
    """Scores + payload -> the selected corpus."""
    from nagfast import selection

    try:
        columns = pq.read_schema(config.scores[0]).names
    except (OSError, pa.ArrowException):
        columns = ["nag_distance"]  # the selection says what is wrong with the file
    options = _selection_options(config)
    if "nag_distance" in columns:
        if config.refill:
            raise ArgumentError(f"--refill: {config.scores[0]} holds one target; it is for scores of several")
        summary = selection.select(config.scores, config.payload, config.out, **options)
    else:
        summary = selection.select_multi(config.scores, config.payload, config.out, refill=config.refill, **options)
    return _say_selection(config, summary)


def rank(config: configs.RankConfig) -> int:
    """Profile, score and select in one command; profile and scores are left beside the output."""
    out = Path(config.out)
    profile, scores = out.with_suffix(".profile.npz"), out.with_suffix(".scores.parquet")
    fit_profile(
        configs.ProfileConfig(
            store=config.target, out=str(profile), where=config.where, top_k=config.top_k, power=config.power
        )
    )
    score(configs.ScoreConfig(store=config.store, profile=(str(profile),), out=str(scores), threads=config.threads))
    from nagfast import selection

    summary = selection.select([str(scores)], config.payload, config.out, **_selection_options(config))
    return _say_selection(config, summary)


def index_build(config: configs.IndexBuildConfig) -> int:
    """NAG store of the target -> index."""
    from nagfast.search.nearest import NearestTargets
    from nagfast.store import NagStore

    queries = None
    if config.queries is not None:
        _, queries = NagStore.open(config.queries).read(neuron_type=config.neuron_type)
    index = NearestTargets.from_store(
        NagStore.open(config.store),
        where=config.where,
        neuron_type=config.neuron_type,
        top_k=config.top_k,
        method=config.method,
        recall=config.recall,
        k=config.k,
        seed=config.seed,
        threads=config.threads,
        queries=queries,
        sketch=config.sketch,
        threshold=config.threshold,
        num_perm=config.num_perm,
    )
    index.save(config.out, overwrite=config.overwrite)
    found = index.record.parameters
    say(f"{config.out}: {len(index):,} targets, {index.method}, {index.spec.describe()}")
    if "recall" in found:
        say(f"recall@{found['recall_at']} {found['recall']:.4f}, asked for {config.recall}")
    if "threshold" in found:
        say(f"near-duplicates only: Jaccard similarity of {found['threshold']} and above")
    return 0


def index_query(config: configs.IndexQueryConfig) -> int:
    """Index + NAG stores -> nearest targets."""
    from nagfast.search.nearest import NearestTargets
    from nagfast.search.stream import query_reverse, query_stores
    from nagfast.store import open_many

    index = NearestTargets.open(config.index)
    stores, notes = open_many(config.store)
    for note in notes:
        log.warning("stores differ in %s", note)
    if config.reverse:
        summary = query_reverse(index, stores, config.out, k=config.k, threads=config.threads)
        say(f"{config.out}: the {config.k} nearest of {summary.documents:,} documents for {summary.rows:,} targets")
    else:
        summary = query_stores(
            index,
            stores,
            config.out,
            k=config.k,
            aggregate=config.aggregate,
            bandwidth=config.bandwidth,
            threads=config.threads,
        )
        say(f"{config.out}: the {config.k} nearest of {len(index):,} targets for {summary.rows:,} documents")
    if summary.empty:
        say(f"without a NAG: {summary.empty:,} documents, similarity 0")
    if summary.alone:
        say(f"nothing found: {summary.alone:,} {'targets' if config.reverse else 'documents, similarity 0'}")
    return 0


def report(config: configs.ReportConfig) -> int:
    """Store, profile, payload and selection -> report.html."""
    from nagfast.analysis.report import collect, write_report
    from nagfast.store import NagStore
    from nagfast.targets import TargetProfile

    data = collect(
        NagStore.open(config.store),
        TargetProfile.load(config.profile),
        config.payload,
        config.selection,
        domain_column=config.domain_column,
        text_column=config.text_column,
        id_column=config.id_column,
        beside=config.out,
    )
    write_report(config.out, data)
    say(f"{config.out}")
    return 0


def explain(config: configs.ExplainConfig) -> int:
    """Why a document scored as it did."""
    from nagfast.analysis.explain import explain as explain_nag
    from nagfast.store import NagStore
    from nagfast.targets import TargetProfile

    quoted = config.docid.replace("'", "''")
    profile = TargetProfile.load(config.profile)
    store = NagStore.open(config.store)
    docids, nags = store.read(neuron_type=profile.spec.neuron_type, where=f"docid = '{quoted}'")
    if not docids:
        raise ArgumentError(f"--docid: {config.docid!r} is not in {config.store}")
    found = explain_nag(nags, profile, rows=config.rows)
    say(f"{config.docid}: similarity {found.similarity:.4f}, distance {1 - found.similarity:.4f}")
    say("layer  similarity")
    for layer, value in enumerate(found.layers):
        say(f"{layer:5d}  {value:.4f}  {'#' * round(60 * float(value))}")
    say("layer  neuron  rank  weight   of its layer's targets")
    for row in found.neurons:
        say(f"{row.layer:5d}  {row.neuron:6d}  {row.rank:4d}  {row.weight:.4f}  {row.share:.0%}")
    return 0


def deactivate(config: configs.DeactivateConfig) -> int:
    """Profile -> the neurons to switch off."""
    from nagfast.analysis.deactivation import write_keys
    from nagfast.targets import TargetProfile

    keys = write_keys(TargetProfile.load(config.profile), config.out, top_k=config.top_k)
    say(f"{config.out}: {len(keys)} layers, {sum(map(len, keys.values())):,} neurons")
    return 0


def tsne(config: configs.TsneConfig) -> int:
    """Store -> map of its NAGs."""
    from nagfast.analysis.tsne import plot_store
    from nagfast.store import NagStore

    documents = plot_store(
        NagStore.open(config.store),
        config.out,
        label_column=config.label_column,
        per_label=config.per_label,
        perplexity=config.perplexity,
        seed=config.seed,
    )
    say(f"{config.out}: {documents:,} documents")
    return 0
