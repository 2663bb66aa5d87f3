"""The report's style sheet: light and dark, from a phone to paper; blue and orange keep apart for colour-blind eyes."""

CSS = """\
:root {
  --bg: #fff; --ink: #1a1f26; --soft: #59626e; --rule: #e2e6ea; --panel: #f6f7f9;
  --rest: #c5ccd4; --track: #e8ebef; --sel: #0067a8; --cut: #b84a00; --onsel: #fff; --shade: #0003;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #14171b; --ink: #e7eaee; --soft: #9ba5b1; --rule: #2b3138; --panel: #1b1f25;
    --rest: #4d5763; --track: #272d34; --sel: #5ab4ec; --cut: #f2a15f; --onsel: #0c1a25; --shade: #000c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 28px 56px; }
p, h1, h2, h3, dl, dd, ol, ul { margin: 0; }
h1 { font-size: 32px; line-height: 1.15; letter-spacing: -.015em; font-weight: 650; text-wrap: balance; }
h2 { font-size: 21px; line-height: 1.25; letter-spacing: -.01em; font-weight: 650; }
h3 { font-size: 15px; font-weight: 600; }
small { font-size: 13px; color: var(--soft); }
section, footer { margin-top: 52px; padding-top: 20px; border-top: 1px solid var(--rule); }
.over { color: var(--soft); font-size: 13px; margin-bottom: 6px; }
.sentence, .lead { text-wrap: pretty; }
.sentence { margin-top: 12px; max-width: 68ch; font-size: 17px; overflow-wrap: anywhere; }
.lead { color: var(--soft); max-width: 76ch; margin: 4px 0 16px; }
.none { color: var(--soft); font-style: italic; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin: 26px 0 0 1px; }
.tiles div {
  display: flex; flex-direction: column; padding: 12px 14px; margin: -1px 0 0 -1px; border: 1px solid var(--rule);
}
.tiles dt { order: 2; font-size: 14px; line-height: 1.3; text-wrap: balance; }
.tiles dd { display: contents; }
.tiles b {
  order: 1; font-size: 23px; line-height: 1.3; font-weight: 600; letter-spacing: -.01em; white-space: nowrap;
}
.tiles small { order: 3; line-height: 1.35; }
.keys { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft); margin-bottom: 10px; }
.keys span { display: inline-flex; align-items: center; gap: 6px; }
.key { display: inline-block; width: 12px; height: 12px; }
.key.sel { background: var(--sel); } .key.rest { background: var(--rest); }
.key.line { width: 0; height: 14px; border-left: 2px dashed var(--cut); }
.key.mid { width: 3px; height: 9px; background: var(--ink); }
.two { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 28px 40px; }
.row { display: grid; grid-template-columns: 168px minmax(0, 1fr); column-gap: 16px; align-items: end; }
.two .row { grid-template-columns: 116px minmax(0, 1fr); align-items: start; }
.heatrow { align-items: center; }
.total .label { font-weight: 600; }
.total .label small { font-weight: 400; }
.total + .heatrow:not(.total) { margin-top: 8px !important; }
.heatrow .label { display: flex; justify-content: flex-end; align-items: baseline; gap: 8px; }
.label { text-align: right; line-height: 1.25; font-size: 14px; overflow-wrap: anywhere; min-width: 0; }
.label small { display: block; white-space: nowrap; }
.label bdi { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
.heatrow .label bdi { display: block; white-space: nowrap; text-overflow: ellipsis; min-width: 0; }
.chart > .row + .row { margin-top: 4px; }
.chart > .row.bare { margin-top: 0; }
.tight > .row + .row { margin-top: 1px; }
.tight > .gap { margin-bottom: 8px; }
svg { display: block; overflow: visible; }
.legend { display: inline-flex; align-items: center; gap: 6px; }
.legend i { width: 108px; }
.sel { fill: var(--sel); }
.rest { fill: var(--rest); }
.track { fill: var(--track); }
.less { fill: var(--cut); }
.heat { fill: var(--sel); }
.cell { stroke: var(--bg); stroke-width: 1px; }
.base { stroke: var(--soft); stroke-width: 1px; opacity: .55; } .tick { stroke: var(--soft); stroke-width: 1px; }
.cut { stroke: var(--cut); stroke-width: 1.5px; stroke-dasharray: 4 3; }
.median { stroke: var(--ink); stroke-width: 3px; }
text { font-size: 12.5px; fill: var(--ink); }
text.num { fill: var(--soft); }
text.cutword { fill: var(--cut); font-weight: 600; }
text.val { font-weight: 600; }
.unit { text-align: center; color: var(--soft); font-size: 13px; line-height: 1.2; }
.scroll {
  overflow-x: auto; margin-top: 22px;
  background: linear-gradient(to left, var(--bg) 40%, transparent) right / 40px 100% no-repeat local,
    linear-gradient(to left, var(--shade), transparent) right / 16px 100% no-repeat scroll;
}
details { margin-top: 16px; font-size: 14px; } details .scroll { margin-top: 8px; }
summary { cursor: pointer; color: var(--soft); width: fit-content; }
summary:hover { color: var(--ink); }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
th, td {
  padding: 5px 0 5px 18px; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: bottom;
  white-space: nowrap;
}
th { font-weight: 400; } thead th { color: var(--soft); font-size: 13px; line-height: 1.25; white-space: normal; }
th:first-child { padding-left: 0; text-align: left; }
tbody th { min-width: 7em; max-width: 18em; white-space: normal; overflow-wrap: anywhere; }
.cards { list-style: none; padding: 0; margin-top: 10px; }
.cards li { padding: 10px 0 12px; border-top: 1px solid var(--rule); break-inside: avoid; }
.meta { display: flex; align-items: baseline; flex-wrap: wrap; gap: 2px 10px; font-size: 13px; }
.meta bdi { overflow-wrap: anywhere; min-width: 0; }
.docid { font-weight: 600; font-size: 14px; } .domain { color: var(--soft); }
.badge {
  background: var(--sel); color: var(--onsel); font-size: 11.5px; font-weight: 600; line-height: 1;
  padding: 3px 6px; border-radius: 3px; align-self: center;
}
.dist { margin-left: auto; font-weight: 600; font-size: 14px; }
.place { display: block; position: relative; height: 3px; margin: 5px 0 7px; background: var(--track); }
.place i {
  position: absolute; top: -2px; width: 7px; height: 7px; margin-left: -3.5px; border-radius: 50%;
  background: var(--ink);
}
.excerpt {
  font-size: 14px; line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; overflow: hidden;
  tab-size: 4;
}
details .excerpt { margin-top: 8px; padding-left: 12px; border-left: 2px solid var(--rule); }
footer ul { padding-left: 20px; margin-top: 10px; }
.facts { display: grid; grid-template-columns: 1fr 1fr; gap: 0 40px; margin-top: 12px; font-size: 14px; }
.facts div {
  display: grid; grid-template-columns: 150px minmax(0, 1fr); gap: 12px; padding: 4px 0;
  border-bottom: 1px solid var(--rule);
}
.facts dt { color: var(--soft); } .facts dd { overflow-wrap: anywhere; }
@media (max-width: 1040px) {
  .tiles { grid-template-columns: repeat(3, 1fr); }
}
@media (max-width: 720px) {
  main { padding: 24px 16px 40px; }
  h1 { font-size: 26px; }
  section, footer { margin-top: 40px; }
  .two, .facts { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles b { font-size: 20px; }
  .row { grid-template-columns: minmax(0, 1fr); }
  .row .label { text-align: left; }
  .row:not(.bare) .label, .heatrow .label {
    display: flex; justify-content: space-between; align-items: baseline; gap: 12px;
  }
  .chart > .row + .row:not(.bare) { margin-top: 12px; }
  .tight > .row + .row:not(.bare) { margin-top: 5px; }
  .two .chart > .row + .row:not(.bare) { margin-top: 4px; }
  .two .row:not(.bare) .label { display: block; }
  .facts div { grid-template-columns: 120px minmax(0, 1fr); }
}
@media print {
  :root {
    --bg: #fff; --ink: #000; --soft: #444; --rule: #ccc; --rest: #c5ccd4; --track: #e8ebef; --sel: #0067a8;
    --cut: #b84a00; --onsel: #fff; --shade: #0003;
  }
  body { font-size: 12px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .chart, .tiles, tr { break-inside: avoid; } h2, h3, .lead, .keys { break-after: avoid; }
  .scroll { overflow: visible; }
}
"""
