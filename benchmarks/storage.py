"""From files: stored NAGs to scores, and scores to a selection."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast import ops
from nagfast.benchmarks.harness import Benchmark, Check, hash_inputs, register
from nagfast.benchmarks.native import synthetic_nags
from nagfast.schema import NagBatch, NagSpec
from nagfast.scoring import score_store
from nagfast.selection import select
from nagfast.store import NagStore
from nagfast.store_writer import StoreWriter
from nagfast.targets import TargetProfile

SHARD_ROWS = 65_536


def _store_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=262_144)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--neurons", type=int, default=6144)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's)")
    parser.set_defaults(rounds=7, warmup=1, min_seconds=0.2)


@register("store", _store_options)
def store(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Stored NAGs to scores, files warm, against scoring the same NAGs from memory."""
    o = options
    pa.set_cpu_count(o.threads)
    nags = synthetic_nags(o.documents, o.layers, o.top_k, o.neurons, 0)
    spec = NagSpec("synthetic", o.layers, o.neurons, o.top_k, versions={})
    targets = NagBatch(synthetic_nags(500, o.layers, o.top_k, o.neurons, 1000), np.full(500, 120, np.int32), spec)
    profile = TargetProfile.fit(targets)
    table, denominator = profile.table()
    table = np.ascontiguousarray(table[:, :, None])
    folder = Path(tempfile.mkdtemp(prefix="nagfast-bench-", dir=o.folder))
    try:
        _write_store(folder / "store", nags, spec)
        out = folder / "scores.parquet"

        def from_store(_i: int) -> np.ndarray:
            batches = NagStore.open(folder / "store").batches()
            parts = [ops.score(b.nags.indices, table, threads=o.threads) for b in batches]
            return np.concatenate(parts)[:, 0] / denominator

        def from_memory(_i: int) -> np.ndarray:
            return ops.score(nags, table, threads=o.threads)[:, 0] / denominator

        def to_file(_i: int) -> None:
            score_store(NagStore.open(folder / "store"), {"target": profile}, out, threads=o.threads)

        def check() -> Check:
            same = bool((from_store(0) == from_memory(0)).all())
            to_file(0)
            written = 1.0 - pq.read_table(out)["nag_distance"].to_numpy()
            same_file = bool(np.allclose(written, from_memory(0), rtol=0, atol=1e-15))
            return Check(same and same_file, {"exact": same, "file": same_file})

        variants = {"memory": from_memory, "store": from_store, "store to scores file": to_file}
        yield Benchmark(
            name="store",
            variants=variants,
            check=check,
            units={"documents": float(o.documents)},
            bytes_per_call=dict.fromkeys(variants, float(nags.nbytes)),
            params={n: getattr(o, n) for n in ("documents", "layers", "top_k", "neurons", "threads")},
            input_hash=hash_inputs(nags, table),
            notes=["bytes are those of the NAGs; the files are in the page cache"],
        )
    finally:
        shutil.rmtree(folder)


def _write_store(path: Path, nags: np.ndarray, spec: NagSpec) -> None:
    writer = StoreWriter(path, {"fwd_up": spec})
    for number, begin in enumerate(range(0, len(nags), SHARD_ROWS)):
        part = nags[begin : begin + SHARD_ROWS]
        docids = [f"document-{begin + i:09d}" for i in range(len(part))]
        tokens = np.full(len(part), 120, np.int32)
        source = {"name": "synthetic", "chunk": number}
        writer.write(f"part-{number:05d}", docids, tokens, {"fwd_up": part}, None, source)


def _select_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=5_000_000)
    parser.add_argument("--fraction", type=float, default=0.2)
    parser.add_argument("--memory-limit", default="2GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text-bytes", type=int, default=0, help="length of a doc column in the payload; 0: none")
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's)")
    parser.set_defaults(rounds=3, warmup=0, min_seconds=0.0)


@register("select", _select_options)
def selection(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Scores and payload to the selected corpus, against Arrow tables sorted and cut in memory."""
    o = options
    folder = Path(tempfile.mkdtemp(prefix="nagfast-bench-", dir=o.folder))
    try:
        digest = _write_pool(folder, o.documents, o.text_bytes)
        scores, payload = str(folder / "scores.parquet"), str(folder / "payload.parquet")
        paths = {name: folder / f"{name}.parquet" for name in ("ours", "arrow")}

        def ours(_i: int) -> None:
            paths["ours"].unlink(missing_ok=True)
            select(
                [scores], [payload], paths["ours"], fraction=o.fraction, memory_limit=o.memory_limit, threads=o.threads
            )

        def in_memory(_i: int) -> None:
            pa.set_cpu_count(o.threads)
            joined = pq.read_table(payload).join(pq.read_table(scores), "docid", join_type="inner")
            ordered = joined.sort_by([("nag_distance", "ascending"), ("docid", "ascending")])
            running = np.cumsum(ordered["token_num"].to_numpy())
            rows = int(np.searchsorted(running, int(running[-1] * o.fraction), side="right"))
            pq.write_table(ordered.slice(0, rows), paths["arrow"], compression="zstd")

        def check() -> Check:
            ours(0)
            in_memory(0)
            chosen, expected = (pq.read_table(paths[n], columns=["docid"]) for n in ("ours", "arrow"))
            same = chosen["docid"].equals(expected["docid"])
            return Check(same, {"same_documents_in_order": same, "rows": len(chosen)})

        yield Benchmark(
            name="select",
            variants={"arrow in memory": in_memory, "nagfast": ours},
            check=check,
            units={"documents": float(o.documents)},
            params={n: getattr(o, n) for n in ("documents", "fraction", "memory_limit", "threads", "text_bytes")},
            input_hash=digest,
            notes=["nagfast works within memory_limit; the Arrow routine holds the whole pool in memory"],
        )
    finally:
        shutil.rmtree(folder)


def _write_pool(folder: Path, documents: int, text_bytes: int) -> str:
    """Scores and payload files in different orders; distances have ties, as integer scores do."""
    rng = np.random.default_rng(0)
    distance = 1.0 - rng.integers(0, 280_000, documents) / 280_000
    tokens = rng.lognormal(5.5, 1.0, documents).astype(np.int64)
    docid = np.array([f"doc-{i:09d}" for i in range(documents)])
    pq.write_table(pa.table({"docid": docid, "nag_distance": distance}), folder / "scores.parquet")
    order = rng.permutation(documents)
    columns = {"docid": docid[order], "token_num": tokens[order]}
    if text_bytes:
        text = bytes(rng.integers(97, 123, 2 * text_bytes, dtype=np.uint8)).decode()
        starts = rng.integers(0, text_bytes, documents)
        columns["doc"] = np.array([text[s : s + text_bytes] for s in starts])
    pq.write_table(pa.table(columns), folder / "payload.parquet", row_group_size=100_000)
    return hash_inputs(distance, tokens, order)
