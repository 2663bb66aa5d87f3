"""The command line of the published reference (arXiv 2604.15706) on this engine: same flags, same files.

    python -m nagfast.adapters.reference COMMAND ...
    COMMAND: extract, rank, rank_with_quality, merge_multitarget, slice_layers, deactivation, tsne

Features are the reference's JSON lines or Parquet ({"docid", "<type>_feature": {"layer_topk_value_index": [...]}}), or
a NAG store given as a folder. What differs: rows that tie exactly are in the order of their docids; of rows with the
same docid the first is used, the others go to OUTPUT.quarantine; t-SNE compares which neurons two documents share, not
index numbers. Exit codes: 0 done, 1 failed, 2 wrong argument, 3 rows of
extract were set aside; an error is one line on stderr.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.adapters.reference_files import (
    as_batches,
    merge_selections,
    parse_layers,
    read_features,
    slice_features,
)
from nagfast.config import ExtractConfig
from nagfast.errors import ArgumentError, NagfastError
from nagfast.inputs import FINAL, Columns
from nagfast.interchange import write_reference_jsonl
from nagfast.schema import NEURON_TYPES
from nagfast.store import NagStore
from nagfast.targets import TargetProfile

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

MODEL_TYPES = (
    *(f"qwen3-{size}{kind}" for size in ("0.6b", "1.7b", "4b", "8b") for kind in ("", "-base")),
    *("llama3.2-3b", "llama3.2-3b-it", "smollm3-3b", "smollm3-3b-base"),
)


def _targets(args: argparse.Namespace, top_k: int) -> Array:
    """NAGs of the target documents that --target_payload and --target_filter leave."""
    docids, indices = read_features(args.target_features, args.feature_col, args.num_layers, top_k)
    if args.target_filter and not args.target_payload:
        raise ArgumentError("--target_filter: needs --target_payload, the file with the column to filter by")
    if args.target_payload:
        wanted = _docids_of(args.target_payload, args.target_filter_col, args.target_filter)
        indices = indices[np.fromiter((d in wanted for d in docids), bool, len(docids))]
    if not len(indices):
        raise ArgumentError("empty target set after filtering; check --target_filter and --target_payload")
    return indices


def _docids_of(payload: str, column: str, value: str | None) -> set[str]:
    """Ids of the payload's rows, or of those with `value` in `column`."""
    from nagfast.duck import Session, literal
    from nagfast.relations import open_relation

    with Session(None) as session:
        relation = open_relation(session, payload, "--target_payload")
        key, kind = relation.find("docid"), relation.find(column)
        if key is None or (value and kind is None):
            lacking = "docid" if key is None else column
            raise ArgumentError(f"--target_payload: {relation.files[0]} has no column {lacking!r}")
        where = f"CAST({kind} AS VARCHAR) = {literal(value)}" if value else "true"
        rows = session.iterate(f"SELECT CAST({key} AS VARCHAR) FROM ({relation.sql}) WHERE {where}")
        return {docid for (docid,) in rows}


# --- commands ---------------------------------------------------------------------------------------------------------


def extract(args: argparse.Namespace) -> int:
    """Text -> one JSON lines file of features per input file.

    Each input file has a NAG store of its own in the hidden folder .nagfast of the output, so that a run that was
    killed is taken up. Files that are there already are left alone, as published.
    """
    from nagfast.backbone import Backbone
    from nagfast.extract_job import run_extract

    if args.model_type not in MODEL_TYPES:
        log.info("--model_type %s is not one of the reference's; any gated causal model will do", args.model_type)
    columns = FINAL if args.format == "final" else Columns()
    out = Path(args.out_data_path)
    backbone = Backbone.load(args.model_path, dtype=published_dtype())
    left_out = 0
    for path in sorted(Path(args.in_data_path).glob("*.parquet")) or [Path(args.in_data_path) / "*.parquet"]:
        done = out / f"{path.stem}.jsonl"
        if done.exists():
            continue
        store = out / ".nagfast" / path.stem
        config = ExtractConfig(
            inputs=(str(path),),
            out=str(store),
            top_k=args.top_k,
            max_length=args.max_length,
            neurons=args.neuron_types,
            text_column=columns.text,
            id_column=columns.id,
            batch_tokens=max(args.batch_size * args.max_length, 2048),
        )
        summary = run_extract(config, backbone)
        if summary.exit_code:
            log.error("%s: %d rows could not be used, see %s", path, summary.quarantined, store / "quarantine")
            left_out += summary.quarantined + len(summary.unreadable)
        if summary.unreadable:
            continue  # a run after the file is mended writes its features
        written, empty = write_reference_jsonl(NagStore.open(store), done)
        log.info("%s: %d documents, %d without a NAG left out", done, written, empty)
    return 3 if left_out else 0


def published_dtype() -> str:
    """The reference's arithmetic: bfloat16 on GPUs, float32 on every CPU, those with bfloat16 products too."""
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


def rank(args: argparse.Namespace) -> None:
    """Target and pool features -> the nearest part of the pool."""
    from nagfast.selection import select

    target = _targets(args, args.top_k)
    docids, pool = read_features(args.pool_features, args.feature_col, args.num_layers, args.top_k)
    target_nags, pool_nags = as_batches([target, pool], args.feature_col)
    log.info("target set: %d documents, pool: %d documents", len(target_nags), len(pool_nags))
    distance = TargetProfile.fit(target_nags).distance(pool_nags)
    out = Path(args.output_path)
    quality = getattr(args, "quality_col", None)
    with tempfile.TemporaryDirectory() as folder:
        scores = Path(folder) / "scores.parquet"
        pq.write_table(pa.table({"docid": pa.array(docids, pa.string()), "nag_distance": distance}), scores)
        summary = select(
            scores,
            args.pool_payload,
            out,
            fraction=args.fraction,
            token_column=args.token_col,
            quality=quality,
            higher_is_better=getattr(args, "invert_quality", False),
        )
    if summary.exit_code:
        log.warning("%d rows could not be used: see %s.quarantine", summary.quarantined, out)
    for file in summary.unreadable:
        log.warning("%s could not be read", file)
    log.info("%s: %d documents, %d of %d tokens", out, summary.rows, summary.amount, summary.total)


def merge_multitarget(args: argparse.Namespace) -> None:
    """Selections of several targets, one after the other."""
    rows = merge_selections(args.input_paths, args.output_path, deduplicate=args.deduplicate)
    log.info("%s: %d rows of %d files", args.output_path, rows, len(args.input_paths))


def slice_layers(args: argparse.Namespace) -> None:
    """Features -> Parquet with some layers of one feature column."""
    layers = parse_layers(args.layers, args.num_layers)
    rows = slice_features(
        args.input_glob,
        args.output_path,
        feature_col=args.feature_col,
        num_layers=args.num_layers,
        top_k=args.top_k,
        layers=layers,
    )
    log.info("%s: %d rows, layers %s", args.output_path, rows, ", ".join(map(str, layers)))


def deactivation(args: argparse.Namespace) -> None:
    """Target features -> the most frequent neurons per layer."""
    from nagfast.analysis.deactivation import write_keys

    (target,) = as_batches([_targets(args, args.top_k_extraction)], args.feature_col)
    keys = write_keys(TargetProfile.fit(target), args.out, args.top_k_deactivate)
    log.info("%s: %d layers, %d neurons", args.out, len(keys), sum(map(len, keys.values())))


def tsne(args: argparse.Namespace) -> None:
    """Features with labels -> map."""
    from nagfast.analysis.tsne import embed, plot, sample

    table = _labelled(args)
    labels = ["null" if v is None else str(v) for v in table[args.label_col].to_pylist()]
    rows = sample(labels, args.per_dataset, args.seed, args.target_datasets)
    cells = table[args.feature_col].take(pa.array(rows)).to_pylist()
    size = args.num_layers * args.top_k
    good = [i for i, cell in enumerate(cells) if len((cell or {}).get(args.nested_key) or ()) == size]
    if len(good) < len(cells):
        log.warning("%d rows have no %d indices and were left out", len(cells) - len(good), size)
    flat = np.array([cells[i][args.nested_key] for i in good], np.uint32).reshape(-1, args.num_layers, args.top_k)
    (nags,) = as_batches([flat], args.feature_col)
    places = embed(nags, perplexity=args.perplexity, dimensions=args.pca_dim, max_iter=args.max_iter, seed=args.seed)
    shown = [labels[rows[i]] for i in good]
    plot(places, shown, args.out, title=f"NAGs of {args.feature_col}", label_name=args.label_col)
    log.info("%s: %d documents", args.out, len(nags))


def _labelled(args: argparse.Namespace) -> pa.Table:
    path = Path(args.parquet)
    if not path.is_file():
        raise ArgumentError(f"--parquet: {path}: no such file")
    try:
        names = pq.read_schema(path).names
        missing = [n for n in (args.feature_col, args.label_col) if n not in names]
        if missing:
            raise ArgumentError(f"--parquet: {path} has no column {missing[0]!r}; it has {', '.join(names)}")
        return pq.read_table(path, columns=[args.feature_col, args.label_col])
    except (OSError, pa.ArrowException) as error:
        raise NagfastError(f"{path}: not a readable Parquet file ({error})") from error


# --- command line -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _rank_options(parser: argparse.ArgumentParser) -> None:
    _target_options(parser)
    parser.add_argument("--pool_features", required=True, help="glob of feature files, or a store")
    parser.add_argument("--pool_payload", required=True, help="glob of Parquet files with docid and the token column")
    parser.add_argument("--output_path", required=True, help="Parquet file to write")
    parser.add_argument("--top_k", type=int, required=True, help="K of the features")
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the pool's tokens to keep")
    parser.add_argument("--token_col", default="token_num", help="column of the token counts")


def _target_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target_features", required=True, help="glob of feature files, or a store")
    parser.add_argument("--target_payload", help="glob of files with the column to filter the target by")
    parser.add_argument("--target_filter", help="keep target documents with this value")
    parser.add_argument("--target_filter_col", default="dataset", help="in this column")
    parser.add_argument("--feature_col", default="fwd_up_feature", help="column of the features")
    parser.add_argument("--num_layers", type=int, required=True, help="L of the features")


def _quality_options(parser: argparse.ArgumentParser) -> None:
    _rank_options(parser)
    parser.add_argument("--quality_col", required=True, help="payload column to mix in; lower is better")
    parser.add_argument("--invert_quality", action="store_true", help="larger values are the better ones")


def _extract_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_type", required=True, help="taken, without effect: the model's files say what it is")
    parser.add_argument("--model_path", required=True, help="Hugging Face id or folder")
    parser.add_argument("--in_data_path", required=True, help="folder of Parquet files")
    parser.add_argument("--out_data_path", required=True, help="folder for JSON lines files")
    parser.add_argument("--format", choices=["web", "final"], default="web", help="docid, doc; or meta, content_split")
    parser.add_argument("--max_length", type=int, default=120, help="tokens kept of each document")
    parser.add_argument("--batch_size", type=int, default=6, help="documents per step; a hint for the memory needed")
    parser.add_argument("--top_k", type=int, default=20, help="neurons per layer")
    parser.add_argument("--neuron_types", default="fwd_up", help="with commas, of " + ", ".join(NEURON_TYPES))
    parser.add_argument("--attn_implementation", default="eager", help="taken, without effect: attention is packed")


def _merge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_paths", nargs="+", required=True, help="selections, one per target")
    parser.add_argument("--output_path", required=True, help="Parquet file to write")
    parser.add_argument("--deduplicate", action="store_true", help="each docid once, its first row")


def _slice_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_glob", required=True, help="feature files")
    parser.add_argument("--output_path", required=True, help="Parquet file to write")
    parser.add_argument("--feature_col", default="fwd_up_feature", help="column to cut")
    parser.add_argument("--num_layers", type=int, required=True, help="L of the features")
    parser.add_argument("--top_k", type=int, required=True, help="K of the features")
    parser.add_argument("--layers", default="last", help="last, first, or numbers from 0 with commas")


def _deactivation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=["build"], default="build", help="there is one")
    _target_options(parser)
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--top_k_extraction", type=int, required=True, help="K of the features")
    parser.add_argument("--top_k_deactivate", type=int, help="neurons per layer; default the features' K")


def _tsne_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parquet", required=True, help="file with features and labels")
    parser.add_argument("--feature_col", default="fwd_up_feature", help="column of the features")
    parser.add_argument("--nested_key", default="layer_topk_value_index", help="field of the feature records")
    parser.add_argument("--label_col", default="dataset", help="column to colour by")
    parser.add_argument("--num_layers", type=int, required=True, help="L of the features")
    parser.add_argument("--top_k", type=int, required=True, help="K of the features")
    parser.add_argument("--target_datasets", nargs="+", help="labels to draw; default all")
    parser.add_argument("--per_dataset", type=int, default=1000, help="documents per label at most")
    parser.add_argument("--seed", type=int, default=42, help="of the sample and of the map")
    parser.add_argument("--perplexity", type=float, default=30.0, help="effective number of neighbours")
    parser.add_argument("--max_iter", type=int, default=3000, help="steps")
    parser.add_argument("--use_pca", action="store_true", help="taken, without effect: rows are always reduced")
    parser.add_argument("--pca_dim", type=int, default=50, help="dimensions before t-SNE")
    parser.add_argument("--standardize", action="store_true", help="taken, without effect: entries are 0 and 1")
    parser.add_argument("--out", default="tsne_dataset.png", help="PNG file to write")


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], Callable[[argparse.ArgumentParser], None]]] = {
    "extract": (extract, _extract_options),
    "rank": (rank, _rank_options),
    "rank_with_quality": (rank, _quality_options),
    "merge_multitarget": (merge_multitarget, _merge_options),
    "slice_layers": (slice_layers, _slice_options),
    "deactivation": (deactivation, _deactivation_options),
    "tsne": (tsne, _tsne_options),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _Parser(prog="nagfast.adapters.reference", description="The published reference's commands on nagfast.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (call, options) in COMMANDS.items():
        options(commands.add_parser(name, help=(call.__doc__ or "").splitlines()[0]))
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return COMMANDS[args.command][0](args) or 0
    except NagfastError as error:
        sys.stderr.write(f"{args.command}: {' '.join(str(error).split())}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{args.command}: {error.filename or 'file'}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{args.command}: stopped\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
