"""What a selection chooses from: one table of scores joined with amounts, every docid once, bad rows set aside.

The table holds narrow columns only (docid, position, amount, quality, distances) and spills with its session. Rows that
cannot be used (no docid, a docid seen before, no finite distance, an amount that is no whole number) go to the
quarantine; of several rows with one docid the first usable one stays, files in the order given.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from nagfast.duck import Session, identifier, literal
from nagfast.errors import ArgumentError, NagfastError
from nagfast.quarantine import BadRow, Quarantine
from nagfast.relations import POSITION, Relation

log = logging.getLogger(__name__)

UNITS = ("tokens", "bytes", "documents")
BAD_ROWS_PER_FILE = 100_000
_WHOLE = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)")
_FRACTIONAL = re.compile(r"FLOAT|DOUBLE|DECIMAL\(.*\)")
_SHARD = re.compile(r"(scores\d*|payload)-\d{6}\.(jsonl|unreadable\.json)")


@dataclass(frozen=True)
class Options:
    """What every selection is told; the meaning of each field is at nagfast.selection.select."""

    fraction: float | None = None
    budget: int | None = None
    unit: str = "tokens"
    token_column: str = "token_num"
    text_column: str = "doc"
    id_column: str = "docid"
    quality: str | None = None
    higher_is_better: bool = False

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.budget is None):
            raise ArgumentError(f"fraction {self.fraction}, budget {self.budget}: give one of the two")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ArgumentError(f"fraction: got {self.fraction}; use more than 0 and at most 1")
        if self.budget is not None and self.budget < 0:
            raise ArgumentError(f"budget: got {self.budget}; use 0 or more")
        if self.unit not in UNITS:
            raise ArgumentError(f"unit: got {self.unit!r}; use one of {', '.join(UNITS)}")

    def share(self, total: int, targets: int) -> int:
        """The budget of one of several targets."""
        if self.fraction is not None:
            return int(total * (self.fraction / targets))
        assert self.budget is not None
        return self.budget // targets


def clear_quarantine(folder: Path) -> Quarantine:
    """The quarantine of a selection without what an earlier run left there."""
    for old in folder.glob("*-*.json*"):
        if _SHARD.fullmatch(old.name):
            old.unlink(missing_ok=True)
    return Quarantine(folder)


class Pool:
    """Fills the table `pool` of a session: docid, position, amount, quality, and one column per distance."""

    def __init__(self, session: Session, options: Options, quarantine: Quarantine) -> None:
        self.session = session
        self.options = options
        self.quarantine = quarantine
        self.duplicates = 0
        """Rows set aside because an earlier row has their docid."""
        self.quarantined = 0
        """All rows set aside."""
        self.missing_in_payload = 0
        self.missing_in_scores = 0

    def fill(
        self, scored: Sequence[Relation], distances: Sequence[Mapping[str, str]], payload: Relation | None
    ) -> Relation:
        """Make the table.

        Args:
            scored: relations with distances; without a payload, one, whose rows are also the output.
            distances: per relation, column of the pool -> column of the relation.
            payload: where the output rows come from.

        Returns:
            The relation that positions refer to.
        """
        sources = [payload, *scored] if payload else list(scored)
        owners = {"amount": self._amount(sources)}
        if self.options.quality is not None:
            owners["quality"] = self._quality(sources, self.options.quality)
        names = []
        for i, (relation, columns) in enumerate(zip(scored, distances, strict=True)):
            extra = {d: _finite(f"CAST({relation.find(column)} AS DOUBLE)") for d, column in columns.items()}
            extra |= {k: sql for k, (owner, sql) in owners.items() if owner is relation}
            names.append(f"scores{i}" if len(scored) > 1 else "scores")
            key = "docid" if "docid" in relation.columns else self.options.id_column
            source = self._stage(names[-1], relation, key, extra, list(columns))
        if payload:
            extra = {k: sql for k, (owner, sql) in owners.items() if owner is payload}
            source = self._stage("payload", payload, self.options.id_column, extra, [])
        self._join(names, [d for columns in distances for d in columns], bool(payload))
        return source

    # --- where amounts and qualities are found ------------------------------------------------------------------------

    def _amount(self, relations: Sequence[Relation]) -> tuple[Relation, str]:
        """The relation, and SQL that is null for a missing amount and -1 for one that cannot be used."""
        unit = self.options.unit
        if unit == "documents":
            return relations[0], "1::BIGINT"
        name = self.options.token_column if unit == "tokens" else self.options.text_column
        flag = "--token-column" if unit == "tokens" else "--text-column"
        relation = next((r for r in relations if r.find(name)), None)
        if relation is None:
            other = "bytes or --unit documents, which need" if unit == "tokens" else "documents, which needs"
            raise ArgumentError(
                f"{flag}: no column {name!r} in {' or '.join(r.files[0] for r in relations)}; name it with {flag}, "
                f"store exact token counts with nagfast extract --count-tokens, or use --unit {other} no token counts"
            )
        sql, kind = relation.find(name), relation.type_of(name)
        if unit == "bytes" and (not kind or kind == "VARCHAR"):
            return relation, f"strlen({sql})"
        if unit == "tokens" and _WHOLE.fullmatch(kind):
            return relation, f"CASE WHEN {sql} < 0 THEN -1 ELSE CAST({sql} AS BIGINT) END"
        if unit == "tokens" and (not kind or _FRACTIONAL.fullmatch(kind)):
            number = f"CAST({sql} AS DOUBLE)"  # whole numbers with gaps are often stored as floats, a gap as NaN
            whole = f"{number} >= 0 AND {number} < 9e18 AND {number} = trunc({number})"
            return relation, f"CASE WHEN isnan({number}) THEN NULL WHEN {whole} THEN CAST({number} AS BIGINT) " + (
                f"WHEN {number} IS NULL THEN NULL ELSE -1 END"
            )
        want = "whole numbers" if unit == "tokens" else "text"
        raise ArgumentError(f"{flag}: {name!r} of {relation.files[0]} is {kind}; give a column of {want}")

    def _quality(self, relations: Sequence[Relation], name: str) -> tuple[Relation, str]:
        relation = next((r for r in relations if r.find(name)), None)
        if relation is None:
            raise ArgumentError(f"--quality: no column {name!r} in {' or '.join(r.files[0] for r in relations)}")
        kind = relation.type_of(name)
        if kind and not (_WHOLE.fullmatch(kind) or _FRACTIONAL.fullmatch(kind)):
            raise ArgumentError(f"--quality: {name!r} of {relation.files[0]} is {kind}; give a column of numbers")
        return relation, _finite(f"CAST({relation.find(name)} AS DOUBLE)")

    # --- rows in ------------------------------------------------------------------------------------------------------

    def _stage(
        self, name: str, relation: Relation, id_column: str, extra: Mapping[str, str], distances: Sequence[str]
    ) -> Relation:
        """Make a table (docid, position, extra...) with every docid once; returns the relation, repaired if need be."""
        key = relation.find(id_column)
        if key is None:
            raise ArgumentError(
                f"{relation.files[0]}: no column {id_column!r}; it has {', '.join(relation.columns)}: "
                "name the id column with --id-column"
            )
        columns = "".join(f", {sql} AS {identifier(column)}" for column, sql in extra.items())
        select = f"SELECT CAST({key} AS VARCHAR) AS docid, {POSITION} AS position{columns}"
        try:
            self.session.run(f"CREATE TEMP TABLE {name} AS {select} FROM ({relation.sql})")
        except NagfastError as error:
            relation = self.repair(relation, error)
            self.session.run(f"CREATE TEMP TABLE {name} AS {select} FROM ({relation.sql})")
        self._clean(name, relation, extra, distances)
        return relation

    def repair(self, relation: Relation, error: NagfastError) -> Relation:
        """The relation with broken UTF-8 replaced; the error again where that was not the matter."""
        repaired, broken = relation.repaired(self.session)
        if not broken:
            raise error
        for file in broken:
            log.warning("%s: holds text that is not UTF-8; the broken characters were replaced by U+FFFD", file)
        return repaired

    def _clean(self, name: str, relation: Relation, extra: Mapping[str, str], distances: Sequence[str]) -> None:
        self.session.run("CREATE OR REPLACE TEMP TABLE bad (position BIGINT, docid VARCHAR, reason VARCHAR)")
        reasons = {"missing docid": "docid IS NULL"}
        if distances:
            reasons["no distance"] = " AND ".join(f"{d} IS NULL" for d in distances)
        if "amount" in extra:
            reasons[f"{self.options.token_column} is not a whole number of at least 0"] = "amount < 0"
        for reason, condition in reasons.items():
            self._set_aside(name, f"SELECT position, docid, {literal(reason)} FROM {name} WHERE {condition}")
        # Hashes of fixed size find the candidates; docids are compared only where two hashes agree.
        self.session.run(
            "CREATE OR REPLACE TEMP TABLE twice AS "
            f"SELECT h FROM (SELECT hash(docid) AS h FROM {name}) GROUP BY h HAVING count(*) > 1"
        )
        first = f"SELECT position, docid, min(position) OVER (PARTITION BY docid) AS first FROM {name}"
        self.duplicates += self._set_aside(
            name,
            f"SELECT position, docid, 'duplicate docid' FROM ({first} WHERE hash(docid) IN (SELECT h FROM twice)) "
            "WHERE position > first",
        )
        self.session.run("DROP TABLE twice")
        self._report(name, relation)

    def _set_aside(self, name: str, rows: str) -> int:
        (before,) = self.session.row("SELECT count(*) FROM bad")
        self.session.run(f"INSERT INTO bad {rows}")
        (after,) = self.session.row("SELECT count(*) FROM bad")
        if after > before:
            self.session.run(f"DELETE FROM {name} WHERE position IN (SELECT position FROM bad)")
        return int(after - before)

    def _report(self, name: str, relation: Relation) -> None:
        rows = self.session.iterate("SELECT position, docid, reason FROM bad ORDER BY position")
        bad = (BadRow(*relation.place(position), reason, docid) for position, docid, reason in rows)
        for number in count():
            batch = list(islice(bad, BAD_ROWS_PER_FILE))
            if not batch:
                break
            self.quarantine.write(f"{name}-{number:06d}", batch)
            self.quarantined += len(batch)

    def _join(self, names: Sequence[str], distances: Sequence[str], payload: bool) -> None:
        run, row = self.session.run, self.session.row
        joined = names[0] + "".join(f" FULL JOIN {other} USING (docid)" for other in names[1:])
        quality = "quality" if self.options.quality is not None else "NULL::DOUBLE AS quality"
        columns = f"coalesce(amount, 0) AS amount, {quality}, {', '.join(distances)}"
        if payload:
            (scored,) = row(f"SELECT count(*) FROM {joined}")
            source = f"payload JOIN ({joined}) USING (docid)"
            run(f"CREATE TEMP TABLE pool AS SELECT docid, payload.position, {columns} FROM {source}")
            (rows,) = row("SELECT count(*) FROM pool")
            (paid,) = row("SELECT count(*) FROM payload")
            self.missing_in_payload, self.missing_in_scores = scored - rows, paid - rows
        else:
            run(f"CREATE TEMP TABLE pool AS SELECT docid, position, {columns} FROM {joined}")
        for name in (*names, *(["payload"] if payload else [])):
            run(f"DROP TABLE {name}")


def _finite(number: str) -> str:
    return f"CASE WHEN isfinite({number}) THEN {number} END"
