"""report.html: what is on it, and that a real browser shows it."""

import csv
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image

from huscf.__main__ import main
from huscf.reporting import RunRecord, write_page
from huscf.reporting.federation_history import append_federation, by_round, read_federation

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Asks the page itself how many of its pictures were decoded.
PROBE = """<script>window.onload = () => console.log("decoded " +
[...document.images].filter(image => image.naturalWidth > 0).length)</script>"""


def browse(page, folder, *options):
    """Open a page without a network; return what the browser's console said."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    flags += ["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += ["--window-size=1200,4000", "--virtual-time-budget=5000", *options]
    command = [CHROMIUM, *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_needs_nothing_beside_itself_and_shows_all_sections(run):
    html = (run / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "<script" not in html
    assert "@import" not in html
    for heading in ("What ran", "Samples", "Curves", "Clusters", "Plan", "Costs", "Configuration"):
        assert f"<h2>{heading}</h2>" in html
    for text in ("workstation", "every_n_epochs", "uplink MB", "adjusted Rand index"):
        assert text in html
    # Two domains, final and two rounds each, and six charts.
    assert html.count("<img ") == 6 + 6


def test_the_same_content_lies_in_files(run):
    assert {p.name for p in (run / "charts").iterdir()} == {
        "clusters.png",
        "clusters_by_round.png",
        "curves.png",
        "plan.png",
        "traffic.png",
        "weights.png",
    }
    with (run / "clients.csv").open() as file:
        clients = list(csv.DictReader(file))
    assert [c["client"] for c in clients] == ["0", "1", "2", "3"]
    for cluster in {c["cluster"] for c in clients}:
        weights = [float(c["weight"]) for c in clients if c["cluster"] == cluster]
        assert sum(weights) == pytest.approx(1)
    assert all(c["map_x"] and float(c["uplink_mbytes"]) > 0 for c in clients)
    with (run / "metrics.csv").open() as file:
        total = sum(float(row["traffic/mbytes"]) for row in csv.DictReader(file))
    by_client = sum(float(c["uplink_mbytes"]) + float(c["downlink_mbytes"]) for c in clients)
    assert by_client == pytest.approx(total)


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_a_browser_shows_the_page_with_all_pictures_and_no_error(run, tmp_path):
    html = (run / "report.html").read_text()
    probed = tmp_path / "probed.html"
    probed.write_text(html.replace("</body>", f"{PROBE}</body>"))
    picture = tmp_path / "page.png"
    said = browse(probed, tmp_path, f"--screenshot={picture}")
    assert len(said) == 1, said
    assert f'"decoded {html.count("<img ")}"' in said[0]
    with Image.open(picture) as shown:
        assert shown.size[0] == 1200
        assert len(shown.convert("RGB").getcolors(1 << 24)) > 200


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
def test_the_browser_test_would_notice_an_error(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<img src='missing.png'><script>nothing.here()</script>" + PROBE)
    said = "\n".join(browse(page, tmp_path))
    assert "nothing is not defined" in said
    assert '"decoded 0"' in said


def test_latency_of_a_searched_plan_and_scores_of_a_test_are_shown(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run <b>")
    with (folder / "plan.yaml").open("a") as file:
        file.write("latency_s: 8.25\nstages: {generator forward: 3.5}\n")
    spread = {"mean": 0.5, "std": 0.25, "n": 2}
    together = {"label_accuracy": 0.875}
    content = {"together": together, "over_clients": {"label_accuracy": spread}}
    (folder / "metrics.json").write_text(json.dumps({"domains": {"digits": content}}))
    html = write_page(RunRecord.read(folder)).read_text()
    assert "8.25" in html
    assert "of which generator forward" in html
    assert "0.875 (0.500 ± 0.250)" in html
    assert "<h1>run &lt;b&gt;</h1>" in html


def test_names_with_dots_are_no_numbers(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    with (folder / "clients.csv").open(newline="") as file:
        clients = list(csv.DictReader(file))
    clients[0] |= {"domain": "St. Mary", "profile": "raspi-4.1b", "uplink_mbytes": "1.23456789"}
    with (folder / "clients.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, clients[0])
        writer.writeheader()
        writer.writerows(clients)
    html = write_page(RunRecord.read(folder)).read_text()
    assert "St. Mary" in html and "raspi-4.1b" in html and "1.235" in html


def test_scores_of_a_test_do_not_hide_newer_ones_of_training(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    content = {"together": {"label_accuracy": 0.875}, "over_clients": {}}
    for number, shown in ((1, True), (2, False)):
        scores = {"round": number, "domains": {"digits": content}}
        (folder / "metrics.json").write_text(json.dumps(scores))
        record = RunRecord.read(folder)
        record.rows[-1].update(
            {"eval/digits/judge_accuracy": 0.5, "eval/digits/label_accuracy": 0.625}
        )
        html = write_page(record).read_text()
        assert "0.875" in html and f"From huscf test after round {number}:" in html
        assert ("0.625" in html) == shown


def test_a_run_without_clients_csv_or_rounds_still_has_a_page(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "clients.csv").unlink()
    (folder / "metrics.csv").unlink()
    (folder / "federation.csv").unlink()
    assert main(["report", str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert "<h2>Plan</h2>" in html
    assert "sensor" in html


def test_maps_of_many_rounds_are_folded_away(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    assert "<summary>Round by round</summary>" not in (folder / "report.html").read_text()
    last = by_round(read_federation(folder / "federation.csv"))[2]
    for number in range(3, 10):
        later = [row._replace(round=number) for row in last]
        append_federation(folder / "federation.csv", later)
    html = write_page(RunRecord.read(folder)).read_text()
    folded = re.search("<details><summary>Round by round</summary><figure>(.*?)</details>", html)
    assert folded.group(1).count("<img ") == 1


@pytest.mark.parametrize("missing", ["config.yaml", "plan.yaml"])
def test_a_folder_that_is_no_run_is_one_line(missing, run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / missing).unlink()
    assert main(["report", str(folder)]) == 2
    assert f"{folder}: not a run's folder" in capsys.readouterr().err
