"""The style sheet of report.html and bench.html: phones, wide screens, dark screens, paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6875; --line: #dde2e8;
  --accent: #2f5d8c; --back: #f4f6f8; --paper: #ffffff; --top: #1d2733; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ef; --soft: #a3afbb; --line: #2f3b48; --accent: #8fb9e6; --back: #10161d;
    --paper: #1a222c; --top: #0b1016; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header { background: var(--top); color: white; padding: 1.3rem 2rem 1rem; }
h1 { margin: 0 0 .5rem; font-size: 1.5rem; font-weight: 600; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
nav a { color: #c4d4e6; text-decoration: none; font-size: .9rem; }
nav a:hover { color: white; }
main { max-width: 1080px; margin: 0 auto; padding: 1.2rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 1.1rem 1.5rem 1.3rem; margin-bottom: 1.2rem; }
h2 { margin: 0 0 .9rem; font-size: 1.12rem; color: var(--accent); }
h3 { margin: 0 0 .3rem; font-size: .92rem; }
h2, h3, summary { break-after: avoid; }
p { color: var(--soft); margin: .5rem 0; max-width: 60rem; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .7rem;
  margin-bottom: 1rem; }
.cards div { background: var(--back); border-radius: 6px; padding: .6rem .9rem; }
.cards b { display: block; font-size: 1.3rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; margin-bottom: .6rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .28rem 1.1rem .28rem 0; vertical-align: top; }
td { border-bottom: 1px solid var(--line); }
td:first-child { white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.scores td, .scores th { white-space: nowrap; }
.scores td:first-child, .scores th:first-child { position: sticky; left: 0;
  background: var(--paper); }
tr, figure, .cards div { break-inside: avoid; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.panels { display: grid; gap: 1.2rem 2rem; grid-template-columns: minmax(0, 1fr); }
.panel { min-width: 0; max-width: 36rem; break-inside: avoid; }
.panels > .wide { grid-column: 1 / -1; max-width: none; }
.panels > figure { max-width: 36rem; }
.multiples { display: grid; gap: .6rem 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 8.5rem), 1fr)); }
.multiples figure { max-width: 26rem; }
figure { margin: 0 0 .8rem; min-width: 0; }
figure img { display: block; max-width: 100%; height: auto; }
.panel img, .multiples img { width: 100%; }
figure.wide { overflow-x: auto; }
figure.wide img { min-width: 36rem; }
figcaption { color: var(--soft); font-size: .84rem; overflow-wrap: anywhere; }
audio { height: 2rem; width: 20rem; max-width: 100%; vertical-align: middle; }
details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--accent); font-size: .92rem; }
pre { background: var(--back); padding: 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .8rem; line-height: 1.45; }
@media (min-width: 700px) {
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media (max-width: 600px) {
  header { padding: 1rem; }
  main { padding: .6rem; }
  section { padding: .9rem 1rem 1rem; }
}
@media print {
  body { background: white; }
  header { background: white; color: black; padding: 0; }
  nav, audio { display: none; }
  main { max-width: none; padding: 0; }
  section { border: 0; padding: 0; }
  .panels { grid-template-columns: 1fr 1fr; }
  .scroll, figure.wide { overflow: visible; }
  figure.wide img { min-width: 0; }
  .scores td, .scores th { white-space: normal; }
}
"""
