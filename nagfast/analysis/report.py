"""Store, profile, payload and selection -> one self-contained report.html.

collect reads the store once and leaves a narrow row for each document with DuckDB, which joins the payload and adds up
within its memory limit; what is kept in Python is histograms, sums and a few documents. render (page.py) makes the page.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.analysis.charts import Axis, Bins, Floats, count, nice_step
from nagfast.analysis.page import EXCERPT, Document, Domain, ReportData, render
from nagfast.duck import Session, double, identifier, literal
from nagfast.errors import ArgumentError, NagfastError
from nagfast.files import atomic_write_text
from nagfast.relations import POSITION, Paths, Relation, open_relation
from nagfast.schema import NagBatch
from nagfast.store import NagStore
from nagfast.targets import TargetProfile

__all__ = ["Document", "Domain", "ReportData", "collect", "render", "write_report"]

MOST_DOMAINS = 14
SHOWN = 12  # documents at each end
EXACT_MEDIAN = 5_000_000  # documents; the median of more is estimated, as DuckDB keeps all values for an exact one
_REST = "other domains"
_NO_DOMAIN = "(no domain)"
_ALL = "all documents"

T = TypeVar("T")


def write_report(path: Path | str, data: ReportData) -> None:
    """Write the page, whole or not at all.

    Raises:
        NagfastError: the file cannot be written.
    """
    atomic_write_text(path, render(data))


def collect(
    store: NagStore,
    profile: TargetProfile,
    payload_files: Paths,
    selection_file: Path | str | None,
    *,
    domain_column: str = "dataset",
    text_column: str = "doc",
    id_column: str = "docid",
    max_documents: int = 200_000,
    target_texts: Sequence[str] = (),
    beside: Path | str | None = None,
) -> ReportData:
    """Read what a report shows.

    Args:
        store: NAGs of the pool.
        profile: the target.
        payload_files: the pool's documents: Parquet or JSON lines files, folders, globs.
        selection_file: made by nagfast select or rank; None where nothing was selected.
        domain_column: column to group by, of the payload or else kept in the store; without it there is one group.
        text_column: column of the text in the payload.
        id_column: column of the document id in the payload and the selection.
        max_documents: layers are compared on at most this many documents, spread evenly over the store.
        target_texts: a few target documents to show.
        beside: what does not fit in memory is spilled next to this file; default the folder for temporary files.

    Raises:
        ArgumentError: an argument cannot be used, or an id column is missing.
        SpecMismatchError: store and profile are of different identity.
        NagfastError: a file cannot be read.
    """
    if max_documents < 1:
        raise ArgumentError(f"max_documents: got {max_documents}; use at least 1")
    with Session(Path(beside) if beside else Path(tempfile.gettempdir()) / "nagfast-report") as session:
        found = _Collector(session, store, profile, text_column=text_column)
        found.read_selection(selection_file, id_column)
        found.read_store(max_documents, domain_column)
        found.read_payload(payload_files, id_column, domain_column)
        files = {"payload": _names(payload_files), "selection": str(selection_file or "none")}
        return found.data(tuple(target_texts[:8]), files)


@dataclass
class _Collector:
    """The steps of collect, in order; tables in the session, the rest here."""

    session: Session
    store: NagStore
    profile: TargetProfile
    notes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)  # of the selection, from its file
    budget: int | None = None
    step: int = 1  # `layers` has every step-th document of the store
    layers: npt.NDArray[np.float32] | None = None
    payload: Relation | None = None
    text_column: str = "doc"

    @property
    def unit(self) -> str:
        """What the selection counted."""
        unit = self.options.get("unit")
        return unit if unit in {"tokens", "bytes"} else "documents"

    @property
    def token_column(self) -> str:
        """Where the selection found token counts."""
        return str(self.options.get("token_column") or "token_num")

    # --- tables -------------------------------------------------------------------------------------------------------

    def read_selection(self, file: Path | str | None, id_column: str) -> None:
        """Table `chosen` (docid), and what the file says about its making."""
        self.session.run("CREATE TEMP TABLE chosen (docid VARCHAR)")
        if file is None:
            return
        relation = open_relation(self.session, str(file), "--selection")
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
        self.payload = open_relation(self.session, files, "--payload")
        key = _key(self.payload, id_column, "--payload")
        domain = self.payload.find(domain_column)
        divided = domain is not None or domain_column in self.store.keep
        if not divided:
            self.notes.append(f"Neither payload nor store has a column {domain_column}: the pool is not divided.")
        if self.payload.find(self.text_column) is None:
            self.notes.append(f"The payload has no column {self.text_column}: texts are not shown.")
        amount = self._amount()
        columns = f"{POSITION} AS position, CAST({domain or 'NULL'} AS VARCHAR) AS domain, {amount or 'NULL'} AS amount"
        self._read(
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

    def _read(self, run: Callable[[Relation], T]) -> T:
        """Read the payload; where that fails for text that is not UTF-8, a repaired copy of it from then on."""
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

    # --- figures ------------------------------------------------------------------------------------------------------

    def data(self, target_texts: tuple[str, ...], files: dict[str, str]) -> ReportData:
        """Add up the table `pool`; domains beyond the largest are taken together."""
        largest = f"GROUP BY domain ORDER BY count(*) DESC, domain LIMIT {MOST_DOMAINS + 1}"
        names = [name for (name,) in self.session.rows(f"SELECT domain FROM pool {largest}")]
        if len(names) > MOST_DOMAINS:
            names = [*names[: MOST_DOMAINS - 1], _REST]
            self.notes.append(f"The {MOST_DOMAINS - 1} largest domains are shown; the others are taken together.")
        listed = ", ".join(map(literal, names))
        code = f"least(list_position([{listed}], domain), {len(names)})" if names else "1"
        self.session.run(f"CREATE TEMP VIEW coded AS SELECT *, coalesce({code}, {len(names)}) - 1 AS code FROM pool")
        low, high, n, near, far = self.session.row(
            "SELECT min(distance), max(distance), count(*), min(distance) FILTER (selected), "
            "max(distance) FILTER (selected) FROM pool WHERE has_nag"
        )
        axis, bins = _axis(low, high, n / max(len(names), 1))
        layers, layers_all, layers_selected = self._layers(len(names))
        ends = (n + 1) // 2, n // 2
        spec = self.store.spec_of(self.profile.spec.neuron_type, self.profile.spec.top_k)
        return ReportData(
            spec=spec,
            num_targets=self.profile.num_targets,
            domains=self._domains(names, axis, bins, layers),
            axis=axis,
            nearest=self._ends("distance, docid", min(ends[0], SHOWN)),
            farthest=self._ends("distance DESC, docid", min(ends[1], SHOWN)),
            selected_range=None if near is None else (near, far),
            layers_all=layers_all,
            layers_selected=layers_selected,
            unit=self.unit,
            budget=self.budget,
            provenance=self._provenance(files),
            notes=tuple(self.notes + self.store.provenance()["notes"] + self._differences()),
            target_texts=target_texts,
        )

    def _domains(
        self, names: Sequence[str], axis: Axis, bins: int, layers: Sequence[Floats | None]
    ) -> tuple[Domain, ...]:
        at = f"floor((distance - {double(axis.low)}) * {double(bins / (axis.high - axis.low))})"
        at = f"CAST(least(greatest({at}, 0), {bins - 1}) AS INTEGER)"
        every, chosen = np.zeros((2, len(names), bins), np.int64)
        for code, i, documents, selected in self.session.rows(
            f"SELECT code, {at} AS bin, count(*), count(*) FILTER (selected) "
            "FROM coded WHERE has_nag GROUP BY code, bin"
        ):
            every[code, i], chosen[code, i] = documents, selected
        (pool,) = self.session.row("SELECT count(*) FROM pool")
        median = "median(distance)" if pool <= EXACT_MEDIAN else "approx_quantile(distance, 0.5)"
        rows = self.session.rows(
            "SELECT code, count(*), count(*) FILTER (selected), sum(amount), "
            "coalesce(sum(amount) FILTER (selected), 0), "
            f"min(distance) FILTER (has_nag), {median} FILTER (has_nag), max(distance) FILTER (has_nag) "
            "FROM coded GROUP BY code ORDER BY code"
        )
        return tuple(
            Domain(
                name=names[code][:80],
                documents=documents,
                selected=selected,
                amount=int(amount),
                selected_amount=int(selected_amount),
                nearest=nearest,
                median=middle,
                farthest=farthest,
                bins=Bins(every[code], chosen[code]),
                layers=layers[code],
            )
            for code, documents, selected, amount, selected_amount, nearest, middle, farthest in rows
        )

    def _layers(self, domains: int) -> tuple[list[Floats | None], Floats | None, Floats | None]:
        """Mean similarity of each layer: of each domain, of all, of the selected."""
        found = self.session.run(
            f"SELECT place, code, selected FROM coded WHERE has_nag AND place % {self.step} = 0 ORDER BY place"
        ).fetchnumpy()
        if self.layers is None or not len(found["place"]):
            return [None] * domains, None, None
        values = self.layers[np.asarray(found["place"], np.int64) // self.step]

        def mean(rows: npt.NDArray[np.bool_]) -> Floats | None:
            return values[rows].mean(axis=0, dtype=np.float64) if rows.any() else None

        codes, selected = np.asarray(found["code"]), np.asarray(found["selected"], bool)
        return [mean(codes == i) for i in range(domains)], mean(np.ones(len(values), bool)), mean(selected)

    def _ends(self, order: str, rows: int) -> tuple[Document, ...]:
        """Documents at one end of the ranking, with the beginning of their texts."""
        found = self.session.rows(
            f"SELECT docid, domain, distance, selected, position FROM pool WHERE has_nag ORDER BY {order} LIMIT {rows}"
        )
        positions = ", ".join(str(row[-1]) for row in found if row[-1] is not None)
        texts: dict[int, str | None] = {}
        assert self.payload is not None
        text = self.payload.find(self.text_column)
        if positions and text:
            cut = f"left(CAST({text} AS VARCHAR), {4 * EXCERPT})"
            where = f"WHERE {POSITION} IN ({positions})"
            texts = self._read(
                lambda relation: dict(self.session.rows(f"SELECT {POSITION}, {cut} FROM ({relation.sql}) {where}"))
            )
        return tuple(
            Document(docid[:200], domain[:80], distance, selected, texts.get(position))
            for docid, domain, distance, selected, position in found
        )

    def _differences(self) -> list[str]:
        notes = self.store.spec_of(self.profile.spec.neuron_type).provenance_notes(self.profile.spec)
        return [f"Pool and target were made differently: {note}" for note in notes]

    def _provenance(self, files: dict[str, str]) -> dict[str, str]:
        target = self.profile.provenance
        named = {"pool": str(self.store.path), "target": target.get("store"), "target condition": target.get("where")}
        rule = [f"{self.options[n]} = {n}" for n in ("fraction", "budget") if self.options.get(n) is not None]
        named |= files | {"rule": f"{rule[0]}, counted in {self.unit}" if rule else None}
        power = self.profile.power
        named |= {"power of the profile": f"{power:g}" if power != 1 else None}
        return {name: str(value) for name, value in named.items() if value}


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


def _axis(low: float | None, high: float | None, documents: float) -> tuple[Axis, int]:
    """A common axis with round ends, and in how many bins it is cut: more where a domain has more documents."""
    if low is None or high is None:
        return Axis(0.0, 1.0), 24
    spread = max(high - low, 0.02)
    step = nice_step(spread / min(max(6 * math.sqrt(documents), 40), 80))
    first = math.floor(low / step + 1e-9)
    last = max(math.floor(high / step - 1e-9) + 1, first + round(0.02 / step))
    return Axis(first * step, last * step), last - first


def _selection_note(file: str) -> dict[str, Any]:
    """What nagfast select wrote about itself into the file; {} where it did not."""
    try:
        metadata = pq.read_schema(file).metadata or {}
        return _record(json.loads(metadata.get(b"nagfast", b"null")))
    except (OSError, ValueError, pa.ArrowException):
        return {}


def _record(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(paths: Paths) -> str:
    names = [str(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
