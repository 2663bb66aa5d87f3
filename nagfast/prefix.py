r"""The first tokens of a text from its first characters alone, equal to those of the whole text.

Byte-level BPE first splits a text into pieces with a regular expression and then encodes each piece by itself. Where no
piece crosses a position c, and no match that begins before c looks at what follows c, the tokens of text[:c] are the
first tokens of the text. Such cuts are

* before a space that follows something other than white space;
* before one of the CJK marks U+3001, U+3002 and U+FF0C where it follows a kana or a common ideograph (old enough to be
  letters to every version of Unicode).

Why they hold: every alternative in LOCAL matches runs of one class, of which a space (or mark) at c is no part unless
it comes first, so what begins before c ends by c; the only look-ahead, `\s+(?!\S)`, ends at most at c - 1, which is not
white space, and looks no further than that. With an alternative that takes the character at c (`\s+`, or the run of
marks), a match begins at c, so that c is a border. What later steps do to a piece depends on that piece. NFC composes
nothing with a space or such a mark and leaves both as they are. An added token that has one of the cut's characters
could cross it: then, as with every normaliser and pre-tokeniser that is not known here, the whole text is encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

CHARACTERS_PER_TOKEN = 6
"""Characters encoded at first for each token wanted; English takes 4 to 5."""
WIDEN = 4
"""Where they were too few tokens, so many times more."""
CHARACTERS_PER_CALL = 1 << 22
"""Characters encoded in one call: a token takes about a hundred bytes until its number is taken out."""

_SPACE = r"(?<=\S) "
_MARKS = "\u3001\u3002\uff0c"
_CJK = f"(?<=[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5])[{_MARKS}]"
_CUTS = {"space": re.compile(_SPACE), "space and marks": re.compile(f"{_SPACE}|{_CJK}")}

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
LETTERS = {
    r"\p{L}+",
    r" ?\p{L}+",
    rf"{_LEAD}\p{{L}}+",
    rf"{_LEAD}+\p{{L}}+",
    rf"{_LEAD}[\p{{L}}\p{{M}}]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    *(rf"{_LEAD}{_UPPER}*{_LOWER}+{end}" for end in ("", f"{_SUFFIX}?")),
    *(rf"{_LEAD}{_UPPER}+{_LOWER}*{end}" for end in ("", f"{_SUFFIX}?")),
}
"""Alternatives that match a lone letter."""
OTHERS = {
    *(f" ?[^\\s\\p{{L}}\\p{{N}}]{more}{ends}" for more in ("+", "++") for ends in ("", r"[\r\n]*", r"[\r\n/]*")),
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r" ?[\p{P}\p{S}]+[\r\n]*",
}
"""Alternatives that match a lone mark."""
SPACES = r"\s+"
LOCAL = {
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", _SUFFIX, r"'(?i:[sdmt]|ll|ve|re)"),
    *(r"\p{N}", r"\p{N}+", r" ?\p{N}+", r"\p{N}{1,3}", r"\p{N}{1,2}", r"\d", r"\d+", "[0-9]", "[0-9][0-9][0-9]"),
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    *(r"\s*[\r\n]+", r"\s*[\r\n]", r"\s+(?!\S)", SPACES),
    *LETTERS,
    *OTHERS,
}
"""Alternatives of pre-tokenising expressions for which the cuts hold."""
GPT2 = [
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    r" ?\p{L}+",
    r" ?\p{N}+",
    r" ?[^\s\p{L}\p{N}]+",
    r"\s+(?!\S)",
    SPACES,
]
"""The expression built into ByteLevel."""


class Tokenizer(Protocol):
    """What encoding asks of a Hugging Face tokenizer."""

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """Encode texts: a mapping with input_ids."""


def encode_whole(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """All tokens of each text, no special tokens added.

    Texts go through the tokenizers library CHARACTERS_PER_CALL at a time, so that memory stays bounded; it runs on
    threads of its own (RAYON_NUM_THREADS, TOKENIZERS_PARALLELISM) without Python's lock.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: documents.

    Yields:
        Token numbers, one list a text, in order.
    """
    fast = _backend(tokenizer)
    for part in _parts(texts):
        if fast is None:
            yield from tokenizer(part, add_special_tokens=False)["input_ids"]
        else:
            yield from (e.ids for e in fast.encode_batch_fast(part, add_special_tokens=False))


def encode_first(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> list[Ints]:
    """First max_length tokens of each text, no special tokens added: those of encode_whole.

    Where the tokenizer is one that can be cut, only about CHARACTERS_PER_TOKEN * max_length characters are looked at.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: documents.
        max_length: tokens kept.

    Returns:
        int64 arrays, one a text.
    """
    cut = find_cut(tokenizer)
    found: list[Ints] = [np.empty(0, np.int64)] * len(texts)
    waiting: Sequence[int] = range(len(texts))
    wanted = CHARACTERS_PER_TOKEN * max_length
    while waiting:
        heads = [texts[i] if cut is None else _head(texts[i], wanted, cut) for i in waiting]
        short = []
        for i, head, ids in zip(waiting, heads, encode_whole(tokenizer, heads), strict=True):
            if len(ids) >= max_length or len(head) == len(texts[i]):
                found[i] = np.array(ids[:max_length], dtype=np.int64)
            else:
                short.append(i)
        waiting, wanted = short, wanted * WIDEN
    return found


def find_cut(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Where texts may be cut for this tokenizer (before each match), or None where nothing is known of it."""
    fast = _backend(tokenizer)
    if fast is None or type(fast.model).__name__ != "BPE" or fast.model.dropout:
        return None
    normalizers = _steps(fast.normalizer, "normalizers")
    if any(step.get("type") != "NFC" for step in normalizers):
        return None
    kind = _border(_steps(fast.pre_tokenizer, "pretokenizers"))
    if kind is None:
        return None
    contents = [token.content for token in fast.get_added_tokens_decoder().values()]
    characters = {" "} if kind == "space" else {" ", *_MARKS}
    if any(not content.isspace() and characters & set(content) for content in contents):
        return None
    return _CUTS[kind]


def _border(steps: Sequence[dict[str, Any]]) -> str | None:
    """Which cuts are borders of pieces after these pre-tokenisers, or None."""
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel":
            # It writes bytes as letters: without its own expression, later ones no longer see spaces.
            alternatives = GPT2 if step.get("use_regex", True) else []
        elif kind == "Split" and (step.get("behavior"), step.get("invert")) in (("Isolated", False), ("Removed", True)):
            alternatives = _alternatives(step.get("pattern", {}).get("Regex", ""))
        elif kind in ("Digits", "Punctuation") and step.get("behavior", "Isolated") in ("Isolated", "Contiguous"):
            continue  # by classes of single characters
        else:
            return None
        if not alternatives or not LOCAL.issuperset(alternatives):
            return None
        if SPACES in alternatives:
            marks = LETTERS.intersection(alternatives) and OTHERS.intersection(alternatives)
            return "space and marks" if marks else "space"
    return None


def _alternatives(expression: str) -> list[str]:
    """The expression cut at the bars that lie outside of all brackets."""
    expression = expression.replace("\r", r"\r").replace("\n", r"\n")  # written either way
    found, depth, in_class, begin, i = [], 0, False, 0, 0
    while i < len(expression):
        character = expression[i]
        if character == "\\":
            i += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and depth == 0:
            found.append(expression[begin:i])
            begin = i + 1
        i += 1
    return [*found, expression[begin:]]


def _steps(component: Any, parts: str) -> list[dict[str, Any]]:
    """A normaliser or pre-tokeniser as plain records, sequences laid out flat."""
    if component is None:
        return []
    waiting, steps = [json.loads(component.__getstate__())], []
    while waiting:
        step = waiting.pop(0)
        if step.get("type") == "Sequence":
            waiting = [*step[parts], *waiting]
        else:
            steps.append(step)
    return steps


def _backend(tokenizer: Tokenizer) -> Any:
    """The tokenizers library's object, set to encode whole texts; None where there is none."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None or not hasattr(fast, "encode_batch_fast"):
        return None
    fast.no_padding()  # a tokenizer file may ask for either
    fast.no_truncation()
    return fast


def _head(text: str, wanted: int, cut: re.Pattern[str]) -> str:
    if len(text) <= wanted:
        return text
    match = cut.search(text, wanted)
    return text[: match.start()] if match else text


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    characters = 0
    for text in texts:
        if part and characters + len(text) > CHARACTERS_PER_CALL:
            yield part
            part, characters = [], 0
        part.append(text)
        characters += len(text)
    if part:
        yield part
