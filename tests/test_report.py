"""The report: nothing of the documents gets out of its text, every case has its sections, the figures add up."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nagfast.analysis.report import Document, Domain, ReportData, collect, render, write_report
from nagfast.analysis.report.charts import Axis, Bins, escape, nice_step, number, percent, visible
from nagfast.analysis.report.page import EXCERPT, shorten
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.schema import NagBatch, NagSpec
from nagfast.store import NagStore, StoreWriter
from nagfast.targets import TargetProfile

SPEC = NagSpec("0123456789abcdef", 3, 64, 4, backbone="tiny", tokenizer="fedcba", versions={"nagfast": "0"})
SECTIONS = ("distance", "selection", "documents", "layers", "provenance")
NASTY = (
    "</p><script>alert(1)</script> \"q\" 'a' & <img src=x onerror=alert(1)> "
    "\u202eevil\u2066 \x00\x1b[31m \x85 \ud800 \ufeff"
)
FLAT = np.full(3, 0.1)
VOID = {"meta", "br", "rect", "line"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what a browser would see."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts, self.ids = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID or tag in {"rect", "line"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check(text):
    """What holds for every page; returns it parsed."""
    text.encode("utf-8")
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "use", "image"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"src", "href", "srcset"}]
    assert "url(" not in text and "@import" not in text
    assert len(page.ids) == len(set(page.ids)) and set(SECTIONS) <= set(page.ids)
    assert not [value for _, value in page.attributes if value and re.search(r"\bnan\b|\binf\b", value)]
    assert not re.search(r"\bnan\b|\binf\b|None", " ".join(page.texts[2:]).replace("None was", ""))
    for name, value in page.attributes:
        if name in {"width", "height", "fill-opacity"} and value[0] in "-0123456789":
            assert float(value.rstrip("%").split(",")[0]) >= 0
    return page


def domain(name, distances, selected=0, unit=100, layers=True):
    """A domain of these distances, the nearest of them selected."""
    values = np.sort(np.array(distances, float))
    bins = [np.histogram(values[:k], 20, (0, 1))[0].astype(np.int64) for k in (len(values), selected)]
    ends = [float(f(values)) for f in (np.min, np.median, np.max)] if len(values) else [None] * 3
    similar = np.linspace(0.1, 0.3, SPEC.num_layers) if layers and len(values) else None
    return Domain(name, len(values), selected, unit * len(values), unit * selected, *ends, Bins(*bins), similar)


def report(*domains, **more):
    """Data of these domains."""
    layers = {"layers_all": np.array([0.1, 0.2, 0.2]), "layers_selected": np.array([0.3, 0.1, 0.2])}
    return ReportData(SPEC, 24, domains, **({"selected_range": (0.1, 0.25)} | layers | more))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_every_section_is_there_and_nothing_is_loaded():
    documents = tuple(Document(f"d{i}", "math", 0.1 * i, i < 2, f"text {i}") for i in range(4))
    data = report(
        domain("law", [0.6, 0.7, 0.8]),
        domain("math", [0.1, 0.2, 0.3], 2),
        nearest=documents[:2],
        farthest=documents[:1:-1],
        unit="tokens",
        budget=250,
        notes=("a note",),
        target_texts=("a target",),
    )
    text = render(data)
    page = check(text)
    seen = " ".join(page.texts)
    for word in ("a note", "a target", "text 0", "text 3", "cut 0.2500", "33.3\u202f%", "tiny", "budget of 250"):
        assert word in seen, word
    assert seen.index("math") < seen.index("law"), "the nearest domain comes first"
    assert not re.search(r"https?:|//", text.split("<body>")[1])
    assert text == render(data)


def test_text_stays_text(tmp_path):
    name = "a <b>&\"'"
    document = Document(NASTY, NASTY, 0.5, True, NASTY)
    data = replace(
        report(domain(name, [0.5, 0.6], 1), domain(NASTY, [0.5])),
        spec=replace(SPEC, backbone=NASTY, dtype=NASTY, versions={NASTY: NASTY}),
        nearest=(document,),
        farthest=(document,),
        provenance={NASTY: NASTY},
        notes=(NASTY,),
        target_texts=(NASTY,),
        title=NASTY,
    )
    text = render(data)
    page = check(text)
    assert name in page.texts
    assert "<img" not in text and "onerror=alert(1)&gt;" in text
    assert not set(text) & set("\u202e\u2066\x00\x1b\x85\ud800\ufeff")
    assert "⟨U+202E⟩evil" in text and "\u2400\u241b[31m ⟨U+0085⟩ \ufffd" in text
    write_report(tmp_path / "r.html", data)
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "data",
    [
        ReportData(SPEC, 1),
        report(domain("only", [0.4]), selected_range=None, layers_selected=None),
        report(domain("equal", [0.5] * 7, 7), selected_range=(0.5, 0.5), layers_selected=FLAT, layers_all=FLAT),
        report(domain("without NAG", []), selected_range=None, layers_all=None, layers_selected=None),
        report(domain("far", [1.0, 1.0]), domain("zero", [0.0] * 40, 40, unit=0), unit="tokens"),
        report(*(domain(f"d{i}", np.linspace(0.2, 0.9, 3000), 100) for i in range(14))),
    ],
    ids=["no documents", "one document", "all equal", "no NAG", "ends", "many"],
)
def test_edges(data):
    check(render(data))


def test_few_documents_are_drawn_one_by_one():
    text = render(report(domain("a", [0.11, 0.12, 0.13, 0.52], 2)))
    assert text.count('class="sel cell"') == 2 and text.count('class="rest cell"') == 2
    text = render(report(domain("a", [0.11] * 20, 5)))
    assert text.count('class="sel cell"') == 1 and text.count('class="rest cell"') == 1


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_visible_keeps_what_can_be_read():
    plain = "Ünï çødé\n\t\u05e9\u05dc 中文 👩\u200d💻 نم\u200cکن"
    assert visible(plain) == plain
    assert visible("a\r\nb\rc\u2028d") == "a\nb\nc\nd"
    assert visible("\x7f\ufffe\U000e0041") == "\u2421\ufffd⟨U+E0041⟩"
    assert escape("<\u202e>") == "&lt;⟨U+202E⟩&gt;"


def test_numbers():
    assert number(1234567) == "1\u202f234\u202f567" and number(999) == "999"
    assert [percent(x) for x in (0, 1, 0.5, 0.0004)] == ["0\u202f%", "100\u202f%", "50.0\u202f%", "<\u202f0.1\u202f%"]
    assert [nice_step(x) for x in (0.01, 0.011, 0.3, 5, 6)] == pytest.approx([0.01, 0.02, 0.5, 5, 10])
    assert Axis(0.75, 0.88).ticks() == pytest.approx([0.75, 0.8, 0.85]) and Axis(0.75, 0.88).decimals() == 2


def test_shorten():
    assert shorten("  short\n") == "short"
    assert shorten("word " * 200).endswith("word\u00a0…") and len(shorten("word " * 200)) <= EXCERPT + 2
    assert len(shorten("x" * 5000)) == EXCERPT + 2
    assert shorten("line\n" * 30).count("\n") < 10


# --- collect ----------------------------------------------------------------------------------------------------------


def make_nags(n, seed=0):
    random = np.random.default_rng(seed).random((n, SPEC.num_layers, SPEC.num_neurons))
    return np.argsort(random, axis=2)[..., : SPEC.top_k].astype(np.uint16)


@pytest.fixture
def case(tmp_path):
    """A store of 40 documents in two shards, one without a NAG and one twice, its payload, profile and selection."""
    n = 40
    nags, tokens = make_nags(n), np.full(n, 9, np.int32)
    nags[7], tokens[7] = SPEC.sentinel, 0
    docids = [f"d{i:02d}" for i in range(n - 1)] + ["d00"]
    writer = StoreWriter(tmp_path / "store", {"fwd_up": SPEC}, ["token_num"])
    amounts = pa.table({"token_num": pa.array([10 + i for i in range(n)])})
    for shard, part in (("a", slice(0, 25)), ("b", slice(25, n))):
        kept = amounts.slice(part.start, part.stop - part.start)
        writer.write(shard, docids[part], tokens[part], {"fwd_up": nags[part]}, kept, {"name": shard})
    payload = [
        {"docid": f"d{i:02d}", "doc": f"text of {i} <b>", "dataset": "abc"[i % 3] if i % 10 else None}
        for i in range(n - 3)
    ]
    (tmp_path / "payload.jsonl").write_text("\n".join(map(json.dumps, payload)))
    profile = TargetProfile.fit(NagBatch(make_nags(6, 1), np.full(6, 9, np.int32), SPEC))
    distances = profile.distance(NagBatch(nags, tokens, SPEC))
    order = sorted(range(n - 3), key=lambda i: (distances[i], docids[i]))[:8]
    note = {"selection": {"budget": 200}, "options": {"unit": "tokens", "token_column": "token_num", "fraction": 0.2}}
    table = pa.table({"docid": [docids[i] for i in order] + ["foreign"]})
    pq.write_table(table.replace_schema_metadata({"nagfast": json.dumps(note)}), tmp_path / "selected.parquet")
    return {
        "folder": tmp_path,
        "store": NagStore.open(tmp_path / "store"),
        "profile": profile,
        "nags": nags,
        "distances": distances,
        "chosen": order,
        "arguments": ([str(tmp_path / "payload.jsonl")], str(tmp_path / "selected.parquet")),
    }


def test_collect(case):
    data = collect(case["store"], case["profile"], *case["arguments"])
    distances, chosen = case["distances"], case["chosen"]
    assert data.total("documents") == 39 and data.total("selected") == len(chosen)
    assert data.unit == "tokens" and data.budget == 200
    assert data.total("amount") == sum(10 + i for i in range(37)), "tokens of the documents the payload has"
    assert data.total("selected_amount") == sum(10 + i for i in chosen)
    assert {d.name for d in data.domains} == {"a", "b", "c", "(no domain)"}
    assert sum(d.bins.counts.sum() for d in data.domains) == 38
    assert sum(d.bins.selected.sum() for d in data.domains) == len(chosen)
    assert data.selected_range == (distances[chosen].min(), distances[chosen].max())
    with_nag = [i for i in range(39) if i != 7]
    ranked = sorted(with_nag, key=lambda i: (distances[i], i))
    assert [d.docid for d in data.nearest] == [f"d{i:02d}" for i in ranked[:12]]
    assert [d.distance for d in data.nearest] == [distances[i] for i in ranked[:12]]
    assert [d.distance for d in data.farthest] == [distances[i] for i in ranked[:-13:-1]]
    assert data.nearest[0].text == f"text of {ranked[0]} <b>" and data.nearest[0].selected
    weights = case["profile"].weights
    layers = np.stack([weights[x][case["nags"][:, x].clip(max=63)].sum(axis=1) for x in range(3)], axis=1)
    np.testing.assert_allclose(data.layers_all, layers[with_nag].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(data.layers_selected, layers[chosen].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(1 - data.layers_all.mean(), distances[with_nag].mean(), rtol=1e-6)
    notes = " ".join(data.notes)
    assert "1 document without a NAG" in notes and "1 document left out because" in notes
    assert "2 documents of the store not in the payload" in notes and "1 document of the selection" in notes
    text = render(data)
    check(text)
    assert "text of" in text and "0.2 of all tokens" in text


def test_collect_samples_the_layers_only(case):
    whole = collect(case["store"], case["profile"], *case["arguments"])
    sampled = collect(case["store"], case["profile"], *case["arguments"], max_documents=10)
    assert "one document in 4 (10 documents)" in " ".join(sampled.notes)
    assert [d.documents for d in whole.domains] == [d.documents for d in sampled.domains]
    assert sampled.layers_all.shape == (3,) and sampled.nearest == whole.nearest
    check(render(sampled))


def test_collect_without_selection_domains_and_texts(case):
    payload, _ = case["arguments"]
    data = collect(case["store"], case["profile"], payload, None, domain_column="nothing", text_column="nowhere")
    assert [d.name for d in data.domains] == ["all documents"] and data.selected_range is None
    assert data.unit == "documents" and data.total("amount") == 37 and data.nearest[0].text is None
    assert "nothing" in data.notes[0] and "nowhere" in data.notes[1]
    check(render(data))


def test_collect_of_many_domains(case):
    path = case["folder"] / "many.parquet"
    domains = [f"it's {i // 2}" for i in range(39)]
    pq.write_table(pa.table({"docid": [f"d{i:02d}" for i in range(39)], "dataset": domains}), path)
    data = collect(case["store"], case["profile"], path, case["arguments"][1])
    assert len(data.domains) == 14 and data.domains[-1].name == "other domains"
    assert data.total("documents") == 39
    check(render(data))


def test_collect_reads_text_that_is_not_utf8(case):
    path = case["folder"] / "broken.parquet"
    texts = pa.array([b"ok \xff\xfe broken"] * 39, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"docid": [f"d{i:02d}" for i in range(39)], "doc": texts, "dataset": ["x"] * 39}), path)
    data = collect(case["store"], case["profile"], path, case["arguments"][1])
    assert data.nearest[0].text == "ok \ufffd\ufffd broken"


def test_collect_of_an_empty_store(case):
    StoreWriter(case["folder"] / "empty", {"fwd_up": SPEC})
    data = collect(NagStore.open(case["folder"] / "empty"), case["profile"], *case["arguments"])
    assert data.domains == () and data.nearest == ()
    check(render(data))


def test_collect_says_what_is_wrong(case):
    store, profile, (payload, selection) = case["store"], case["profile"], case["arguments"]
    with pytest.raises(ArgumentError, match=r"no column 'key'.*--id-column"):
        collect(store, profile, payload, selection, id_column="key")
    with pytest.raises(ArgumentError, match="max_documents"):
        collect(store, profile, payload, selection, max_documents=0)
    with pytest.raises(ArgumentError, match="--payload"):
        collect(store, profile, case["folder"] / "no-such.parquet", selection)
    other = TargetProfile.fit(NagBatch(make_nags(3), np.full(3, 9, np.int32), replace(SPEC, fingerprint="ffff")))
    with pytest.raises(SpecMismatchError, match="fingerprint"):
        collect(store, other, payload, selection)
