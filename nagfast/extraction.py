"""Text -> NAGs: tokenise, pack, run the backbone, keep the top K; in memory, or from files into a store.

The file job runs three stages side by side: reading and tokenising (one thread ahead), the backbone (this thread),
writing (one thread behind). A shard is a fixed range of rows of one input file, so shards and their names depend only
on the input and --shard-rows, and a run that was killed is taken up at the first shard that is not there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nagfast.backbone import Backbone, Measure
from nagfast.config import ExtractConfig
from nagfast.errors import ArgumentError, NagfastError
from nagfast.files import atomic_write_text
from nagfast.gradients import act_grad_nags, batch_tokens_for
from nagfast.inputs import Columns, Rows, Source, UnreadableSourceError, find_sources, read_rows
from nagfast.overlap import Background, Prefetch
from nagfast.packing import PackedBatch, encode, pack
from nagfast.prefix import encode_first
from nagfast.progress import Progress
from nagfast.quarantine import Quarantine
from nagfast.records import content_digest
from nagfast.schema import NagBatch, NagSpec
from nagfast.store import StoreWriter

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
WINDOW = 8192  # documents sorted by length together in the in-memory call
TOKEN_COUNT = "token_num"


def extract(
    texts: Sequence[str],
    backbone: Backbone,
    *,
    top_k: int = 20,
    max_length: int = 120,
    neurons: str = "fwd_up",
    impact: str = "projection",
    reduction: str = "mean_abs",
    batch_tokens: int | None = None,
) -> NagBatch:
    """NAGs of some texts, in memory.

    Args:
        texts: documents; an empty one gets the sentinel.
        backbone: the frozen model.
        top_k: K, neurons kept per layer.
        max_length: tokens kept of each document.
        neurons: neuron type, one of nagfast.schema.NEURON_TYPES.
        impact: projection or act_grad (fwd_up only).
        reduction: mean_abs or l2.
        batch_tokens: tokens per step, default 2,048 on CPU and 16,384 on GPU, fewer where act_grad would not fit
            the memory.

    Returns:
        NagBatch with indices uint16 [n, L, K] (uint32 above 65,535 neurons), in the order of the texts.

    Raises:
        ArgumentError: an argument outside its range, or a text that is not a string.
    """
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"texts: item {i} is a {type(text).__name__}; give strings")
    spec = backbone.spec(top_k=top_k, neuron_type=neurons, impact=impact, reduction=reduction, max_length=max_length)
    specs = {neurons: spec}
    parts = []
    for begin in range(0, max(1, len(texts)), WINDOW):
        tokens = encode_first(backbone.tokenizer, texts[begin : begin + WINDOW], max_length)
        indices = token_nags(backbone, tokens, specs, batch_tokens)[neurons]
        parts.append(NagBatch(indices, _lengths(tokens), spec))
    return parts[0] if len(parts) == 1 else NagBatch.concatenate(parts)


def _lengths(tokens: Sequence[Array]) -> npt.NDArray[np.int32]:
    return np.fromiter((len(t) for t in tokens), dtype=np.int32, count=len(tokens))


def token_nags(
    backbone: Backbone,
    tokens: Sequence[Array],
    specs: dict[str, NagSpec],
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """NAGs of tokenised documents, one array [n, L, K] per neuron type; the sentinel where there are no tokens.

    Where the device runs out of memory the batch is cut in half and tried again; no document is lost.
    """
    out = {name: np.full((len(tokens), s.num_layers, s.top_k), s.sentinel, s.index_dtype) for name, s in specs.items()}
    budget = batch_tokens or default_batch_tokens(backbone, next(iter(specs.values())).impact)
    waiting = list(pack(tokens, budget))[::-1]
    while waiting:
        batch = waiting.pop()
        try:
            found = _batch_nags(backbone, batch, specs)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch.rows) == 1:
                raise NagfastError(
                    f"out of memory on {backbone.device} with one document of {len(batch.input_ids)} tokens; "
                    "lower --max-length or use a larger device"
                ) from error
            log.warning("out of memory with %d tokens in a step: halving", len(batch.input_ids))
            if backbone.device.type == "cuda":
                torch.cuda.empty_cache()
            waiting.extend(_halves(batch)[::-1])
            continue
        for name, indices in found.items():
            out[name][batch.rows] = indices
        if progress is not None:
            progress.advance(len(batch.rows), len(batch.input_ids))
    return out


def default_batch_tokens(backbone: Backbone, impact: str) -> int:
    """Tokens per step where none are asked for; act_grad keeps activations, so free memory counts."""
    most = BATCH_TOKENS[backbone.device.type]
    return batch_tokens_for(backbone, most) if impact == "act_grad" else most


def _batch_nags(backbone: Backbone, batch: PackedBatch, specs: dict[str, NagSpec]) -> dict[str, Array]:
    spec = next(iter(specs.values()))
    if spec.impact == "act_grad":
        return {"fwd_up": act_grad_nags(backbone, batch, spec.top_k, spec.reduction)}
    # K may differ between neuron types only through --top-ratio: take the largest, cut each.
    widest = max(s.top_k for s in specs.values())
    if all(s.top_k == widest for s in specs.values()):
        return backbone.nags(batch, widest, Measure(tuple(specs), spec.reduction))
    return {name: backbone.nags(batch, s.top_k, Measure((name,), s.reduction))[name] for name, s in specs.items()}


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _halves(batch: PackedBatch) -> list[PackedBatch]:
    middle = len(batch.rows) // 2
    cut = batch.cu_seqlens[middle]
    first = PackedBatch(batch.input_ids[:cut], batch.cu_seqlens[: middle + 1], batch.rows[:middle])
    second = PackedBatch(batch.input_ids[cut:], batch.cu_seqlens[middle:] - cut, batch.rows[middle:])
    return [first, second]


# --- files -> store ---------------------------------------------------------------------------------------------------


@dataclass
class ExtractSummary:
    """What one extraction run did."""

    documents: int = 0
    """Documents written by this run."""
    tokens: int = 0
    """Tokens the backbone saw in this run."""
    empty: int = 0
    """Documents without a NAG (no tokens) written by this run."""
    quarantined: int = 0
    """Rows set aside."""
    unreadable: list[str] = field(default_factory=list)
    """Files that could not be read to the end."""
    shards: int = 0
    """Shards written by this run."""
    resumed: int = 0
    """Shards that were there already."""
    seconds: float = 0.0
    """Wall time, the loading of the backbone left out."""

    @property
    def exit_code(self) -> int:
        """0, or 3 where rows or files were set aside."""
        return 3 if self.quarantined or self.unreadable else 0


@dataclass
class _Shard:
    name: str
    rows: Rows
    record: dict[str, Any]
    share: float
    tokens: list[Array]
    counts: Array | None


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


def run_extract(config: ExtractConfig, backbone: Backbone | None = None) -> ExtractSummary:
    """Extract files into a NAG store, taking up what an earlier run left.

    Args:
        config: see ExtractConfig.
        backbone: an already loaded backbone; default: loaded as the config says.

    Returns:
        What was done; exit_code is 3 where rows or files were set aside.

    Raises:
        ArgumentError: nothing to read, a wrong setting, or a store with other settings at --out.
        NagfastError: the store cannot be written.
    """
    sources = find_sources(config.inputs)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if backbone is None:
        backbone = Backbone.load(
            config.backbone, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code
        )
    specs = _specs(config, backbone)
    keep = (*config.keep_columns, *((TOKEN_COUNT,) if config.count_tokens else ()))
    writer = StoreWriter(config.out, specs, keep, overwrite=config.overwrite)
    records = {source.name: _record(config, source) for source in sources}
    for record in records.values():
        writer.require_same_source(record)
    _save_settings(config)
    quarantine = Quarantine(Path(config.quarantine) if config.quarantine else Path(config.out) / "quarantine")
    if config.overwrite:
        quarantine.clear(records)
    summary = ExtractSummary()
    with (
        Progress("extract") as progress,
        Prefetch(_read(config, sources, records, writer, backbone, quarantine, summary), depth=2) as shards,
        Background(depth=2) as background,
    ):
        for shard in shards:
            progress.begin_part(shard.share, sum(len(t) for t in shard.tokens))
            indices = token_nags(backbone, shard.tokens, specs, config.batch_tokens, progress)
            background.submit(_write, writer, quarantine, shard, indices)
            summary.shards += 1
            summary.documents += len(shard.tokens)
            summary.tokens += int(sum(len(t) for t in shard.tokens))
            summary.empty += sum(len(t) == 0 for t in shard.tokens)
    summary.seconds = progress.seconds
    summary.quarantined = quarantine.count(records)
    return summary


def _record(config: ExtractConfig, source: Source) -> dict[str, Any]:
    """What the shards of a source are made from: with the chunk's number, the identity of a shard."""
    try:
        content = content_digest(source)
    except UnreadableSourceError:
        content = "unreadable"  # reading it says so, and sets it aside
    return {
        "name": source.name,
        "content": content,
        "text_column": config.text_column,
        "id_column": config.id_column,
        "rows_per_chunk": config.shard_rows,
    }


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


def _read(
    config: ExtractConfig,
    sources: Sequence[Source],
    records: dict[str, dict[str, Any]],
    writer: StoreWriter,
    backbone: Backbone,
    quarantine: Quarantine,
    summary: ExtractSummary,
) -> Iterator[_Shard]:
    """Shards that are not in the store yet, tokenised."""
    columns = Columns(config.text_column, config.id_column, config.keep_columns)
    total = max(1, sum(s.size or 1 for s in sources))
    before = 0
    for number, source in enumerate(sources):
        record, size = records[source.name], source.size or 1

        def is_done(chunk: int, record: dict[str, Any] = record) -> bool:
            done = writer.has(f"{record['name']}-{chunk:05d}", record | {"chunk": chunk})
            summary.resumed += done
            return done

        seen_bytes, num_rows = 0, _num_rows(source)
        try:
            for rows in read_rows(source, columns, rows_per_chunk=config.shard_rows, skip=is_done):
                chunk = rows.start // config.shard_rows
                tokens, counts = _encode(config, backbone, rows.texts)
                seen_bytes += sum(len(t) for t in rows.texts)
                part = (rows.start + rows.count) / num_rows if num_rows else min(1.0, seen_bytes / size)
                share = min(1.0, (before + part * size) / total)
                yield _Shard(f"{source.name}-{chunk:05d}", rows, record | {"chunk": chunk}, share, tokens, counts)
            quarantine.clear_file(source)
        except (UnreadableSourceError, ArgumentError) as error:
            # A column that the first file lacks is a wrong argument; one that a later file lacks is that file's fault.
            if isinstance(error, ArgumentError) and number == 0:
                raise
            log.error("%s", error)
            quarantine.write_file(source, str(error))
            summary.unreadable.append(source.path)
        before += size


def _encode(config: ExtractConfig, backbone: Backbone, texts: Sequence[str]) -> tuple[list[Array], Array | None]:
    """First tokens of some texts, and with --count-tokens the tokens of each whole one."""
    if config.count_tokens:
        return encode(backbone.tokenizer, texts, config.max_length)
    return encode_first(backbone.tokenizer, texts, config.max_length), None


def _num_rows(source: Source) -> int | None:
    """Rows of a local Parquet file, for the progress; None where that cannot be told cheaply."""
    if source.format != "parquet" or not Path(source.path).is_file():
        return None
    try:
        return int(pq.read_metadata(source.path).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _write(writer: StoreWriter, quarantine: Quarantine, shard: _Shard, indices: dict[str, Array]) -> None:
    rows = shard.rows
    kept = rows.kept
    if shard.counts is not None:
        column = pa.array(shard.counts, pa.int64())
        kept = pa.table({TOKEN_COUNT: column}) if kept is None else kept.append_column(TOKEN_COUNT, column)
    # Bad rows first: once the shard is there, a rerun does not read them again.
    quarantine.write(shard.name, rows.bad)
    writer.write(shard.name, rows.docids, _lengths(shard.tokens), indices, kept, shard.record)
