"""Store, profile, payload and selection -> ReportData.

The store is read once and leaves a narrow row for each document with DuckDB, which joins the payload and adds up within
its memory limit (tables.py); what is kept in Python is histograms, sums and a few documents.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nagfast.analysis.report.charts import Axis, Bins, Floats, nice_step
from nagfast.analysis.report.data import Document, Domain, ReportData
from nagfast.analysis.report.page import EXCERPT
from nagfast.analysis.report.tables import Tables
from nagfast.duck import Session, double, literal
from nagfast.errors import ArgumentError
from nagfast.relations import POSITION, Paths
from nagfast.store import NagStore
from nagfast.targets import TargetProfile

MOST_DOMAINS = 14
SHOWN = 12  # documents at each end
EXACT_MEDIAN = 5_000_000  # documents; the median of more is estimated, as DuckDB keeps all values for an exact one
_REST = "other domains"
_LEAST_SPAN = 0.02  # of the axis of distances


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
        tables = Tables(session, store, profile, text_column)
        tables.read_selection(selection_file, id_column)
        tables.read_store(max_documents, domain_column)
        tables.read_payload(payload_files, id_column, domain_column)
        files = {"payload": _names(payload_files), "selection": str(selection_file or "none")}
        return _Figures(tables).data(tuple(target_texts[:8]), files)


class _Figures:
    """Adds the table `pool` up."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.session = tables.session

    def data(self, target_texts: tuple[str, ...], files: dict[str, str]) -> ReportData:
        """Everything; domains beyond the largest are taken together."""
        tables = self.tables
        largest = f"GROUP BY domain ORDER BY count(*) DESC, domain LIMIT {MOST_DOMAINS + 1}"
        names = [name for (name,) in self.session.rows(f"SELECT domain FROM pool {largest}")]
        if len(names) > MOST_DOMAINS:
            names = [*names[: MOST_DOMAINS - 1], _REST]
            tables.notes.append(f"The {MOST_DOMAINS - 1} largest domains are shown; the others are taken together.")
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
        spec = tables.store.spec_of(tables.profile.spec.neuron_type, tables.profile.spec.top_k)
        return ReportData(
            spec=spec,
            num_targets=tables.profile.num_targets,
            domains=self._domains(names, axis, bins, layers),
            axis=axis,
            nearest=self._ends("distance, docid", min(ends[0], SHOWN)),
            farthest=self._ends("distance DESC, docid", min(ends[1], SHOWN)),
            selected_range=None if near is None else (near, far),
            layers_all=layers_all,
            layers_selected=layers_selected,
            unit=tables.unit,
            budget=tables.budget,
            provenance=self._provenance(files),
            notes=tuple(tables.notes + tables.store.provenance()["notes"] + self._differences()),
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
        tables = self.tables
        found = self.session.run(
            f"SELECT place, code, selected FROM coded WHERE has_nag AND place % {tables.step} = 0 ORDER BY place"
        ).fetchnumpy()
        if tables.layers is None or not len(found["place"]):
            return [None] * domains, None, None
        values = tables.layers[np.asarray(found["place"], np.int64) // tables.step]

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
        text = self.tables.find_text()
        if positions and text:
            cut = f"left(CAST({text} AS VARCHAR), {4 * EXCERPT})"
            where = f"WHERE {POSITION} IN ({positions})"
            texts = self.tables.read(
                lambda relation: dict(self.session.rows(f"SELECT {POSITION}, {cut} FROM ({relation.sql}) {where}"))
            )
        return tuple(
            Document(docid[:200], domain[:80], distance, selected, texts.get(position))
            for docid, domain, distance, selected, position in found
        )

    def _differences(self) -> list[str]:
        tables = self.tables
        notes = tables.store.spec_of(tables.profile.spec.neuron_type).provenance_notes(tables.profile.spec)
        return [f"Pool and target were made differently: {note}" for note in notes]

    def _provenance(self, files: dict[str, str]) -> dict[str, str]:
        tables = self.tables
        target = tables.profile.provenance
        named = {"pool": str(tables.store.path), "target": target.get("store"), "target condition": target.get("where")}
        named |= files
        share, power = tables.options.get("fraction"), tables.profile.power
        named["asked for"] = f"{share:g} of all {tables.unit}" if isinstance(share, float) else None
        named["power of the profile"] = f"{power:g}" if power != 1 else None
        return {name: str(value) for name, value in named.items() if value}


def _axis(low: float | None, high: float | None, documents: float) -> tuple[Axis, int]:
    """A common axis with round ends, and in how many bins it is cut: more where a domain has more documents."""
    if low is None or high is None:
        return Axis(0.0, 1.0), 24
    if high - low < _LEAST_SPAN:
        high = min((low + high + _LEAST_SPAN) / 2, 1.0)
        low = max(high - _LEAST_SPAN, 0.0)
    step = nice_step((high - low) / min(max(6 * math.sqrt(documents), 40), 80))
    first, last = math.floor(low / step + 1e-9), math.floor(high / step - 1e-9) + 1
    return Axis(first * step, last * step), last - first


def _names(paths: Paths) -> str:
    names = [str(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
