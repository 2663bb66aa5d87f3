"""Stored NAGs + target profiles -> distances: one pass over the NAGs for any number of profiles, memory bounded.

Output: one Parquet file with docid, nag_distance (nag_distance_<name> for each of several profiles) and the columns
kept in the stores, row for row in store order. Its footer says under "nagfast" what the profiles and the stores were. A
document without a NAG has distance 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nagfast.errors import ArgumentError
from nagfast.profile_tables import profile_tables, similarities_of_nags
from nagfast.score_file import ScoreFile
from nagfast.store import NagStore, StoreBatch
from nagfast.targets import TargetProfile

DISTANCE = "nag_distance"
ROWS = 65_536
"""Documents at a time."""


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring run did."""

    documents: int
    """Rows written."""
    empty: int
    """Documents without a NAG among them: distance 1."""
    columns: tuple[str, ...]
    """The distance columns, in the order of the profiles."""
    lowest: tuple[float, ...]
    """Smallest distance per column (NaN where there are no documents)."""
    highest: tuple[float, ...]
    """Largest distance per column."""
    notes: tuple[str, ...]
    """Differences between profiles and stores that are allowed but worth knowing."""


def distance_columns(names: Sequence[str]) -> list[str]:
    """Names of the distance columns of some profiles: nag_distance for one, nag_distance_<name> for several."""
    return [DISTANCE] if len(names) == 1 else [f"{DISTANCE}_{name}" for name in names]


def score_store(
    store: NagStore | Sequence[NagStore],
    profiles: Mapping[str, TargetProfile],
    out: Path | str,
    *,
    threads: int | None = None,
    rows: int = ROWS,
    backend: str = "auto",
) -> ScoreSummary:
    """Score every document of one or several stores against every profile.

    Args:
        store: NAGs of the pool; kept columns that not all stores have are null where they are missing.
        profiles: name -> target, all of one neuron type and identity. K may differ: the stores' NAGs are cut to each.
        out: Parquet file to write, whole or not at all.
        threads: CPU threads, default all.
        rows: documents in memory at a time.
        backend: auto, reference or cpp.

    Raises:
        ArgumentError: no store, no profile, or a kept column named like a distance column.
        SpecMismatchError: NAGs that may not be compared, both specs named.
        NagfastError: a store cannot be read or the file cannot be written.
    """
    stores = [store] if isinstance(store, NagStore) else list(store)
    if not stores or not profiles:
        raise ArgumentError(f"got {len(stores)} stores and {len(profiles)} profiles; give at least one of each")
    targets = list(profiles.values())
    names = distance_columns(list(profiles))
    notes = _check(stores, profiles)
    fields = [pa.field(name, pa.float64()) for name in names]
    tables, lows, highs = profile_tables(targets), np.full(len(names), np.nan), np.full(len(names), np.nan)
    documents = empty = 0
    top_k = max(t.spec.top_k for t in targets)
    with ScoreFile(out, stores, fields, profiles_record(profiles, notes)) as file:
        for batch in _batches(stores, targets[0].spec.neuron_type, top_k, rows):
            distances = 1.0 - similarities_of_nags(tables, batch.nags.indices, threads, backend)
            if len(distances):
                lows, highs = np.fmin(lows, distances.min(axis=0)), np.fmax(highs, distances.max(axis=0))
            documents += len(distances)
            empty += int(batch.nags.empty.sum())
            file.write(batch, {name: pa.array(distances[:, i]) for i, name in enumerate(names)})
    return ScoreSummary(documents, empty, tuple(names), tuple(lows.tolist()), tuple(highs.tolist()), tuple(notes))


def _batches(stores: Sequence[NagStore], neuron_type: str, top_k: int, rows: int) -> Iterator[StoreBatch]:
    for store in stores:
        lowered = min(top_k, store.specs[neuron_type].top_k)
        yield from store.batches(rows, neuron_type=neuron_type, top_k=lowered, columns=store.keep)


def _check(stores: Sequence[NagStore], profiles: Mapping[str, TargetProfile]) -> list[str]:
    """Refuse what cannot be compared; return notes on what differs and may."""
    notes = []
    kinds = {p.spec.neuron_type for p in profiles.values()}
    if len(kinds) > 1:
        raise ArgumentError(f"profiles: of neuron types {', '.join(sorted(kinds))}; score each type on its own")
    for store in stores:
        spec = store.spec_of(next(iter(kinds)))
        notes += [f"{store.path}: {note}" for note in store.provenance()["notes"]]
        for name, profile in profiles.items():
            profile.require_comparable(spec, f"store {store.path}", f"profile {name}")
            found = profile.spec.provenance_notes(spec)
            if profile.spec.top_k != spec.top_k:
                found.append(f"K={profile.spec.top_k} and K={spec.top_k}")
            notes += [f"profile {name} and {store.path}: {note}" for note in found]
    return list(dict.fromkeys(notes))


def profiles_record(profiles: Mapping[str, TargetProfile], notes: Sequence[str]) -> dict[str, Any]:
    """What a file of distances says of the profiles."""
    return {
        "profiles": {
            name: {"spec": p.spec.to_dict(), "num_targets": p.num_targets, "power": p.power, "provenance": p.provenance}
            for name, p in profiles.items()
        },
        "notes": list(notes),
    }
