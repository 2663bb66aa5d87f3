"""One frozen dataclass per command. The command line is built from these: the docstring under a field is its help."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from nagfast.errors import ArgumentError
from nagfast.schema import IMPACTS, NEURON_TYPES, REDUCTIONS

DTYPES = ("auto", "float32", "bfloat16", "float8")
UNITS = ("tokens", "bytes", "documents")
INDEX_METHODS = ("auto", "exact", "ivf", "faiss", "minhash")
AGGREGATES = ("max", "mean", "density")
TOKEN_COUNT = "token_num"
"""Column of the exact token counts that --count-tokens stores."""


def option(default: Any = dataclasses.MISSING, *, choices: tuple[str, ...] = (), positional: bool = False) -> Any:
    """A dataclass field with what the command line needs to know of it."""
    metadata = {"choices": choices, "positional": positional}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArgumentError(message)


def _check_values(config: Any) -> None:
    for item in dataclasses.fields(config):
        choices = item.metadata.get("choices", ())
        value = getattr(config, item.name)
        flag = f"--{item.name.replace('_', '-')}"
        if choices and value not in choices:
            named = ", ".join(c for c in choices if c is not None)
            raise ArgumentError(f"{flag}: got {value!r}; use one of {named}")
        if item.name == "threads" and value is not None and value < 1:
            raise ArgumentError(f"{flag}: got {value}; use at least 1")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How text is read and run through a backbone."""

    backbone: str = option("bundled")
    """Hugging Face id, local folder, or "bundled"."""
    text_column: str = option("doc")
    """Column of the text (a dotted name reaches into records)."""
    id_column: str = option("docid")
    """Column of the document id."""
    keep: str = option("")
    """Columns to carry along into the output, comma-separated."""
    count_tokens: bool = option(False)
    """Store the exact number of tokens of each whole document as the column token_num."""
    dtype: str = option("auto", choices=DTYPES)
    """Arithmetic: auto is bfloat16 on GPUs and on CPUs with bfloat16 matrix instructions, else float32. float8, on GPUs
    only, multiplies in 8 bits where that is faster and prints how many neurons stay the same."""
    device: str = option("auto")
    """auto, cpu, cuda or cuda:I."""
    batch_tokens: int | None = option(None)
    """Tokens per step (default: 2,048 on CPU, 16,384 on GPU; with act_grad fewer where free memory asks for it)."""
    shard_rows: int = option(8192)
    """Input rows per piece of work; what a killed run can lose is the pieces in flight."""
    quarantine: str | None = option(None)
    """Folder for rows that cannot be used (default: OUT/quarantine, or OUT.quarantine for a file)."""
    trust_remote_code: bool = option(False)
    """Run the model code that comes with the backbone."""

    def _check_text_options(self) -> None:
        for name in ("batch_tokens", "shard_rows"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"--{name.replace('_', '-')}: got {value}; use at least 1")

    @property
    def keep_columns(self) -> tuple[str, ...]:
        """The columns asked for with --keep."""
        return tuple(dict.fromkeys(n.strip() for n in self.keep.split(",") if n.strip()))

    @property
    def all_kept(self) -> tuple[str, ...]:
        """The columns asked for with --keep, and token_num with --count-tokens."""
        return (*self.keep_columns, *((TOKEN_COUNT,) if self.count_tokens else ()))


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(TextOptions):
    """Text -> NAG store."""

    inputs: tuple[str, ...] = option(positional=True)
    """Parquet or jsonl[.gz|.zst] files, folders, globs or fsspec URLs."""
    out: str = option()
    """Store to write: a folder. A run that was cut short is taken up where it stopped."""
    top_k: int | None = option(None)
    """Neurons kept per layer (default 20)."""
    top_ratio: float | None = option(None)
    """Neurons kept per layer as a share of the layer, in place of --top-k (0.0033 in the paper)."""
    max_length: int = option(120)
    """Tokens kept of each document."""
    neurons: str = option("fwd_up")
    """Neuron types, comma-separated: fwd_up, fwd_down, att_q, att_k, att_v, att_o."""
    impact: str = option("projection", choices=IMPACTS)
    """Impact of a neuron."""
    reduction: str = option("mean_abs", choices=REDUCTIONS)
    """How a document's tokens are drawn together."""
    threads: int | None = option(None)
    """CPU threads (default: all)."""
    overwrite: bool = option(False)
    """Replace the store instead of taking it up."""

    def __post_init__(self) -> None:
        _check_values(self)
        self._check_text_options()
        _require(bool(self.inputs), "INPUT: none given; name at least one file, folder or glob")
        _require(
            self.top_k is None or self.top_ratio is None,
            f"--top-k {self.top_k} and --top-ratio {self.top_ratio}: give one of the two",
        )
        for name in ("top_k", "max_length"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"--{name.replace('_', '-')}: got {value}; use at least 1")
        _require(
            self.top_ratio is None or 0 < self.top_ratio <= 1,
            f"--top-ratio: got {self.top_ratio}; use more than 0 and at most 1",
        )
        unknown = [n for n in self.neuron_types if n not in NEURON_TYPES]
        _require(
            not unknown and bool(self.neuron_types),
            f"--neurons: got {self.neurons!r}; use one or more of {', '.join(NEURON_TYPES)}",
        )
        _require(
            self.impact == "projection" or self.neuron_types == ("fwd_up",),
            f"--neurons: got {self.neurons!r}; act_grad is defined for fwd_up only",
        )

    @property
    def neuron_types(self) -> tuple[str, ...]:
        """The neuron types asked for, in order, once each."""
        return tuple(dict.fromkeys(n.strip() for n in self.neurons.split(",") if n.strip()))


@dataclass(frozen=True)
class ProfileConfig:
    """NAG store of the target -> target profile."""

    store: str = option(positional=True)
    """NAG store of the target documents."""
    out: str = option()
    """File to write (.npz)."""
    where: str | None = option(None)
    """SQL condition over docid, nag_tokens and the kept columns, such as "dataset = 'math'"."""
    payload: tuple[str, ...] = option([])
    """Files with further columns for --where, joined on docid."""
    id_column: str = option("docid")
    """Column of the document id in --payload."""
    neuron_type: str | None = option(None, choices=(None, *NEURON_TYPES))  # type: ignore[arg-type]
    """Which of the store's neuron types (default: fwd_up where it has it)."""
    top_k: int | None = option(None)
    """Use only the first K neurons of each layer."""
    power: float = option(1.0)
    """Exponent of the neuron frequencies."""

    def __post_init__(self) -> None:
        _check_values(self)
        _require(self.power > 0, f"--power: got {self.power}; use more than 0")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(TextOptions):
    """NAG store of the pool, or its text, + profiles -> distances."""

    store: tuple[str, ...] = option([], positional=True)
    """NAG stores of the pool."""
    from_text: tuple[str, ...] = option([])
    """In place of a store: parquet or jsonl[.gz|.zst] files, folders, globs or URLs, scored without storing NAGs; the
    options of reading and of the backbone belong to it. A run that was cut short is taken up where it stopped."""
    profile: tuple[str, ...] = option()
    """Target profile (.npz); several in one pass: --profile A --profile B."""
    out: str = option()
    """Parquet file to write: docid, nag_distance, and the columns kept."""
    threads: int | None = option(None)
    """CPU threads (default: all)."""

    def __post_init__(self) -> None:
        _check_values(self)
        self._check_text_options()
        _require(bool(self.profile), "--profile: none given; name at least one .npz made by nagfast profile")
        _require(bool(self.store) != bool(self.from_text), "STORE or --from-text: give one of the two")
        if self.store:
            for item in dataclasses.fields(TextOptions):
                flag = f"--{item.name.replace('_', '-')}"
                _require(getattr(self, item.name) == item.default, f"{flag}: belongs to --from-text; leave it out")


@dataclass(frozen=True)
class SelectConfig:
    """Scores + payload -> the selected corpus."""

    scores: tuple[str, ...] = option(positional=True)
    """Files made by nagfast score."""
    payload: tuple[str, ...] = option()
    """The documents: parquet or jsonl files, folders or globs, joined on docid."""
    out: str = option()
    """Parquet file to write: the payload's rows in order, with nag_distance."""
    fraction: float | None = option(None)
    """Share of the pool's total amount to keep (0.2 in the paper)."""
    budget: int | None = option(None)
    """Amount to keep, in --unit, in place of --fraction."""
    unit: str = option("tokens", choices=UNITS)
    """What the budget counts."""
    token_column: str = option("token_num")
    """Column of the token counts."""
    text_column: str = option("doc")
    """Column of the text (for --unit bytes)."""
    id_column: str = option("docid")
    """Column of the document id in the payload."""
    quality: str | None = option(None)
    """Payload column to mix in; rows without it are dropped."""
    higher_is_better: bool = option(False)
    """The quality column's larger values are the better ones."""
    refill: bool = option(False)
    """Several targets: take each document once and still meet the budget."""
    memory_limit: str | None = option(None)
    """Memory for the sort, such as 4GB (default: a quarter of the machine's)."""
    threads: int | None = option(None)
    """CPU threads (default: all)."""
    quarantine: str | None = option(None)
    """Folder for rows that cannot be used (default: OUT.quarantine)."""

    def __post_init__(self) -> None:
        _check_values(self)
        _check_budget(self.fraction, self.budget)


def _check_budget(fraction: float | None, budget: int | None) -> None:
    _require((fraction is None) != (budget is None), "--fraction or --budget: give one of the two")
    _require(fraction is None or 0 < fraction <= 1, f"--fraction: got {fraction}; use more than 0 and at most 1")
    _require(budget is None or budget >= 0, f"--budget: got {budget}; use 0 or more")


@dataclass(frozen=True)
class RankConfig:
    """Profile + score + select in one command."""

    store: tuple[str, ...] = option(positional=True)
    """NAG stores of the pool."""
    target: str = option()
    """NAG store of the target documents."""
    payload: tuple[str, ...] = option()
    """The pool's documents: parquet or jsonl files, folders or globs."""
    out: str = option()
    """Parquet file to write."""
    where: str | None = option(None)
    """SQL condition that picks the target documents."""
    fraction: float | None = option(None)
    """Share of the pool's total amount to keep."""
    budget: int | None = option(None)
    """Amount to keep, in --unit, in place of --fraction."""
    unit: str = option("tokens", choices=UNITS)
    """What the budget counts."""
    token_column: str = option("token_num")
    """Column of the token counts."""
    text_column: str = option("doc")
    """Column of the text (for --unit bytes)."""
    id_column: str = option("docid")
    """Column of the document id in the payload."""
    top_k: int | None = option(None)
    """Use only the first K neurons of each layer."""
    power: float = option(1.0)
    """Exponent of the neuron frequencies."""
    quality: str | None = option(None)
    """Payload column to mix in; rows without it are dropped."""
    higher_is_better: bool = option(False)
    """The quality column's larger values are the better ones."""
    memory_limit: str | None = option(None)
    """Memory for the sort, such as 4GB (default: a quarter of the machine's)."""
    threads: int | None = option(None)
    """CPU threads (default: all)."""
    quarantine: str | None = option(None)
    """Folder for rows that cannot be used (default: OUT.quarantine)."""

    def __post_init__(self) -> None:
        _check_values(self)
        _check_budget(self.fraction, self.budget)
        _require(self.power > 0, f"--power: got {self.power}; use more than 0")


@dataclass(frozen=True)
class IndexBuildConfig:
    """NAG store of the target -> index of nearest targets."""

    store: str = option(positional=True)
    """NAG store of the target documents."""
    out: str = option()
    """Index to write: a folder of its own."""
    method: str = option("auto", choices=INDEX_METHODS)
    """exact; ivf (lists, recall tuned and measured); faiss (smallest in memory); minhash (near-duplicates only);
    auto is exact for few targets, else ivf."""
    recall: float = option(0.99)
    """Share of the k nearest targets that an approximate method is to find."""
    k: int = option(10)
    """Neighbours that the recall is measured at."""
    queries: str | None = option(None)
    """NAG store of documents like those to come, to tune ivf or faiss on (default: the targets themselves)."""
    sketch: str | None = option(None, choices=(None, "pq", "simhash"))  # type: ignore[arg-type]
    """Of faiss: pq (vectors in 256 bytes) or simhash (bits, in a binary index) (default: pq)."""
    threshold: float | None = option(None)
    """Of minhash: Jaccard similarity below which targets are not returned (default: 0.8)."""
    num_perm: int | None = option(None)
    """Of minhash: values in a signature (default: 128)."""
    where: str | None = option(None)
    """SQL condition over docid, nag_tokens and the kept columns that picks the target documents."""
    neuron_type: str | None = option(None, choices=(None, *NEURON_TYPES))  # type: ignore[arg-type]
    """Which of the store's neuron types (default: fwd_up where it has it)."""
    top_k: int | None = option(None)
    """Use only the first K neurons of each layer."""
    seed: int = option(0)
    """Seed of samples and starting points."""
    threads: int | None = option(None)
    """CPU threads (default: all)."""
    overwrite: bool = option(False)
    """Replace the index that is there."""

    def __post_init__(self) -> None:
        _check_values(self)
        _require(0 < self.recall <= 1, f"--recall: got {self.recall}; use more than 0 and at most 1")
        _require(self.k >= 1, f"--k: got {self.k}; use at least 1")


@dataclass(frozen=True)
class IndexQueryConfig:
    """Index + NAG stores of the pool -> nearest targets of every document."""

    index: str = option(positional=True)
    """Folder made by nagfast index build."""
    store: tuple[str, ...] = option(positional=True)
    """NAG stores of the pool."""
    out: str = option()
    """Parquet file to write: docid, nag_distance, nearest, similarity and the kept columns; nagfast select reads it."""
    k: int = option(10)
    """Neighbours of each document."""
    reverse: bool = option(False)
    """The other way round: for each target its k nearest documents, exactly."""
    aggregate: str = option("max", choices=AGGREGATES)
    """nag_distance is 1 minus: the similarity to the nearest target (max), the mean over the k nearest, or their kernel
    density."""
    bandwidth: float = option(0.1)
    """Bandwidth of the kernel density, in units of similarity."""
    threads: int | None = option(None)
    """CPU threads (default: all)."""

    def __post_init__(self) -> None:
        _check_values(self)
        _require(self.k >= 1, f"--k: got {self.k}; use at least 1")
        _require(self.bandwidth > 0, f"--bandwidth: got {self.bandwidth}; use more than 0")


@dataclass(frozen=True)
class DemoConfig:
    """The main job with the bundled backbone on the bundled sample."""

    out: str = option("demo-out")
    """Folder to write: stores, profile, scores, selection, report.html."""
    fraction: float = option(0.15)
    """Share of the pool's tokens to select."""
    threads: int | None = option(None)
    """CPU threads (default: all)."""

    def __post_init__(self) -> None:
        _check_values(self)
        _check_budget(self.fraction, None)


@dataclass(frozen=True)
class ReportConfig:
    """Scores + stores -> one self-contained report.html."""

    store: str = option(positional=True)
    """NAG store of the pool."""
    profile: str = option()
    """Target profile (.npz)."""
    payload: tuple[str, ...] = option()
    """The pool's documents."""
    selection: str = option()
    """File made by nagfast select or rank."""
    out: str = option("report.html")
    """File to write."""
    domain_column: str = option("dataset")
    """Payload column to group by."""
    text_column: str = option("doc")
    """Column of the text."""
    id_column: str = option("docid")
    """Column of the document id in the payload."""


@dataclass(frozen=True)
class ExplainConfig:
    """Why a document scored as it did."""

    store: str = option(positional=True)
    """NAG store of the pool."""
    profile: str = option()
    """Target profile (.npz)."""
    docid: str = option()
    """The document."""
    rows: int = option(15)
    """How many (layer, neuron) rows to print."""


@dataclass(frozen=True)
class DeactivateConfig:
    """Target profile -> the neurons to switch off, per layer."""

    profile: str = option(positional=True)
    """Target profile (.npz)."""
    out: str = option()
    """JSON file to write: {"layer": [neurons]}."""
    top_k: int | None = option(None)
    """Neurons per layer (default: the profile's K)."""


@dataclass(frozen=True)
class TsneConfig:
    """Map of a store's NAGs in two dimensions."""

    store: str = option(positional=True)
    """NAG store."""
    out: str = option()
    """PNG file to write."""
    label_column: str = option("dataset")
    """Kept column to colour by."""
    per_label: int = option(300)
    """Documents per label at most."""
    perplexity: float = option(30.0)
    """Effective number of neighbours."""
    seed: int = option(0)
    """Seed of the sample and of the map."""


@dataclass(frozen=True)
class DoctorConfig:
    """What this machine has, which backend each op will take, and why."""


@cache
def field_help(cls: type) -> dict[str, str]:
    """The docstring under each field of a config class."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        found |= _own_help(each)
    return found


def _own_help(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for item, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(following, ast.Expr):
            value = following.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[item.target.id] = " ".join(value.value.split())
    return found
