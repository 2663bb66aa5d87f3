"""Files of text -> distances to target profiles, without a NAG store: the file that extract and score would make.

A part for each shard of the input is written beside the output as soon as it is scored; a run that was killed is taken
up at the first part that is not there. At the end the parts, in the order of a store's shards, become the output.
Several processes (ranks.py) write a file each, of their own shards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nagfast.backbone import Backbone
from nagfast.config import ScoreConfig
from nagfast.errors import ArgumentError, NagfastError
from nagfast.files import atomic_path, clean_temporaries, remove
from nagfast.overlap import Background, Prefetch
from nagfast.progress import Progress
from nagfast.ranks import Rank
from nagfast.scoring import distance_columns, profiles_record
from nagfast.shards import common_field
from nagfast.similarities import Similarities, SimilarityPart
from nagfast.targets import TargetProfile
from nagfast.text_shards import Record, TextReader, TextShard, TextSummary

KEY = b"nagfast"
DOCID = pa.field("docid", pa.string())


@dataclass
class ScoreTextSummary(TextSummary):
    """What one process did in this run."""

    out: str = ""
    """The file it wrote."""
    rows: int = 0
    """Documents in it, those of earlier runs included."""


class _ShardScores(SimilarityPart):
    """A shard on its way through the backbone."""

    def __init__(self, shard: TextShard, profiles: int, progress: Progress) -> None:
        super().__init__(shard.tokens, profiles, progress)
        self.shard = shard


def run_score_text(
    config: ScoreConfig,
    profiles: Mapping[str, TargetProfile],
    backbone: Backbone | None = None,
    rank: Rank | None = None,
) -> ScoreTextSummary:
    """Score files of text, taking up what an earlier run left.

    Args:
        config: see ScoreConfig; from_text is given.
        profiles: name -> target, of one identity. K may differ.
        backbone: an already loaded backbone; default: loaded as the config says.
        rank: which of several processes this is; default: as the environment says.

    Returns:
        What was done; exit_code is 3 where rows or files were set aside.

    Raises:
        ArgumentError: nothing to read, a wrong setting, or a kept column named like a distance column.
        SpecMismatchError: profiles that were made with another backbone, tokenizer or setting.
        NagfastError: the output cannot be written.
    """
    rank = rank or Rank.from_environment()
    reader = TextReader(config, config.from_text, f"{config.out}.quarantine", rank)
    parts = _Parts(config, profiles, rank)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if backbone is None:
        backbone = Backbone.load(
            config.backbone,
            dtype=config.dtype,
            device=rank.device(config.device),
            trust_remote_code=config.trust_remote_code,
        )
    similarities = Similarities(backbone, profiles)
    reader.open_quarantine()
    summary = ScoreTextSummary(rank=rank, out=str(parts.out))
    _run(config, reader, similarities, parts, summary)
    record = profiles_record(profiles, similarities.notes)
    text = {"spec": similarities.spec.to_dict(), "sources": list(reader.records.values())}
    summary.rows = parts.join(record | {"text": text})
    summary.quarantined = reader.count_quarantined()
    return summary


def _run(
    config: ScoreConfig, reader: TextReader, similarities: Similarities, parts: _Parts, summary: ScoreTextSummary
) -> None:
    tokenizer, max_length = similarities.backbone.tokenizer, similarities.spec.max_length
    with (
        Progress("score") as progress,
        Prefetch(reader.shards(tokenizer, max_length, parts.has, summary), depth=2) as ahead,
        Background(depth=2) as background,
    ):

        def begun() -> Iterator[_ShardScores]:
            for shard in ahead:
                progress.begin_part(shard.share, sum(map(len, shard.tokens)))
                yield _ShardScores(shard, len(parts.columns), progress)

        for part in similarities.steps(config.batch_tokens).run(begun()):
            background.submit(_write, reader, parts, part)
            summary.shards += 1
            summary.documents += len(part.tokens)
            summary.tokens += sum(map(len, part.tokens))
            summary.empty += similarities.without_nag(part.tokens)
    summary.seconds = progress.seconds


def _write(reader: TextReader, parts: _Parts, part: _ShardScores) -> None:
    # Bad rows first: once the part is there, a rerun does not read them again.
    reader.quarantine.write(part.shard.name, part.shard.rows.bad)
    parts.write(part.shard, 1.0 - part.similarities)


class _Parts:
    """The parts of an output: a folder beside it, gone once they are joined."""

    def __init__(self, config: ScoreConfig, profiles: Mapping[str, TargetProfile], rank: Rank) -> None:
        self.columns = distance_columns(list(profiles))
        self.kept = config.all_kept
        taken = [name for name in self.kept if name in {"docid", *self.columns} or self.kept.count(name) > 1]
        if taken:
            raise ArgumentError(f"--keep: {taken[0]!r} is a column of the scores already; leave it out")
        self.out = rank.own_file(Path(config.out))
        self._all_outs = rank.all_files(Path(config.out))
        self.folder = Path(f"{config.out}.parts")
        clean_temporaries(self.folder)
        digest = hashlib.sha256()
        for name, profile in profiles.items():
            record = [name, profile.spec.to_dict(), profile.num_targets, profile.power]
            digest.update(json.dumps(record, sort_keys=True).encode() + profile.counts.tobytes())
        self._made_from = {"profiles": digest.hexdigest(), "kept": list(self.kept)}
        self._names: set[str] = set()

    def has(self, shard: str, record: Record) -> bool:
        """Whether a whole part made of the same shard and the same profiles is there."""
        path = self._path(shard)
        try:
            found = json.loads((pq.read_schema(path).metadata or {})[KEY])
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return False
        if found != json.loads(json.dumps(self._made_from | {"source": record})):
            return False
        self._names.add(shard)
        return True

    def write(self, shard: TextShard, distances: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        """Write a part, whole or not at all."""
        columns = {"docid": pa.array(shard.rows.docids, pa.string())}
        columns |= {name: pa.array(distances[:, i]) for i, name in enumerate(self.columns)}
        if shard.kept is not None:
            columns |= {name: shard.kept.column(name) for name in self.kept}
        table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(self._made_from | {"source": shard.record})})
        with atomic_path(self._path(shard.name)) as path, path.open("wb") as handle:
            pq.write_table(table, handle, compression="zstd")
        self._names.add(shard.name)

    def join(self, record: Mapping[str, Any]) -> int:
        """Write the output, remove the parts, and say how many rows there are."""
        names = sorted(self._names)
        schemas = [pq.read_schema(self._path(name)) for name in names]
        kept = [common_field(name, {schema.field(name).type for schema in schemas}) for name in self.kept]
        fields = [DOCID, *(pa.field(name, pa.float64()) for name in self.columns), *kept]
        schema = pa.schema(fields, {KEY: json.dumps(dict(record), sort_keys=True)})
        rows = 0
        with atomic_path(self.out) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for name in names:
                table = self._read(name).cast(schema)
                writer.write_table(table)
                rows += len(table)
        for name in names:
            remove(self._path(name))
        if all(path.exists() for path in self._all_outs):  # nobody writes parts any more
            with contextlib.suppress(OSError):
                self.folder.rmdir()
        return rows

    def _path(self, shard: str) -> Path:
        return self.folder / f"{shard}.parquet"

    def _read(self, shard: str) -> pa.Table:
        path = self._path(shard)
        try:
            return pq.read_table(path).select(["docid", *self.columns, *self.kept])
        except (OSError, pa.ArrowException, KeyError) as error:
            raise NagfastError(f"{path}: damaged ({str(error).splitlines()[0]}); remove it and run again") from error
