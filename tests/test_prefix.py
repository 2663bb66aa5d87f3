"""The first tokens from the first characters are those of the whole text, for every tokenizer that is cut."""

import itertools
import random
import threading
import time

import pytest
from golden_cases import GOLDEN
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers import AutoTokenizer

from nagfast import prefix
from nagfast.bundled import MODEL
from nagfast.packing import encode

CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACE}"
QWEN = LLAMA3.replace("{1,3}", "")
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
DEEPSEEK = "|".join(
    [
        r"[!" + '"' + r"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^" + "\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[" + "\r\n]*|" + r"\s*[" + "\r\n]+|" + r"\s+(?!\S)|\s+",
    ]
)


def split(expression, behavior="isolated", invert=False):
    return pre.Split(Regex(expression), behavior, invert)


def then_bytes(*steps):
    return pre.Sequence([*steps, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


SPECIAL = [AddedToken("<|end|>", special=True, normalized=False), AddedToken("<x", normalized=False)]
SPACES = [AddedToken(" " * n, normalized=True) for n in range(2, 6)]
EDGES = [AddedToken("[L]", lstrip=True), AddedToken("[R]", rstrip=True), AddedToken("zq", single_word=True)]
BUILT = {
    "gpt2": (None, pre.ByteLevel(add_prefix_space=False), SPECIAL),
    "gpt2 with a space in front": (None, pre.ByteLevel(add_prefix_space=True), SPECIAL),
    "neox": (normalizers.NFC(), pre.ByteLevel(add_prefix_space=False), [*SPECIAL, *SPACES]),
    "starcoder": (
        None,
        pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
        SPECIAL,
    ),
    "cl100k": (None, then_bytes(split(CL100K, "removed", True)), SPECIAL),
    "llama3": (None, then_bytes(split(LLAMA3)), [*SPECIAL, *EDGES]),
    "qwen": (normalizers.NFC(), then_bytes(split(QWEN)), [*SPECIAL, *EDGES]),
    "o200k": (normalizers.Sequence([]), then_bytes(split(O200K)), SPECIAL),
    "deepseek": (
        normalizers.Sequence([]),
        then_bytes(split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK)),
        SPECIAL,
    ),
}
ATOMS = [
    *("the", "quick", "Brown", "don't", "I'LL", "we've", "'s", "'", "a", "zq", "zqa", "É", "e\u0301"),
    *("ﬁ", "\u017f", "'\u017f"),
    *("1", "22", "333", "4444", "3.14", "1,000", "²", "٣٤", "½", "Ⅷ", "\u0967\u0968"),
    *(" ", " ", " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000"),
    *("\x85", "\x1c", "\u200b", "\u0964", "ß"),
    *(".", ",", "!?", "--", "...", '"', "#$%", "/", "(", ")", "_", "|", "`", "…", "“", "。", "\uff0c", "、"),
    *("漢字", "日本語", "かな", "カナ", "か\u3099", "한국어", "\u1112\u1161\u11ab", "русский", "ελλάς", "עברית"),
    *("ไทย", "हिन्दी", "\u200d", "\ufeff", "\x00", "\ufffd"),
    *("\u0301", "\u0338", "\u20dd", "\u0345", "\U0001f600", "\U0001f469\u200d\U0001f4bb"),
    *("<|end|>", "<x", "<|en", "d|>", "[L]", "[R]", " [L]", "[R] ", "\ua7dc", "\u1c89", "\u31f0", "\u9fb0", "\u2126"),
]  # fmt: skip


def fuzzed(n, seed, longest=40):
    """Texts of random atoms; some of one atom many times, some of words mostly."""
    rng = random.Random(seed)
    words = ["the", " ", " ", "quick", " ", "zq", "漢字", "\uff0c"]
    texts = []
    for _ in range(n):
        atoms = rng.choice([ATOMS, words, rng.sample(ATOMS, 4), [*rng.sample(ATOMS, 3), " ", " "]])
        texts.append("".join(rng.choices(atoms, k=rng.randint(0, longest))))
    return texts


class Fast:
    """As much of a Hugging Face tokenizer as encoding needs."""

    def __init__(self, backend):
        self.backend_tokenizer = backend


def build(normalizer, pre_tokenizer, added):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(fuzzed(300, 1), trainer)
    tokenizer.add_tokens(added)
    return Fast(tokenizer)


@pytest.fixture(scope="module", params=[*BUILT, "bundled", "golden llama", "golden qwen3", "golden smollm3"])
def tokenizer(request):
    if request.param in BUILT:
        return build(*BUILT[request.param])
    folder = MODEL if request.param == "bundled" else GOLDEN / request.param.removeprefix("golden ") / "model"
    return AutoTokenizer.from_pretrained(folder)


def test_fuzzed_texts_give_the_tokens_of_the_whole_text(tokenizer, monkeypatch):
    """Two characters a token at first: most texts are cut, several times."""
    monkeypatch.setattr(prefix, "CHARACTERS_PER_TOKEN", 2)
    cuts = []
    whole = prefix._head
    monkeypatch.setattr(prefix, "_head", lambda *a: cuts.append(len(head := whole(*a)) < len(a[0])) or head)
    texts = fuzzed(1500, 7)
    for max_length in (1, 3, 8):
        expected, _ = encode(tokenizer, texts, max_length)
        found = prefix.encode_first(tokenizer, texts, max_length)
        assert [f.tolist() for f in found] == [e.tolist() for e in expected]
    assert sum(cuts) > 1500


def test_every_cut_is_a_border(tokenizer):
    """The tokens before each single cut are the first ones of the whole."""
    cut = prefix.find_cut(tokenizer)
    texts = fuzzed(600, 11)
    heads = [(text, text[: m.start()]) for text in texts for m in cut.finditer(text) if m.start()]
    assert len(heads) > 1000
    whole = dict(zip(texts, prefix.encode_whole(tokenizer, texts), strict=True))
    for (text, head), ids in zip(heads, prefix.encode_whole(tokenizer, [h for _, h in heads]), strict=True):
        assert whole[text][: len(ids)] == ids, (text, head)


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "added"),
    [
        (normalizers.NFKC(), pre.ByteLevel(add_prefix_space=False), []),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]), pre.ByteLevel(add_prefix_space=False), []),
        (normalizers.Prepend("x"), pre.ByteLevel(add_prefix_space=False), []),
        (None, pre.Metaspace(), []),
        (None, pre.ByteLevel(add_prefix_space=False, use_regex=False), []),
        (None, then_bytes(split(QWEN, "merged_with_next")), []),
        (None, then_bytes(split(QWEN + r"|\S+ \S+")), []),
        (None, then_bytes(split(QWEN.replace(r"\p{L}+", r"[\p{L} ]+"))), []),
        (None, pre.Sequence([pre.ByteLevel(add_prefix_space=False, use_regex=False), split(QWEN)]), []),
        (None, pre.ByteLevel(add_prefix_space=False), [AddedToken("<an image>", normalized=False)]),
        (None, then_bytes(split(QWEN)), [AddedToken("字。", normalized=False)]),
    ],
    ids=str,
)
def test_what_is_not_known_is_encoded_whole(normalizer, pre_tokenizer, added):
    tokenizer = build(normalizer, pre_tokenizer, added)
    assert prefix.find_cut(tokenizer) is None
    texts = fuzzed(50, 3)
    expected, _ = encode(tokenizer, texts, 3)
    assert [f.tolist() for f in prefix.encode_first(tokenizer, texts, 3)] == [e.tolist() for e in expected]


def test_random_merges_are_not_cut():
    assert prefix.find_cut(Fast(Tokenizer(models.BPE(dropout=0.1)))) is None
    assert prefix.find_cut(lambda texts, add_special_tokens: None) is None


def test_only_the_beginning_is_read():
    tokenizer = build(*BUILT["llama3"])
    seen = []
    fast = tokenizer.backend_tokenizer

    class Watched:
        def __getattr__(self, name):
            return getattr(fast, name)

        def encode_batch_fast(self, texts, **options):
            seen.extend(map(len, texts))
            return fast.encode_batch_fast(texts, **options)

    tokenizer.backend_tokenizer = Watched()
    texts = ["the quick brown " * 1000, "日本語、漢字。" * 1000, "x" * 900, "short text"]
    found = prefix.encode_first(tokenizer, texts, 20)
    assert [len(f) for f in found[:3]] == [20] * 3
    assert max(seen) < 1000 and 900 in seen


def test_calls_are_bounded_by_characters(monkeypatch):
    monkeypatch.setattr(prefix, "CHARACTERS_PER_CALL", 10)
    texts = ["aaaa", "bbbb", "cccc", "d" * 25, "", "eeeeeeeee", "f", ""]
    parts = list(prefix._parts(texts))
    assert list(itertools.chain(*parts)) == texts
    assert [sum(map(len, p)) for p in parts] == [8, 4, 25, 10]
    assert list(prefix._parts([])) == []


def test_other_threads_run_meanwhile():
    """The library works without Python's lock, so reading and the backbone go on beside it."""
    tokenizer = build(*BUILT["llama3"])
    texts = [" ".join(fuzzed(400, seed)) for seed in range(20)]
    gaps, done = [], threading.Event()

    def tick():
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    seconds = time.perf_counter() - begin
    done.set()
    thread.join()
    assert seconds > 0.05
    assert max(gaps) < max(0.5 * seconds, 0.05)
