"""report.html in a real browser: three widths, light and dark, and on paper."""

import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

from huscf.colours import INK, ON_DARK, PAPER
from huscf.reporting import RunRecord
from huscf.reporting.charts import plot_plan
from huscf.reporting.page_parts import make_chart
from huscf.reporting.page_style import STYLE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")

WIDTHS = (390, 768, 1400)

#: Shows the page in frames of three widths and says what each looks like.
PROBE = """<!doctype html><meta charset="utf-8"><body><script>
const html = PAGE, found = [];
const luminance = colour => {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(value => value / 255);
  const [r, g, b] = parts.map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const contrast = element => {
  let behind = element;
  const style = e => behind.ownerDocument.defaultView.getComputedStyle(e);
  while (behind.parentElement && style(behind).backgroundColor == "rgba(0, 0, 0, 0)")
    behind = behind.parentElement;
  const pair = [style(element).color, style(behind).backgroundColor].map(luminance);
  return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
};
const measure = frame => {
  const view = frame.contentWindow, page = view.document;
  const inside = e => !e.closest(".scroll, figure.wide, pre, details:not([open])");
  const all = [...page.querySelectorAll("body *")].filter(inside);
  const written = "p, td, th, h1, h2, h3, a, figcaption, summary, span, b";
  const texts = [...page.querySelectorAll(written)];
  const style = query => view.getComputedStyle(page.querySelector(query));
  return {
    width: view.innerWidth,
    scroll_width: page.documentElement.scrollWidth,
    too_wide: all.filter(e => e.getBoundingClientRect().right > view.innerWidth + .5)
      .map(e => e.outerHTML.slice(0, 80)),
    is_dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    background: luminance(view.getComputedStyle(page.body).backgroundColor),
    least_contrast: Math.min(...texts.map(contrast)),
    decoded: [...page.images].filter(image => image.naturalWidth > 0).length,
    after_heading: style("h2").breakAfter, within_figure: style("figure").breakInside,
    charts_in_a_row: style(".multiples").gridTemplateColumns.split(" ").length,
  };
};
let waiting = 3;
for (const width of [390, 768, 1400]) {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; height: 3000px; width: ${width}px`;
  frame.srcdoc = html;
  frame.onload = () => {
    found.push(measure(frame));
    found.sort((one, other) => one.width - other.width);
    if (!--waiting) console.log("found " + JSON.stringify(found) + " end");
  };
  document.body.append(frame);
}
</script>"""


def browse(page, folder, *options, is_dark=False):
    """Open a page without a network; return what the browser's console said."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += [f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"]
    flags += ["--window-size=1400,3000", "--virtual-time-budget=5000", *options]
    command = [CHROMIUM, *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def html(run, tmp_path_factory):
    """A page with everything on it: scores of both kinds, long names, two starts."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("page") / ("a_long_name" * 12))
    spread = {"mean": 0.5, "std": 0.25, "n": 2}
    domain = {"together": {"recall": 0.5}, "over_clients": {"label_accuracy": spread}}
    names = ["digits", "negatives", "x" * 80, *(f"hospital {n}" for n in range(9))]
    scores = {"round": 2, "domains": dict.fromkeys(names, domain)}
    (folder / "metrics.json").write_text(json.dumps(scores))
    (start,) = json.loads((folder / "provenance.json").read_text())
    start["command"] = "huscf fit --config " + "very/long/path" * 30
    (folder / "provenance.json").write_text(json.dumps([start, start]))
    record = RunRecord.read(folder)
    for row in record.rows:
        for number, name in enumerate(names):
            row |= {f"eval/{name}/judge_accuracy": 0.5, f"eval/{name}/label_accuracy": number / 12}
    from huscf.reporting.page import render_page

    return render_page(record)


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_every_screen_and_can_be_read_in_light_and_dark(html, tmp_path, is_dark):
    page = tmp_path / "probe.html"
    page.write_text(PROBE.replace("PAGE", json.dumps(html).replace("</", "<\\/"), 1))
    said = "\n".join(browse(page, tmp_path, is_dark=is_dark))
    assert said.count("CONSOLE") == 1, said
    found = json.loads(re.search(r'"found (\[.*\]) end"', said, re.DOTALL).group(1))
    if found[0]["is_dark"] != is_dark:
        pytest.skip("this browser takes no colour scheme from the command line")
    assert [screen["width"] for screen in found] == list(WIDTHS)
    for screen in found:
        assert screen["scroll_width"] <= screen["width"]
        assert screen["too_wide"] == []
        assert (screen["background"] < 0.05) == is_dark
        assert screen["least_contrast"] >= 4.5
        assert screen["decoded"] == html.count("<img ")
        assert screen["after_heading"] == screen["within_figure"] == "avoid"
    rows = [screen["charts_in_a_row"] for screen in found]
    assert rows[0] == 2 and rows[2] > rows[1] > 2


def count(picture, colour):
    """Pixels of a colour."""
    wanted = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return dict((c, n) for n, c in picture.getcolors(1 << 24)).get(wanted, 0)


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_charts_follow_light_and_dark(run, tmp_path, is_dark):
    chart = make_chart(plot_plan(RunRecord.read(run).plan), "plan")
    page, shot = tmp_path / "chart.html", tmp_path / "shot.png"
    meta = '<meta name="color-scheme" content="light dark">'
    page.write_text(f"{meta}<style>{STYLE}</style><section>{chart}</section>")
    browse(page, tmp_path, f"--screenshot={shot}", is_dark=is_dark)
    with Image.open(shot) as opened:
        picture = opened.convert("RGB").crop((0, 0, 900, 400))
    shown, other = (ON_DARK, {c: c for c in ON_DARK}) if is_dark else ({}, ON_DARK)
    assert count(picture, shown.get(PAPER, PAPER)) > 50_000
    assert count(picture, shown.get(INK, INK)) > 20
    assert count(picture, other[PAPER]) == count(picture, other[INK]) == 0


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext of poppler")
def test_no_heading_is_stranded_at_the_end_of_a_printed_page(html, tmp_path):
    page, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(html)
    browse(page, tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", is_dark=True)
    text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True).stdout
    pages = [page.split("\n") for page in text.split("\f") if page.strip()]
    assert len(pages) > 2
    last = {[line for line in page if line.strip()][-1].strip() for page in pages}
    headings = set(re.findall(r"<h[23]>(.*?)</h", html))
    assert "Scores" in headings and not last & headings


def test_the_browser_tests_would_notice_an_error_and_what_is_too_wide(tmp_path):
    html = (
        "<h2>x</h2><figure><img src='missing.png'></figure><div class='multiples'></div>"
        "<p style='width: 500px'>wide</p><script>nothing.here()</script>"
    )
    page = tmp_path / "broken.html"
    page.write_text(PROBE.replace("PAGE", json.dumps(html).replace("</", "<\\/"), 1))
    said = "\n".join(browse(page, tmp_path))
    assert "nothing is not defined" in said
    first = json.loads(re.search(r'"found (\[.*\]) end"', said, re.DOTALL).group(1))[0]
    assert first["decoded"] == 0 and first["scroll_width"] > 390
    assert first["too_wide"] == ['<p style="width: 500px">wide</p>']
