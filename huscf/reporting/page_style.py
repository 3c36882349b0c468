"""The style sheet of report.html."""

STYLE = """
:root { --ink: #1d2733; --soft: #5b6875; --line: #dde2e8; --blue: #2f5d8c; --back: #f4f6f8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header { background: var(--ink); color: white; padding: 1.3rem 2rem 1rem; }
h1 { margin: 0 0 .5rem; font-size: 1.5rem; font-weight: 600; }
nav a { color: #c4d4e6; margin-right: 1.2rem; text-decoration: none; font-size: .9rem; }
nav a:hover { color: white; }
main { max-width: 1080px; margin: 0 auto; padding: 1.2rem; }
section { background: white; border: 1px solid var(--line); border-radius: 8px;
  padding: 1.1rem 1.5rem 1.3rem; margin-bottom: 1.2rem; }
h2 { margin: 0 0 .9rem; font-size: 1.12rem; color: var(--blue); }
p { color: var(--soft); margin: .5rem 0; max-width: 60rem; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem; margin-bottom: 1rem; }
.cards div { flex: 1 1 7.5rem; background: var(--back); border-radius: 6px;
  padding: .6rem .9rem; }
.cards b { display: block; font-size: 1.3rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
th, td { padding: .28rem 1.1rem .28rem 0; vertical-align: top; }
td { border-bottom: 1px solid #eef1f4; }
td:first-child { white-space: nowrap; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.pictures.wide figure { flex: 1 1 26rem; max-width: 31rem; }
.pictures.small figure { flex: 0 1 15rem; }
.pictures img { width: 100%; image-rendering: pixelated; border: 1px solid var(--line); }
figure { margin: 0 0 .8rem; }
figure img { max-width: 100%; }
figcaption { color: var(--soft); font-size: .84rem; }
audio { height: 2rem; vertical-align: middle; }
details { margin-top: .6rem; }
summary { cursor: pointer; color: var(--blue); font-size: .92rem; }
pre { background: var(--back); padding: 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .8rem; line-height: 1.45; }
"""
