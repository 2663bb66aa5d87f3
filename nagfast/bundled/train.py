"""Train the bundled backbone: a small Qwen3-architecture model with its own byte-level BPE.

    python -m nagfast.bundled.train CORPUS --out DIR [--heldout FOLDER] [--tokens 12e6] [--max-minutes 100]

CORPUS is a folder of parquet files, one domain a file, with the columns docid, doc. The optimiser is Muon for
the matrices inside the layers and AdamW for the embedding and the norms; the learning rate follows the larger of
the two shares spent (tokens, minutes), so a run always ends fully decayed, whichever budget binds.

The result is a folder that `transformers` loads: config.json, bfloat16 model.safetensors, tokenizer files, and
training.json with the settings, the loss per held-out domain (nats and bits per byte) and the library versions.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

log = logging.getLogger("nagfast.train")

END_OF_TEXT = "<|endoftext|>"
# Words, single digits, punctuation runs and white space, as the Qwen tokenizers split them.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run."""

    corpus: str
    """Folder of parquet files with the columns docid and doc, one domain a file."""
    out: str
    """Folder to write."""
    heldout: str | None = None
    """Folder of the same form; its loss per domain goes into training.json."""
    exclude_prefix: str = "agnews-"
    """Rows whose docid begins with this are left out (empty: none)."""
    vocab_size: int = 8192
    """Entries of the tokenizer, the end-of-text token included."""
    hidden_size: int = 256
    """Width of the residual stream."""
    intermediate_size: int = 768
    """Neurons per MLP layer."""
    num_layers: int = 6
    """Decoder layers."""
    window: int = 256
    """Tokens per training row."""
    batch_tokens: int = 8192
    """Tokens per optimiser step."""
    tokens: float = 12e6
    """Token budget."""
    max_minutes: float = 100.0
    """Time budget, minutes of wall time."""
    muon_lr: float = 0.02
    """Peak learning rate of the matrices (Muon)."""
    adam_lr: float = 3e-3
    """Peak learning rate of embedding and norms (AdamW)."""
    threads: int = 2
    """CPU threads."""
    seed: int = 1
    """Seed of initialisation and shuffling."""


def read_documents(folder: str | Path, exclude_prefix: str = "") -> dict[str, list[str]]:
    """Documents of a folder of parquet files, keyed by file stem (the domain)."""
    documents: dict[str, list[str]] = {}
    for path in sorted(Path(folder).glob("*.parquet")):
        table = pq.read_table(path, columns=["docid", "doc"])
        rows = zip(table["docid"].to_pylist(), table["doc"].to_pylist(), strict=True)
        documents[path.stem] = [t for i, t in rows if t and not (exclude_prefix and i.startswith(exclude_prefix))]
    if not documents:
        raise FileNotFoundError(f"corpus: no parquet files in {folder}; give a folder with one file per domain")
    return documents


def train_tokenizer(documents: dict[str, list[str]], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over all documents; no special token is ever added to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((t for texts in documents.values() for t in texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)


def windows(documents: dict[str, list[str]], tokenizer: PreTrainedTokenizerFast, config: TrainConfig) -> np.ndarray:
    """All text as rows of window + 1 tokens (int32 [n, window + 1]), documents shuffled and parted by end-of-text."""
    texts = [t for domain in documents.values() for t in domain]
    order = np.random.default_rng(config.seed).permutation(len(texts))
    stream: list[int] = []
    for begin in range(0, len(order), 4096):
        encoded = tokenizer([texts[i] for i in order[begin : begin + 4096]], add_special_tokens=False)["input_ids"]
        for ids in encoded:
            stream.extend(ids)
            stream.append(tokenizer.eos_token_id)
    rows = (len(stream) - 1) // config.window
    flat = np.asarray(stream, dtype=np.int32)
    # Rows overlap by one token: the last label of a row is the first input of the next.
    return np.stack([flat[r * config.window : (r + 1) * config.window + 1] for r in range(rows)])


def batches(rows: np.ndarray, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless shuffled batches (int64 [size, window + 1])."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(rows))
        for begin in range(0, len(order) - size + 1, size):
            yield torch.from_numpy(rows[order[begin : begin + size]].astype(np.int64))


def new_model(config: TrainConfig, eos_token_id: int) -> Qwen3ForCausalLM:
    """A fresh Qwen3-architecture model with tied embeddings."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.hidden_size // 64,
            num_key_value_heads=config.hidden_size // 128,
            head_dim=64,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos_token_id,
            pad_token_id=eos_token_id,
        )
    )


def loss_per_domain(
    model: nn.Module, documents: dict[str, list[str]], tokenizer: PreTrainedTokenizerFast, per_domain: int = 300
) -> dict[str, dict[str, float]]:
    """Held-out loss over the first 256 tokens of each document, in nats per token and bits per byte."""
    losses: dict[str, dict[str, float]] = {}
    for domain, texts in documents.items():
        nats, tokens, size = 0.0, 0, 0
        for text in texts[:per_domain]:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"][:256]
            if len(ids) < 2:
                continue
            row = torch.tensor([ids])
            with torch.no_grad():
                logits = model(row).logits[0, :-1].float()
            nats += nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum").item()
            tokens += len(ids) - 1
            size += len(tokenizer.decode(ids[1:]).encode())
        losses[domain] = {
            "nats_per_token": round(nats / tokens, 4),
            "bits_per_byte": round(nats / math.log(2) / size, 4),
        }
    return losses


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix by Newton-Schulz, in float32 (Jordan et al. 2024).

    torch.optim.Muon iterates in bfloat16, which took 13 s a step on a CPU without bfloat16 instructions against
    0.3 s here; the update rule is the same (Nesterov momentum, scaled by sqrt(max(1, rows / columns))).
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalise(p.grad.lerp(momentum, group["momentum"]))
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Approximately the orthogonal factor of the polar decomposition (float32 [rows, columns])."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: torch.Tensor = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, 2.0315 * gram @ gram - 4.7750 * gram, x, beta=3.4445)
    return x if wide is matrix else x.mT


def fit(model: Qwen3ForCausalLM, rows: np.ndarray, config: TrainConfig) -> dict[str, float]:
    """Train in place; returns steps, tokens, minutes and the final smoothed loss."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n]
    inner_ids = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in inner_ids]
    optimisers = [
        Muon(inner, lr=config.muon_lr),
        torch.optim.AdamW(outer, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [config.muon_lr, config.adam_lr]
    begun, seen, step, smoothed = time.monotonic(), 0, 0, 0.0
    for batch in batches(rows, config.batch_tokens // config.window, config.seed):
        minutes = (time.monotonic() - begun) / 60
        spent = max(seen / config.tokens, minutes / config.max_minutes)
        if spent >= 1:
            break
        scale = min(1.0, (step + 1) / 40) * min(1.0, (1 - spent) / 0.6)
        total = 0.0
        micro = batch.split(4)
        for part in micro:
            hidden = model.model(part[:, :-1], use_cache=False).last_hidden_state
            loss = nn.functional.cross_entropy(model.lm_head(hidden).flatten(0, 1), part[:, 1:].flatten())
            (loss / len(micro)).backward()
            total += loss.item() / len(micro)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        seen += batch.shape[0] * config.window
        step += 1
        smoothed = total if step == 1 else 0.95 * smoothed + 0.05 * total
        if step % 20 == 0:
            rate = seen / (time.monotonic() - begun)
            log.info(
                "step %d  tokens %d  loss %.3f  %.0f tokens/s  spent %.1f%%", step, seen, smoothed, rate, 100 * spent
            )
    return {"steps": step, "tokens": seen, "minutes": (time.monotonic() - begun) / 60, "loss": smoothed}


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--out", required=True)
    parser.add_argument("--heldout")
    for name, default in asdict(TrainConfig(corpus="", out="")).items():
        if name not in {"corpus", "out", "heldout"}:
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    config = TrainConfig(**vars(parser.parse_args(argv)))
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    torch.set_num_interop_threads(1)

    documents = read_documents(config.corpus, config.exclude_prefix)
    tokenizer = train_tokenizer(documents, config.vocab_size)
    rows = windows(documents, tokenizer, config)
    model = new_model(config, tokenizer.eos_token_id)
    parameters = sum(p.numel() for p in model.parameters())
    log.info("%d rows of %d tokens, %d parameters", len(rows), config.window, parameters)
    result = fit(model.train(), rows, config)

    out = Path(config.out)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    report = {
        "settings": {k: v for k, v in asdict(config).items() if k not in {"corpus", "out", "heldout"}},
        "parameters": parameters,
        "corpus": {d: len(texts) for d, texts in documents.items()},
        "corpus_tokens": int(rows.shape[0] * config.window),
        "result": result,
        "torch": torch.__version__,
    }
    if config.heldout:
        heldout = read_documents(config.heldout, config.exclude_prefix)
        report["heldout"] = loss_per_domain(model.float().eval(), heldout, tokenizer)
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    log.info("%s", json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
