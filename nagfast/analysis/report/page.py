"""ReportData -> the page: one HTML file, no script, nothing loaded from elsewhere, all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nagfast.analysis.report import charts
from nagfast.analysis.report.charts import Axis, count, escape, number, percent, visible
from nagfast.analysis.report.data import Document, Domain, ReportData
from nagfast.analysis.report.style import CSS

EXCERPT = 300  # characters of a document that are shown
_EXCERPT_LINES = 7
_DASH = "\u2013"
_TIMES = "\u00d7"
_MINUS = "\u2212"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(data: ReportData) -> str:
    """The page as a string. The same data makes the same page; nothing is read."""
    domains = sorted(data.domains, key=lambda d: (d.median is None, d.median or 0.0, d.name))
    sections = (_distances, _selection, _documents, _layers)
    body = "\n".join([_header(data), *(section(data, domains) for section in sections), _provenance(data)])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(data.title)}</title>
<style>
{CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def shorten(text: str) -> str:
    """The beginning of a text: EXCERPT characters and a few lines at most, not cut inside a word."""
    text = text.strip()
    short = "\n".join(visible(text[: 4 * EXCERPT]).split("\n")[:_EXCERPT_LINES])
    if len(short) > EXCERPT:
        cut = max(short.rfind(" ", 0, EXCERPT), short.rfind("\n", 0, EXCERPT))
        short = short[: cut if cut > EXCERPT // 2 else EXCERPT]
    elif len(short) >= len(text):
        return short
    return f"{short.rstrip()}\u00a0…"


# --- building blocks --------------------------------------------------------------------------------------------------


def _section(key: str, title: str, lead: str, *content: str) -> str:
    inside = "\n".join((f'<h2 id="{key}-h">{title}</h2>', f'<p class="lead">{lead}</p>', *filter(None, content)))
    return f'<section id="{key}" aria-labelledby="{key}-h">\n{inside}\n</section>'


def _nothing(text: str) -> str:
    return f'<p class="none">{text}</p>'


def _row(label: str, detail: str, chart: str, kind: str = "") -> str:
    """A name beside its chart, or above it on a narrow page; label and detail are markup."""
    small = f"<small>{detail}</small>" if detail else ""
    name = f'<div class="label"><bdi>{label}</bdi>{small}</div>'
    return f'<div class="row {kind}">{name}<div class="plot">{chart}</div></div>\n'


def _bare(chart: str, unit: str = "") -> str:
    """A chart without a name, in line with those that have one."""
    return _row("", "", chart + (f'<p class="unit">{unit}</p>' if unit else ""), "bare")


def _chart(rows: Iterable[str], kind: str = "") -> str:
    return f'<div class="chart {kind}">\n{"".join(rows)}</div>'


def _keys(*items: tuple[str, str]) -> str:
    marks = "".join(f'<span><i class="key {kind}"></i>{text}</span>' for kind, text in items)
    return f'<p class="keys">{marks}</p>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is names and the others numbers; cells are markup."""
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    lines = []
    for name, *cells in rows:
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row"><bdi>{name}</bdi></th>{numbers}</tr>\n')
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>\n{body}\n</table></div>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _four(value: float | None) -> str:
    return _DASH if value is None else f"{value:.4f}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# --- sections ---------------------------------------------------------------------------------------------------------


def _header(data: ReportData) -> str:
    documents, selected = data.total("documents"), data.total("selected")
    backbone = escape(data.spec.backbone or data.spec.fingerprint)
    outcome = f"{number(selected)} of them {'was' if selected == 1 else 'were'} selected."
    if not selected:
        outcome = "None was selected."
    sentence = (
        f"{count(documents, 'document')}, ranked by how far the neurons that each activates in the language model "
        f"<b><bdi>{backbone}</bdi></b> overlap with those of {count(data.num_targets, 'target document')}. {outcome}"
    )
    figures = "".join(
        f"<div><dt>{label}</dt><dd><b>{value}</b><small>{detail}</small></dd></div>\n"
        for value, label, detail in _figures(data)
    )
    texts = "".join(f'<p class="excerpt" dir="auto">{escape(shorten(text))}</p>\n' for text in data.target_texts)
    target = _folded("Some of the target documents", texts) if texts else ""
    return f"""<header>
<p class="over">nagfast report</p>
<h1>{escape(data.title)}</h1>
<p class="sentence">{sentence}</p>
<dl class="tiles">
{figures}</dl>
{target}</header>"""


def _figures(data: ReportData) -> list[tuple[str, str, str]]:
    """The key figures: value, what it is, a detail."""
    documents, selected = data.total("documents"), data.total("selected")
    amount, chosen, spec = data.total("amount"), data.total("selected_amount"), data.spec
    figures = [
        (number(documents), "documents in the pool", count(len(data.domains), "domain")),
        (number(selected), "documents selected", f"{percent(_share(selected, documents))} of the pool"),
    ]
    if data.unit != "documents":
        detail = f"{number(chosen)} of {number(amount)}"
        figures.append((percent(_share(chosen, amount)), f"of the {data.unit}", detail))
    span = _DASH if data.selected_range is None else _DASH.join(f"{value:.3f}" for value in data.selected_range)
    size = charts.THIN.join((str(spec.num_layers), _TIMES, str(spec.top_k)))
    each = f"{count(spec.num_layers, 'layer')}, {number(spec.top_k)} of {number(spec.num_neurons)} in each"
    return [
        *figures,
        (span, "distance of the selection", "0 nearest, 1 nothing shared"),
        (number(data.num_targets), "target documents", "make up the profile"),
        (size, "neurons a document", each),
    ]


def _distances(data: ReportData, domains: Sequence[Domain]) -> str:
    title = "Distance from the target"
    lead = (
        "Distance is 1 minus the similarity to the target profile, so further left is nearer. The nearest domain comes "
        "first. Each row shows shares of its own documents: compare shapes, not areas."
    )
    drawn = [d for d in domains if d.bins.counts.sum()]
    if not drawn:
        return _section("distance", title, lead, _nothing("No document has a distance."))
    top = max(d.bins.counts.max() / d.bins.counts.sum() for d in drawn)
    cut = data.selected_range[1] if data.selected_range else None
    rows = [_bare(charts.cut_label(data.axis, cut))] if cut is not None else []
    for d in drawn:
        span = f"{d.name}: distances {_four(d.nearest)} to {_four(d.farthest)}, median {_four(d.median)}"
        said = f"{span}; {number(d.selected)} of {count(d.documents, 'document')} selected"
        chart = charts.histogram(d.bins, data.axis, top, cut=cut, median=d.median, title=said)
        rows.append(_row(escape(d.name), f"{number(d.documents)} · median {_four(d.median)}", chart, "ridge"))
    rows.append(_bare(charts.distance_axis(data.axis), "distance"))
    keys = [("sel", "selected"), ("rest", "not selected"), ("mid", "median")]
    keys += [("line", "cut: the farthest selected document")] if cut is not None else []
    table = _table(
        ("domain", "documents", "nearest", "median", "farthest", "selected"),
        (
            (escape(d.name), number(d.documents), *map(_four, (d.nearest, d.median, d.farthest)), number(d.selected))
            for d in domains
        ),
    )
    return _section("distance", title, lead, _keys(*keys), _chart(rows), _folded("The same in numbers", table))


def _selection(data: ReportData, domains: Sequence[Domain]) -> str:
    whole, chosen = data.total("amount"), data.total("selected_amount")
    unit = data.unit if chosen != 1 else data.unit.removesuffix("s")
    budget = f" of a budget of {number(data.budget)}" if data.budget is not None else ""
    lead = f"The selection holds {number(chosen)} {unit}{budget}; the pool has {number(whole)}."
    if not domains:
        return _section("selection", "What was selected", lead, _nothing("The pool is empty."))
    shares = [(_share(d.selected_amount, chosen), _share(d.amount, whole)) for d in domains]
    most = max(max(pair) for pair in shares)
    left, right = [], []
    for d, (of_selection, of_pool) in zip(domains, shares, strict=True):
        name, taken = escape(d.name), _share(d.selected_amount, d.amount)
        said = f"{d.name}: {percent(of_selection)} of the selection, {percent(of_pool)} of the pool"
        left.append(_row(name, "", charts.pair_of_bars(of_selection, of_pool, most, said)))
        right.append(_row(name, "", charts.part_of_whole(taken, f"{d.name}: {percent(taken)} was selected")))
    keys = _keys(("sel", f"share of the selected {data.unit}"), ("rest", f"share of the {data.unit} in the pool"))
    left_half = f"<div><h3>Make-up of the selection</h3>{keys}{_chart(left)}</div>"
    keys = _keys(("sel", f"share of its {data.unit} selected"))
    right_half = f"<div><h3>How much of each domain was taken</h3>{keys}{_chart(right)}</div>"
    both = f'<div class="two">\n{left_half}\n{right_half}\n</div>'
    return _section("selection", "What was selected", lead, both, _selection_table(data, domains, shares))


def _selection_table(data: ReportData, domains: Sequence[Domain], shares: Sequence[tuple[float, float]]) -> str:
    counted = data.unit != "documents"
    amounts = (f"pool {data.unit}", f"selected {data.unit}") if counted else ()
    heads = ("domain", "pool documents", "selected documents", *amounts, "share of selection", "share of pool", "taken")
    rows = []
    for d, pair in zip(domains, shares, strict=True):
        numbers = [d.documents, d.selected, *((d.amount, d.selected_amount) if counted else ())]
        taken = _share(d.selected_amount, d.amount)
        rows.append([escape(d.name), *map(number, numbers), *map(percent, (*pair, taken))])
    return _table(heads, rows)


def _documents(data: ReportData, _: Sequence[Domain]) -> str:
    title, lead = "Nearest and farthest documents", "The two ends of the ranking, and how each document begins."
    if not data.nearest:
        return _section("documents", title, lead, _nothing("No document has a distance."))
    columns = []
    for name, documents in (("Nearest", data.nearest), ("Farthest", data.farthest)):
        cards = "".join(_card(document, data.axis) for document in documents)
        columns += [f'<div><h3>{name}</h3>\n<ol class="cards">\n{cards}</ol></div>\n'] if cards else []
    return _section("documents", title, lead, f'<div class="two">\n{"".join(columns)}</div>')


def _card(document: Document, axis: Axis) -> str:
    mark = '<span class="badge">selected</span>' if document.selected else ""
    names = f'<bdi class="docid">{escape(document.docid)}</bdi><bdi class="domain">{escape(document.domain)}</bdi>'
    meta = f'<p class="meta">{names}{mark}<span class="dist">{document.distance:.4f}</span></p>'
    place = f'<p class="place" aria-hidden="true"><i style="left:{axis.at(document.distance):.1f}%"></i></p>'
    text = _nothing("no text") if document.text is None else ""
    if document.text is not None:
        text = f'<p class="excerpt" dir="auto">{escape(shorten(document.text))}</p>'
    return f"<li>{meta}{place}{text}</li>\n"


def _layers(data: ReportData, domains: Sequence[Domain]) -> str:
    title = "Which layers agree"
    lead = (
        "Mean similarity to the profile, layer by layer; layer 0 is next to the input. Layers where the selection "
        "stands out from the pool are those that tell the target apart."
    )
    whole = (("selected", data.layers_selected), ("whole pool", data.layers_all))
    rows = [(name, values, "heatrow total") for name, values in whole if values is not None]
    rows += [(d.name, d.layers, "heatrow") for d in domains if d.layers is not None]
    if not rows:
        return _section("layers", title, lead, _nothing("No document has a NAG."))
    table = np.stack([values for _, values, _ in rows])
    low, high = float(table.min()), float(table.max())
    parts = []
    if data.layers_selected is not None and data.layers_all is not None:
        gaps = data.layers_selected - data.layers_all
        span = f"{gaps.min():+.3f} to {gaps.max():+.3f}".replace("-", _MINUS)
        bars = charts.gap_bars(gaps, f"selected less whole pool: {span} over the layers")
        parts.append(_row(f"selected {_MINUS} whole pool", span, bars, "gap"))
    for name, values, kind in rows:
        mean = f"{values.mean():.3f}"
        said = f"{name}: mean {mean}, {values.min():.3f} to {values.max():.3f} over the layers"
        parts.append(_row(escape(name), mean, charts.heat_row(values, low, high, said), kind))
    parts.append(_bare(charts.layer_axis(data.spec.num_layers), "layer"))
    legend = f"<span>mean similarity {charts.heat_legend(low, high)}</span>"
    keys = f'<p class="keys">{legend}<span>beside each name, its mean over the layers</span></p>'
    lines = ([str(layer), *map(_four, table[:, layer])] for layer in range(table.shape[1]))
    numbers = _table(("layer", *(escape(name) for name, _, _ in rows)), lines)
    return _section("layers", title, lead, keys, _chart(parts, "tight"), _folded("The same in numbers", numbers))


def _provenance(data: ReportData) -> str:
    spec = data.spec
    facts = {
        "backbone": spec.backbone,
        "weights": spec.fingerprint,
        "tokenizer": spec.tokenizer,
        "neurons": f"{spec.neuron_type}, {spec.impact} impact, {spec.reduction}",
        "kept": f"{number(spec.top_k)} of {number(spec.num_neurons)} in each of {count(spec.num_layers, 'layer')}",
        "documents read": f"up to {count(spec.max_length, 'token')} each",
        "arithmetic": ", ".join(filter(None, (spec.dtype, spec.device))),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(spec.versions.items())),
        **data.provenance,
    }
    shown = {escape(name): escape(value) for name, value in facts.items() if value}
    listed = "".join(f"<div><dt>{name}</dt><dd><bdi>{value}</bdi></dd></div>\n" for name, value in shown.items())
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in data.notes)
    notes = f'<ul class="notes">\n{notes}</ul>\n' if notes else ""
    return f'<footer id="provenance">\n<h2>How this was made</h2>\n{notes}<dl class="facts">\n{listed}</dl>\n</footer>'
