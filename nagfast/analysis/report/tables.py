"""What a report is made from, as tables of a DuckDB session: one narrow row for each document of the pool."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.analysis.report.charts import count
from nagfast.duck import Session, identifier, literal
from nagfast.errors import ArgumentError, NagfastError
from nagfast.relations import POSITION, Paths, Relation, open_relation
from nagfast.schema import NagBatch
from nagfast.store import NagStore
from nagfast.targets import TargetProfile

T = TypeVar("T")

_NO_DOMAIN = "(no domain)"
_ALL = "all documents"


@dataclass
class Tables:
    """The tables of a session, filled in the order of the methods, and what else was learnt on the way."""

    session: Session
    store: NagStore
    profile: TargetProfile
    text_column: str = "doc"
    notes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)  # of the selection, from its file
    budget: int | None = None
    step: int = 1  # `layers` has every step-th document of the store
    layers: npt.NDArray[np.float32] | None = None
    payload: Relation | None = None

    @property
    def unit(self) -> str:
        """What the selection counted."""
        unit = self.options.get("unit")
        return unit if unit in {"tokens", "bytes"} else "documents"

    @property
    def token_column(self) -> str:
        """Where the selection found token counts."""
        return str(self.options.get("token_column") or "token_num")

    def read_selection(self, file: Path | str | None, id_column: str) -> None:
        """Table `chosen` (docid), and what the file says about its making."""
        self.session.run("CREATE TEMP TABLE chosen (docid VARCHAR)")
        if file is None:
            return
        relation = open_relation(self.session, str(file), "--selection", ids=(id_column,))
        key = _key(relation, id_column, "--selection")
        docids = f"SELECT DISTINCT CAST({key} AS VARCHAR) FROM ({relation.sql})"
        self.session.run(f"INSERT INTO chosen {docids} WHERE {key} IS NOT NULL")
        note = _selection_note(relation.files[0])
        self.options, summary = _record(note.get("options")), _record(note.get("selection"))
        self.budget = summary["budget"] if isinstance(summary.get("budget"), int) else None
        if relation.find("combined_score"):
            column = self.options.get("quality") or "of quality"
            self.notes.append(f"The selection also weighed the column {column}: it is not a cut in the distance alone.")
        if relation.find("nag_target"):
            self.notes.append("The selection has several targets; distances here are to one of them.")

    def read_store(self, max_documents: int, domain_column: str) -> None:
        """Table `scored` (docid, place, distance, has_nag, domain, amount), and layers of every step-th document."""
        kept = [c for c in dict.fromkeys((domain_column, self.token_column)) if c in self.store.keep]
        self.session.run(
            "CREATE TEMP TABLE scored "
            "(docid VARCHAR, place BIGINT, distance DOUBLE, has_nag BOOLEAN, domain VARCHAR, amount BIGINT)"
        )
        domain = f"CAST({identifier(f'kept {domain_column}')} AS VARCHAR)" if domain_column in kept else "NULL"
        amount = _whole(identifier(f"kept {self.token_column}")) if self.token_column in kept else "NULL"
        insert = f"INSERT INTO scored SELECT docid, place, distance, has_nag, {domain}, {amount} FROM batch"
        self.step = max(1, -(-len(self.store) // max_documents))
        sampled, place = [], 0
        for batch in self.store.batches(neuron_type=self.profile.spec.neuron_type, columns=kept):
            nags = self.profile.align(batch.nags, "the store")
            columns = {
                "docid": batch.docids,
                "place": pa.array(np.arange(place, place + len(nags), dtype=np.int64)),
                "distance": pa.array(self.profile.distance(nags)),
                "has_nag": pa.array(~nags.empty),
            }
            columns |= {f"kept {c}": batch.columns[c] for c in kept}
            self.session.connection.register("batch", pa.table(columns))
            self.session.run(insert)
            self.session.connection.unregister("batch")
            sampled.append(_by_layer(nags, self.profile, -place % self.step, self.step))
            place += len(nags)
        self.layers = np.concatenate(sampled) if sampled else None
        if self.step > 1:
            shown = count(-(-place // self.step), "document")
            self.notes.append(f"Layers are compared on one document in {self.step} ({shown}), spread over the pool.")

    def read_payload(self, files: Paths, id_column: str, domain_column: str) -> None:
        """Table `pool` (docid, place, distance, has_nag, selected, domain, position, amount), every docid once."""
        self.payload = open_relation(self.session, files, "--payload", ids=(id_column,))
        key = _key(self.payload, id_column, "--payload")
        domain = self.payload.find(domain_column)
        divided = domain is not None or domain_column in self.store.keep
        if not divided:
            self.notes.append(f"Neither payload nor store has a column {domain_column}: the pool is not divided.")
        if self.find_text() is None:
            self.notes.append(f"The payload has no column {self.text_column}: texts are not shown.")
        amount = self._amount()
        columns = f"{POSITION} AS position, CAST({domain or 'NULL'} AS VARCHAR) AS domain, {amount or 'NULL'} AS amount"
        self.read(
            lambda relation: self.session.run(
                "CREATE OR REPLACE TEMP TABLE payload AS SELECT docid, min(position) AS position, "
                "arg_min(domain, position) AS domain, arg_min(amount, position) AS amount "
                f"FROM (SELECT CAST({key} AS VARCHAR) AS docid, {columns} FROM ({relation.sql})) "
                "WHERE docid IS NOT NULL GROUP BY docid"
            )
        )
        none = literal(_NO_DOMAIN if divided else _ALL)
        group = f"coalesce(nullif(coalesce(payload.domain, scored.domain), ''), {none})"
        own = "1" if self.unit == "documents" else f"coalesce({'payload' if amount else 'scored'}.amount, 0)"
        first = ", ".join(f"arg_min({c}, place) AS {c}" for c in ("distance", "has_nag", "domain", "amount"))
        self.session.run(
            "CREATE TEMP TABLE pool AS SELECT scored.docid, place, distance, has_nag, "
            f"chosen.docid IS NOT NULL AS selected, {group} AS domain, position, "
            f"CASE WHEN position IS NULL THEN 0 ELSE {own} END AS amount "
            f"FROM (SELECT docid, min(place) AS place, {first} FROM scored GROUP BY docid) AS scored "
            "LEFT JOIN payload ON payload.docid = scored.docid LEFT JOIN chosen ON chosen.docid = scored.docid"
        )
        self._note_counts()

    def _amount(self) -> str | None:
        """SQL of a document's amount over the payload; None where the payload does not have it."""
        assert self.payload is not None
        if self.unit == "bytes":
            text = self.payload.find(str(self.options.get("text_column") or self.text_column))
            return f"strlen(CAST({text} AS VARCHAR))" if text else None
        tokens = self.payload.find(self.token_column)
        return _whole(tokens) if tokens else None

    def find_text(self) -> str | None:
        """SQL of the text over the payload; None where there is none."""
        assert self.payload is not None
        return self.payload.find(self.text_column)

    def read(self, run: Callable[[Relation], T]) -> T:
        """What `run` makes of the payload; one with text that is not UTF-8 gives way to a repaired copy."""
        assert self.payload is not None
        try:
            return run(self.payload)
        except NagfastError:
            repaired, broken = self.payload.repaired(self.session)
            if not broken:
                raise
            self.payload = repaired
            return run(repaired)

    def _note_counts(self) -> None:
        counts = self.session.row(
            "SELECT count(*), count(*) FILTER (NOT has_nag), count(*) FILTER (position IS NULL), "
            "(SELECT count(*) FROM chosen WHERE docid NOT IN (SELECT docid FROM pool)) FROM pool"
        )
        documents, without_nag, without_payload, foreign = map(int, counts)
        texts = (
            (without_nag, "without a NAG (no tokens): distance 1, left out of the charts by distance and layer"),
            (len(self.store) - documents, "left out because an earlier one of the store has the same id"),
            (without_payload, "of the store not in the payload: no text, no domain, no amount"),
            (foreign, "of the selection not in the store: left out"),
        )
        self.notes += [f"{count(number, 'document')} {text}." for number, text in texts if number]


def _key(relation: Relation, column: str, argument: str) -> str:
    key = relation.find(column)
    if key is None:
        have = ", ".join(relation.columns)
        raise ArgumentError(
            f"{argument}: {relation.files[0]}: no column {column!r}; it has {have}: name it with --id-column"
        )
    return key


def _whole(sql: str) -> str:
    """SQL of a whole number of at least 0, null for anything else."""
    value = f"try_cast({sql} AS DOUBLE)"
    return f"CASE WHEN {value} >= 0 AND {value} < 9e18 THEN CAST({value} AS BIGINT) END"


def _by_layer(nags: NagBatch, profile: TargetProfile, first: int, step: int) -> npt.NDArray[np.float32]:
    """Similarity of each layer (float32 [m, L]) of every step-th document; 0 where there is no NAG."""
    part = slice(first, None, step)
    rows = np.flatnonzero(~nags.empty[part])
    indices = nags.indices[part]
    out = np.zeros((len(indices), profile.spec.num_layers), np.float32)
    for layer, weights in enumerate(profile.weights):
        out[rows, layer] = weights[indices[rows, layer]].sum(axis=1)
    return out


def _selection_note(file: str) -> dict[str, Any]:
    """What nagfast select wrote about itself into the file; {} where it did not."""
    try:
        metadata = pq.read_schema(file).metadata or {}
        return _record(json.loads(metadata.get(b"nagfast", b"null")))
    except (OSError, ValueError, pa.ArrowException):
        return {}


def _record(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
