"""Scores + payload -> the selected corpus: order by (distance, docid), keep what fits the budget.

DuckDB holds the narrow columns (pool.py) and spills within its memory limit; the payload's wide columns are read once,
at the end, for the selected rows. The budget's edge is found without sorting the pool: amounts are added up in BINS
bins of the score, bins below the edge are taken whole, and only the edge bin is put in order. All sums are integers,
so the result does not depend on threads or memory.

Meaning (nagfast.reference.select, multi_target and quality_mix state it in plain Python): the longest prefix of the
order whose amounts add up to at most int(total * fraction), a null amount counting 0; the first document alone where it
is over the budget by itself; nothing where the total is 0. docids compare by code point.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.duck import Session, double, identifier, literal
from nagfast.errors import ArgumentError, NagfastError
from nagfast.files import atomic_path
from nagfast.pool import Options, Pool, clear_quarantine
from nagfast.relations import IDS, POSITION, Paths, Relation, open_relation

log = logging.getLogger(__name__)

BINS = 65_536
PREFIX = "nag_distance_"
"""Score columns of several profiles."""
ROW_GROUP = 16_384
"""Rows of a row group of the output: sixteen thousand documents are tens of megabytes."""


@dataclass(frozen=True)
class SelectionSummary:
    """What a selection took and what it left."""

    rows: int
    """Rows written."""
    amount: int
    """What they add up to, in the unit."""
    total: int
    """What the pool adds up to (several targets with pools of their own: the largest)."""
    budget: int
    """What was allowed, all targets together."""
    unit: str
    """Tokens, bytes or documents."""
    pool: int
    """Documents that could be chosen from."""
    lowest: float | None
    """Smallest distance among the selected rows; None where there are none."""
    highest: float | None
    """Largest distance among the selected rows."""
    missing_in_payload: int
    """Scored documents that the payload does not hold."""
    missing_in_scores: int
    """Documents of the payload without a score."""
    without_quality: int
    """Documents left out because their quality is null or not finite."""
    duplicates: int
    """Rows left out because an earlier row has their docid."""
    quarantined: int
    """All rows left out as unusable, duplicates among them; they are in the quarantine folder."""
    unreadable: tuple[str, ...]
    """Payload files that could not be read."""
    targets: dict[str, int] = field(default_factory=dict)
    """Target -> rows, of select_multi."""

    @property
    def exit_code(self) -> int:
        """0, or 3 where rows or files were set aside."""
        return 3 if self.quarantined or self.unreadable else 0


@dataclass(frozen=True)
class Target:
    """One column of distances."""

    name: str
    """What nag_target says."""
    column: str
    """Its column of the pool."""


def select(
    scores: Paths,
    payload: Paths | None,
    out: Path | str,
    *,
    fraction: float | None = None,
    budget: int | None = None,
    unit: str = "tokens",
    token_column: str = "token_num",
    text_column: str = "doc",
    id_column: str = "docid",
    score_column: str = "nag_distance",
    quality: str | None = None,
    higher_is_better: bool = False,
    memory_limit: str | None = None,
    threads: int | None = None,
    quarantine: Path | str | None = None,
) -> SelectionSummary:
    """Write the documents nearest to one target that fit the budget, nearest first.

    Args:
        scores: files with docid and a distance (lower is better), as score_store writes them.
        payload: the documents: Parquet or JSON lines files, folders, globs. None: the rows of the scores files.
        out: Parquet file to write: the payload's columns, nag_distance, and combined_score with quality.
        fraction: share of the pool's total amount to keep, above 0 and up to 1; or
        budget: amount to keep, in the unit.
        unit: tokens, bytes or documents.
        token_column: column of the token counts, of the payload or else of the scores; null counts 0.
        text_column: column of the text, for unit bytes.
        id_column: column of the document id in the payload; dotted names reach into records.
        score_column: column of the distance.
        quality: column to mix in; rows where it is null or not finite are dropped before anything is counted.
        higher_is_better: larger values of quality are the better ones.
        memory_limit: for joins and sorts, such as "4GB"; default a quarter of the memory.
        threads: default all.
        quarantine: folder for rows that cannot be used; default OUT.quarantine.

    Raises:
        ArgumentError: an argument outside its range, or a column that is not there.
        NagfastError: a file cannot be read or written, or the memory limit was not enough.
    """
    options = Options(fraction, budget, unit, token_column, text_column, id_column, quality, higher_is_better)
    with Session(Path(out), memory_limit, threads) as session:
        relation = open_relation(session, scores, "SCORES", ids=(*IDS, id_column))
        _require_scores(relation, [score_column])
        run = _Run(session, options, [Target(score_column, "d0")], Path(out), quarantine)
        return run.finish([relation], [{"d0": score_column}], payload)


def select_multi(
    scores: Paths | Mapping[str, Paths],
    payload: Paths | None,
    out: Path | str,
    *,
    targets: Sequence[str] | None = None,
    refill: bool = False,
    fraction: float | None = None,
    budget: int | None = None,
    unit: str = "tokens",
    token_column: str = "token_num",
    text_column: str = "doc",
    id_column: str = "docid",
    score_column: str = "nag_distance",
    quality: str | None = None,
    higher_is_better: bool = False,
    memory_limit: str | None = None,
    threads: int | None = None,
    quarantine: Path | str | None = None,
) -> SelectionSummary:
    """Select for M targets, each of which gets fraction / M (or budget // M); arguments not named here as for select.

    Args:
        scores: files with a column nag_distance_<target> for each target; or target -> files with score_column.
        payload: as for select; needed where scores is a mapping.
        out: Parquet file to write, target after target: as for select, and nag_target.
        targets: names, in the order they choose in; default all there are.
        refill: False concatenates the selections, documents chosen twice and all, as published. True lets the targets
            choose one after the other, each from the documents that no earlier target took.
        fraction: share of the pool's total amount for all targets together.
        budget: amount for all targets together.
        unit: as for select.
        token_column: as for select.
        text_column: as for select.
        id_column: as for select.
        score_column: as for select, where scores is a mapping.
        quality: as for select; mixed into the distance of every target.
        higher_is_better: as for select.
        memory_limit: as for select.
        threads: as for select.
        quarantine: as for select.

    Raises:
        ArgumentError: as for select, or a target without scores.
        NagfastError: as for select.
    """
    options = Options(fraction, budget, unit, token_column, text_column, id_column, quality, higher_is_better)
    with Session(Path(out), memory_limit, threads) as session:
        if isinstance(scores, Mapping):
            if payload is None:
                raise ArgumentError("payload: none given; score files of several targets are joined on a payload")
            names = _names(targets, list(scores))
            ids = (*IDS, id_column)
            relations = [open_relation(session, scores[n], f"scores of {n}", ids=ids) for n in names]
            columns = [{f"d{i}": score_column} for i in range(len(names))]
        else:
            relations = [open_relation(session, scores, "SCORES", ids=(*IDS, id_column))]
            names = _names(targets, [c.removeprefix(PREFIX) for c in relations[0].columns if c.startswith(PREFIX)])
            columns = [{f"d{i}": PREFIX + n for i, n in enumerate(names)}]
        for relation, needed in zip(relations, columns, strict=True):
            _require_scores(relation, list(needed.values()))
        run = _Run(session, options, [Target(n, f"d{i}") for i, n in enumerate(names)], Path(out), quarantine)
        run.refill, run.names_targets = refill, True
        return run.finish(relations, columns, payload)


def _names(wanted: Sequence[str] | None, there: list[str]) -> list[str]:
    names = there if wanted is None else list(wanted)
    unknown = [n for n in names if n not in there]
    if unknown or not names or len(set(names)) < len(names):
        have = ", ".join(there) or "none"
        raise ArgumentError(f"targets: got {', '.join(names) or 'none'}; name each once, of those with scores: {have}")
    return names


def _require_scores(relation: Relation, columns: Sequence[str]) -> None:
    for column in columns:
        if relation.find(column) is None:
            raise ArgumentError(
                f"{relation.files[0]}: no score column {column!r}; it has {', '.join(relation.columns)}: "
                "give scores made by nagfast score"
            )


class _Run:
    """One selection: pool, choice, output."""

    def __init__(
        self,
        session: Session,
        options: Options,
        targets: Sequence[Target],
        out: Path,
        quarantine: Path | str | None,
    ) -> None:
        self.session, self.options, self.targets, self.out = session, options, targets, out
        folder = Path(quarantine) if quarantine is not None else out.with_name(out.name + ".quarantine")
        self.pool = Pool(session, options, clear_quarantine(folder))
        self.refill = self.names_targets = False

    def finish(
        self, scored: Sequence[Relation], distances: Sequence[Mapping[str, str]], payload: Paths | None
    ) -> SelectionSummary:
        """Fill the pool, choose, write."""
        documents = None
        if payload is not None:
            ids, quarantine = (*IDS, self.options.id_column), self.pool.quarantine
            documents = open_relation(self.session, payload, "--payload", quarantine, ids=ids)
        source = self.pool.fill(scored, distances, documents)
        total, allowed = self._choose()
        summary = self._summary(total, allowed, documents.unreadable if documents else ())
        note = {
            "selection": asdict(summary),
            "options": asdict(self.options) | {"refill": self.refill},
            "scores": _score_note(scored[0].files[0]),
        }
        self._write(source, note)
        log.info("selected %d of %d documents: %d of %d %s", *_counts(summary), self.options.unit)
        return summary

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _choose(self) -> tuple[int, int]:
        """Fill the table `chosen`; returns the largest total and the sum of the budgets."""
        self.session.run(
            "CREATE TEMP TABLE chosen "
            "(target INTEGER, position BIGINT, docid VARCHAR, amount BIGINT, distance DOUBLE, score DOUBLE)"
        )
        totals, budgets = [], []
        for number, target in enumerate(self.targets):
            pool = self._scored(target)
            (total,) = self.session.row(f"SELECT coalesce(sum(amount), 0) FROM ({pool})")
            totals.append(int(total))
            budgets.append(self.options.share(int(total), len(self.targets)))
            if self.refill and number:
                pool = f"SELECT * FROM ({pool}) WHERE position NOT IN (SELECT position FROM chosen)"
            if total > 0:
                self._choose_one(number, pool, budgets[-1])
        return max(totals), sum(budgets)

    def _scored(self, target: Target) -> str:
        """The pool of one target as (docid, position, amount, distance, score)."""
        where, score = f"{target.column} IS NOT NULL", target.column
        if self.options.quality is not None:
            where += " AND quality IS NOT NULL"
            quality = self._minmax("quality", where)
            if self.options.higher_is_better:
                quality = f"(1.0::DOUBLE - {quality})"
            score = f"{self._minmax(target.column, where)} + {quality}"
        return f"SELECT docid, position, amount, {target.column} AS distance, {score} AS score FROM pool WHERE {where}"

    def _minmax(self, column: str, where: str) -> str:
        low, high = self.session.row(f"SELECT min({column}), max({column}) FROM pool WHERE {where}")
        if low is None or low == high:
            return "0.0::DOUBLE"
        return f"(({column} - {double(low)}) / {double(high - low)})"

    def _choose_one(self, number: int, pool: str, budget: int) -> None:
        run = self.session.run
        low, high = self.session.row(f"SELECT min(score), max(score) FROM ({pool})")
        if low is None:
            return
        scale = BINS / (high - low) if high > low else 0.0
        # Rounded subtraction and multiplication keep order, so a lower bin holds lower scores only.
        step = f"CAST(floor((score - {double(low)}) * {double(scale)}) AS BIGINT)" if math.isfinite(scale) else "0"
        insert = f"INSERT INTO chosen SELECT {number}, position, docid, amount, distance, score FROM"
        taken, edge = 0, None
        histogram = f"SELECT {step} AS bin, sum(amount) AS amount FROM ({pool}) GROUP BY bin ORDER BY bin"
        for bin_, amount in self.session.rows(histogram):
            if taken + amount > budget:
                edge = bin_
                break
            taken += amount
        if edge is None:
            run(f"{insert} ({pool})")
            return
        run(f"{insert} ({pool}) WHERE {step} < {edge}")
        running = "sum(amount) OVER (ORDER BY score, docid ROWS UNBOUNDED PRECEDING) AS running"
        bin_rows = f"(SELECT *, {running} FROM ({pool}) WHERE {step} = {edge})"
        run(f"{insert} {bin_rows} WHERE running <= {budget - taken}")
        if self.session.row(f"SELECT count(*) FROM chosen WHERE target = {number}") == (0,):
            run(f"{insert} ({pool}) ORDER BY score, docid LIMIT 1")

    # --- rows out -----------------------------------------------------------------------------------------------------

    def _write(self, source: Relation, note: Mapping[str, Any]) -> None:
        """Write the chosen rows of the source in order: all its columns, then what selection adds."""
        added = {"nag_distance": "chosen.distance"}
        if self.options.quality is not None:
            added["combined_score"] = "chosen.score"
        if self.names_targets:
            names = ", ".join(literal(t.name) for t in self.targets)
            added["nag_target"] = f"list_extract([{names}], chosen.target + 1)"
        columns = [f"source.{identifier(c)}" for c in source.columns if c.lower() not in added]
        columns += [f"{sql} AS {name}" for name, sql in added.items()]
        order = "chosen.target, chosen.score, chosen.docid"
        metadata = literal(json.dumps(note, sort_keys=True))
        with atomic_path(self.out) as temporary:

            def copy(relation: Relation) -> None:
                self.session.run(
                    f"COPY (SELECT {', '.join(columns)} FROM ({relation.sql}) AS source JOIN chosen "
                    f"ON source.{POSITION} = chosen.position ORDER BY {order}) TO {literal(str(temporary))} "
                    f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}, "
                    f"KV_METADATA {{nagfast: {metadata}}})"
                )

            try:
                copy(source)
            except NagfastError as error:
                copy(self.pool.repair(source, error))

    def _summary(self, total: int, allowed: int, unreadable: tuple[str, ...]) -> SelectionSummary:
        row = self.session.row
        pool, without = row("SELECT count(*), count(*) FILTER (quality IS NULL) FROM pool")
        if self.options.quality is None:
            without = 0
        rows, amount, lowest, highest = row(
            "SELECT count(*), coalesce(sum(amount), 0), min(distance), max(distance) FROM chosen"
        )
        per_target = dict(self.session.rows("SELECT target, count(*) FROM chosen GROUP BY target"))
        return SelectionSummary(
            rows=rows,
            amount=int(amount),
            total=total,
            budget=allowed,
            unit=self.options.unit,
            pool=pool - without,
            lowest=lowest,
            highest=highest,
            missing_in_payload=self.pool.missing_in_payload,
            missing_in_scores=self.pool.missing_in_scores,
            without_quality=without,
            duplicates=self.pool.duplicates,
            quarantined=self.pool.quarantined,
            unreadable=unreadable,
            targets={t.name: per_target.get(i, 0) for i, t in enumerate(self.targets)} if self.names_targets else {},
        )


def _counts(summary: SelectionSummary) -> tuple[int, int, int, int]:
    return summary.rows, summary.pool, summary.amount, summary.total


def _score_note(path: str) -> Any:
    """What a scores file says about its profiles; None where it says nothing."""
    try:
        return json.loads((pq.read_schema(path).metadata or {}).get(b"nagfast", b"null"))
    except (OSError, ValueError, pa.ArrowException):
        return None
