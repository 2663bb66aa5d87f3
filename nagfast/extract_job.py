"""Files -> NAG store: reading and tokenising, the backbone, and writing side by side.

Reading and tokenising run one thread ahead, writing one behind. One process, or several that share the store
(ranks.py): the store is the same to the byte.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from nagfast.backbone import Backbone
from nagfast.config import ExtractConfig
from nagfast.errors import ArgumentError
from nagfast.extraction import NagPart, lengths, nag_steps
from nagfast.files import atomic_write_text
from nagfast.overlap import Background, Prefetch
from nagfast.progress import Progress
from nagfast.quarantine import Quarantine
from nagfast.ranks import Rank
from nagfast.schema import NagSpec
from nagfast.store import StoreWriter
from nagfast.text_shards import TextReader, TextShard, TextSummary

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]


class _ShardNags(NagPart):
    """A shard on its way through the backbone."""

    def __init__(self, shard: TextShard, specs: dict[str, NagSpec], progress: Progress) -> None:
        super().__init__(shard.tokens, specs, progress)
        self.shard = shard


def run_extract(config: ExtractConfig, backbone: Backbone | None = None, rank: Rank | None = None) -> TextSummary:
    """Extract files into a NAG store, taking up what an earlier run left.

    Args:
        config: see ExtractConfig.
        backbone: an already loaded backbone; default: loaded as the config says.
        rank: which of several processes that write the store this is; default: as the environment says.

    Returns:
        What was done; exit_code is 3 where rows or files were set aside.

    Raises:
        ArgumentError: nothing to read, a wrong setting, or a store with other settings at --out.
        NagfastError: the store cannot be written.
    """
    rank = rank or Rank.from_environment()
    if config.overwrite and not rank.alone:
        raise ArgumentError(
            f"--overwrite: {rank.world_size} processes (WORLD_SIZE) share {config.out}, and one would remove what "
            "another has written; remove the folder first and leave the option out"
        )
    reader = TextReader(config, config.inputs, Path(config.out) / "quarantine", rank)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if backbone is None:
        backbone = load_backbone(config, rank)
    specs = _specs(config, backbone)
    writer = StoreWriter(config.out, specs, config.all_kept, overwrite=config.overwrite)
    for record in reader.records.values():
        writer.require_same_source(record)
    if rank.rank == 0:
        _save_settings(config)
    quarantine = reader.open_quarantine()
    if config.overwrite:
        quarantine.clear(reader.records)
    return _run(config, backbone, reader, specs, writer)


def _run(
    config: ExtractConfig, backbone: Backbone, reader: TextReader, specs: dict[str, NagSpec], writer: StoreWriter
) -> TextSummary:
    summary = TextSummary(rank=reader.rank)
    steps = nag_steps(backbone, specs, config.batch_tokens)
    shards = reader.shards(backbone.tokenizer, config.max_length, writer.has, summary)
    with (
        Progress("extract") as progress,
        Prefetch(shards, depth=2) as ahead,
        Background(depth=2) as background,
    ):

        def parts() -> Iterator[_ShardNags]:
            for shard in ahead:
                progress.begin_part(shard.share, sum(map(len, shard.tokens)))
                yield _ShardNags(shard, specs, progress)

        for part in steps.run(parts()):
            background.submit(_write, writer, reader.quarantine, part.shard, part.nags)
            summary.shards += 1
            summary.documents += len(part.tokens)
            summary.tokens += sum(map(len, part.tokens))
            summary.empty += sum(len(t) == 0 for t in part.tokens)
    summary.seconds = progress.seconds
    summary.quarantined = reader.count_quarantined()
    return summary


def load_backbone(config: ExtractConfig, rank: Rank) -> Backbone:
    """The backbone of a config, on the device of this process."""
    return Backbone.load(
        config.backbone,
        dtype=config.dtype,
        device=rank.device(config.device),
        trust_remote_code=config.trust_remote_code,
    )


def _specs(config: ExtractConfig, backbone: Backbone) -> dict[str, NagSpec]:
    specs = {}
    for name in config.neuron_types:
        top_k = config.top_k or 20
        if config.top_ratio is not None:
            top_k = max(1, round(config.top_ratio * backbone.num_neurons(name)))
        specs[name] = backbone.spec(
            top_k=top_k,
            neuron_type=name,
            impact=config.impact,
            reduction=config.reduction,
            max_length=config.max_length,
        )
    return specs


def _save_settings(config: ExtractConfig) -> None:
    """Write the resolved settings beside the shards; say where a run that is taken up differs from the last one."""
    path = Path(config.out) / "extract.json"
    now = asdict(config)
    try:
        then = json.loads(path.read_text()) if path.exists() and not config.overwrite else now
    except ValueError:
        then = now
    for name in ("dtype", "device", "batch_tokens", "threads", "count_tokens"):
        if then.get(name, now[name]) != now[name]:
            log.warning("--%s: %s now, %s in the run before", name.replace("_", "-"), now[name], then[name])
    atomic_write_text(path, json.dumps(now, indent=2) + "\n")


def _write(writer: StoreWriter, quarantine: Quarantine, shard: TextShard, indices: dict[str, Array]) -> None:
    # Bad rows first: once the shard is there, a rerun does not read them again.
    quarantine.write(shard.name, shard.rows.bad)
    writer.write(shard.name, shard.rows.docids, lengths(shard.tokens), indices, shard.kept, shard.record)
