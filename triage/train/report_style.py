"""How a report looks, on a monitor and on paper; text only."""

STYLE = """
:root { color-scheme: light; --ink: #1d2329; --quiet: #5b6670; --line: #d9dee3; --tint: #f4f6f8; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 32px 48px; }
h1 { font-size: 26px; font-weight: 600; margin: 0 0 2px; }
h2 { font-size: 19px; font-weight: 600; margin: 38px 0 8px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
h3 { font-size: 15px; font-weight: 600; margin: 20px 0 6px; }
p { margin: 6px 0; max-width: 140ch; }
.quiet { color: var(--quiet); font-size: 13.5px; }
.notice { font-weight: 600; color: #8a1c1c; }
.stamp { margin: 0 0 18px; padding: 8px 14px; max-width: none; background: #fff3cd; border: 1px solid #d9b84a;
         font-weight: 700; letter-spacing: .04em; }
.leakage { padding: 8px 12px; background: var(--tint); border-left: 3px solid #6b7a88; max-width: none; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 16px; }
.tiles div { flex: 1 1 180px; max-width: 260px; border: 1px solid var(--line); border-radius: 4px; padding: 10px 14px; }
.tiles .name { display: block; color: var(--quiet); font-size: 12.5px; line-height: 1.35; min-height: 2.7em; }
.tiles b { font-size: 25px; font-weight: 600; margin-right: 8px; font-variant-numeric: tabular-nums; }
.tiles .interval { color: var(--quiet); font-size: 13px; white-space: nowrap; }
.wide { overflow-x: auto; margin: 10px 0 14px; }
table { border-collapse: collapse; font-size: 13.5px; }
th, td { padding: 5px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; font-size: 12.5px; line-height: 1.3; color: var(--quiet); vertical-align: bottom;
           border-bottom: 1.5px solid #9aa5af; }
tbody th { font-weight: 500; white-space: nowrap; }
table.figures { min-width: 60%; }
table.figures td, table.figures thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
table.figures small { display: block; color: var(--quiet); font-size: 11.5px; white-space: nowrap; }
table.inline small { display: inline; margin-left: 8px; }
table.shaded td:nth-child(n+3) { padding: 2px; }
.shade { display: block; padding: 3px 8px; background: rgba(0, 114, 178, calc(var(--share) * .55)); }
table.words td { max-width: 72ch; overflow-wrap: anywhere; }
.stated { color: #00573d; font-weight: 600; } .inferred { color: #00507d; } .assumed { color: var(--quiet); }
.plot svg { display: block; width: 100%; height: auto; margin: 6px 0; }
.sheet { display: grid; grid-template-columns: repeat(6, 1fr); gap: 10px; }
.sheet figure { margin: 0; border-top: 3px solid #009e73; }
.sheet figure.wrong { border-top-color: #d55e00; }
.sheet img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; }
.sheet figcaption { font-size: 11.5px; line-height: 1.35; padding-top: 4px; overflow-wrap: anywhere; }
.sheet figcaption span { color: var(--quiet); }
.sheet .right i { color: #00573d; } .sheet .wrong i { color: #a34800; }
footer { margin-top: 40px; padding-top: 8px; border-top: 1px solid var(--line); color: var(--quiet); font-size: 13px; }
@media print {
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3, section > p { break-after: avoid; } .tiles div { flex-basis: 110px; }
  tr, figure, .plot, .tiles div { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: 8.5pt; } th, td { padding: 3px 5px; }
}
"""
