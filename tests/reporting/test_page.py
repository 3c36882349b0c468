"""report.html: what is on it; test_page_in_browser.py looks at it."""

import csv
import json
import os
import re
import shutil

import pytest
import yaml
from matplotlib.colors import to_hex

from huscf.__main__ import main
from huscf.callbacks.score_table import choose_file
from huscf.colours import CLIENT, ON_DARK, SERVER
from huscf.reporting import RunRecord, write_page
from huscf.reporting.charts import plot_panels, plot_plan, plot_traffic
from huscf.reporting.federation_history import append_federation, by_round, read_federation
from huscf.reporting.svg import to_svg


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
    # Two domains, final and two rounds each; five curves; map, weights, two maps by round; two
    # networks; traffic.
    assert html.count("<img ") == 6 + 5 + 4 + 2 + 1


def test_what_ran_names_options_within_options(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    method = config["model"]["method"]
    method["init_args"] |= {
        "augmentation": {"policies": ["translation"], "adaptive": True},
        "fake_label_weights": None,
        "betas": [0.5, 0.999],
    }
    config["federation"]["rule"] = {
        "class_path": "huscf.federation.GivenClusters",
        "init_args": {"clusters": [[0, 1], [2, 3]]},
    }
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    html = write_page(RunRecord.read(folder)).read_text()
    shown = re.sub("<[^>]+>", " ", html[html.index('class="facts"') :])
    for text in (
        "augmentation (policies [translation], adaptive true)",
        "betas [0.5, 0.999]",
        "rule GivenClusters (clusters [[0, 1], [2, 3]])",
    ):
        assert text in shown
    assert "fake_label_weights" not in shown[: shown.index(" Scores ")]


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


def test_one_table_has_the_scores_of_a_test_and_those_of_training_beside_them(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    content = {"together": {"label_accuracy": 0.875, "recall": 0.25}, "over_clients": {}}
    (folder / "metrics.json").write_text(json.dumps({"round": 1, "domains": {"digits": content}}))
    record = RunRecord.read(folder)
    for name, value in (("digits", 0.625), ("negatives", 0.375)):
        record.rows[-1][f"eval/{name}/judge_accuracy"] = 0.5
        record.rows[-1][f"eval/{name}/label_accuracy"] = value
    html = write_page(record).read_text()
    section = html.partition('<section id="scores">')[2].partition("</section>")[0]
    cells = [re.findall(r"<t[hd]>(.*?)</t", row) for row in re.findall("<tr>(.*?)</tr>", section)]
    assert cells == [
        ["figure", "digits, test", "digits, training", "negatives"],
        ["judge on real data", "-", "0.500", "0.500"],
        ["label accuracy", "0.875", "0.625", "0.375"],
        ["recall", "0.250", "-", "-"],
    ]
    assert "From huscf test after round 1:" in section
    assert "own evaluation after round 2." in section


def test_the_note_below_the_scores_says_what_they_are_of(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    content = {"together": {"label_accuracy": 0.875}, "num_per_class": 20, "over_clients": {}}
    scores = {"evaluation_seeds": [0], "data_changed": True, "domains": {"digits": content}}
    for spread in ({}, {"label_accuracy": {"mean": 0.5, "std": 0.25, "n": 2}}):
        content |= {"over_clients": spread, "client_num_per_class": 7}
        (folder / "metrics.json").write_text(json.dumps(scores))
        html = write_page(RunRecord.read(folder)).read_text()
        assert "together, 20 samples of each class (one draw, evaluation seed 0" in html
        assert "against other data than the run was trained on" in html
        brackets = "in brackets mean ± standard deviation over single clients, 7 samples"
        assert (brackets in html) == bool(spread)


def test_of_many_earlier_rounds_a_few_are_shown_with_all_domains(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    picture = folder / "samples" / "digits-round-0001.png"
    for number in range(3, 26):
        for name in ("digits", "negatives"):
            shutil.copy(picture, folder / "samples" / f"{name}-round-{number:04d}.png")
    for name in ("digits", "negatives"):
        shutil.copy(picture, folder / "samples" / f"{name}-round-10000.png")
    html = write_page(RunRecord.read(folder)).read_text()
    shown = re.findall(r"<figcaption>(\w+), round (\d+)</figcaption>", html)
    # 26 rounds: every third.
    rounds = ["0001", "0004", "0007", "0010", "0013", "0016", "0019", "0022", "0025"]
    assert shown == [(name, n) for n in rounds for name in ("digits", "negatives")]
    assert list(RunRecord.read(folder).earlier_grids())[-1] == 10000


def test_the_newest_test_is_the_one_of_the_highest_number(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for at, name in enumerate(("metrics-10", "metrics-9", "metrics", "metrics-old", "metrics2")):
        content = {"round": at, "domains": {}}
        (folder / f"{name}.json").write_text(json.dumps(content))
        os.utime(folder / f"{name}.json", (at, at))
    assert RunRecord.read(folder).scores["round"] == 0
    assert choose_file(folder) == folder / "metrics-11.json"
    assert choose_file(tmp_path) == tmp_path / "metrics.json"


HALF_PLAN = "{blocks: {generator: 3, discriminator: 3}, clients: [{client: 0}]}"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.yaml", "", "needs keys and values, not NoneType"),
        ("config.yaml", "data: {}\nmodel: 3\n", "needs keys and values, not int"),
        ("config.yaml", "data: {}\nmodel: {method: {}}\n", "no 'class_path'"),
        ("config.yaml", "data: {}\n", "no 'model' in it"),
        ("plan.yaml", "", "needs keys and values"),
        ("plan.yaml", HALF_PLAN, "problem with 'cuts'"),
        ("metrics.json", "[1]", "needs keys and values, not list"),
        ("metrics.json", '{"domains": {"digits": {"x": 1}}}', "no 'together' in it"),
        ("metrics.json", '{"domains": {"dig', "Unterminated string"),
        ("metrics.csv", "round,x\n1,abc\n", "could not convert string to float: 'abc'"),
        ("federation.csv", "round,x\n1,2\n", "no 'divergence'"),
        ("clients.csv", "client,uplink_mbytes\n0,x\n", "could not convert string to float"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(name, content, reason, run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / name).write_text(content)
    for command in ("report", "compare"):
        assert main([command, str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"huscf: error: {folder / name}: cannot be read: ")
        assert reason in line


@pytest.mark.parametrize(
    "content",
    [
        "client,domain,cluster,uplink_mbytes,downlink_mbytes\n0,digits,0,,\n",
        "client,domain,cluster\n0,digits,0\n1,di",
    ],
)
def test_clients_that_were_not_written_whole_count_as_missing(content, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "clients.csv").write_text(content)
    (folder / "metrics.csv").write_text("\0\1\n7\n")
    record = RunRecord.read(folder)
    assert [set(c) for c in record.clients] == [{"client", "profile", "cuts"}] * 4
    assert record.rows == []
    assert main(["report", str(folder)]) == 0


def test_a_plan_without_profiles_is_shown(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    plan = yaml.safe_load((folder / "plan.yaml").read_text())
    for client in plan["clients"]:
        del client["profile"]
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert main(["report", str(folder)]) == 0
    assert {c["profile"] for c in RunRecord.read(folder).plan["clients"]} == {""}


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
    folded = re.search("<details><summary>Round by round</summary>(.*?)</details>", html)
    captions = re.findall("<figcaption>(.*?)</figcaption>", folded.group(1))
    assert captions == [f"round {number}, 2 clusters" for number in range(1, 10)]


def test_figures_by_domain_are_small_multiples_on_one_scale(run):
    record = RunRecord.read(run)
    for number, row in enumerate(record.rows):
        row |= {"eval/digits/label_accuracy": 0.5 + number, "eval/negatives/label_accuracy": -0.5}
    panels = {panel.heading: panel.figures for panel in plot_panels(record)}
    captions = [caption for caption, _ in panels["Label accuracy (judge)"]]
    assert captions == ["digits", "negatives"]
    charts = [figure.axes[0] for _, figure in panels["Label accuracy (judge)"]]
    assert [list(axes.lines[0].get_ydata()) for axes in charts] == [[0.5, 1.5], [-0.5, -0.5]]
    assert charts[0].get_ylim() == charts[1].get_ylim() == pytest.approx((-0.6, 1.6))
    assert charts[0].get_xlim() == charts[1].get_xlim() == pytest.approx((0.96, 2.04))
    assert len(panels["Losses"]) == 1 and len(panels["Losses"][0][1].axes[0].lines) == 2


def test_clients_and_the_server_have_their_colours_in_every_chart(run):
    record = RunRecord.read(run)
    figures = [plot_plan(record.plan), plot_plan(record.plan, ["generator"])]
    figures.append(plot_traffic(record.clients))
    for figure in figures:
        found = {to_hex(patch.get_facecolor()) for axes in figure.axes for patch in axes.patches}
        assert found == {CLIENT, SERVER}
    labels = [text.get_text() for text in figures[-1].axes[0].get_legend().get_texts()]
    assert labels == ["uplink, by the client", "downlink, by the server"]
    uplink = [p for p in figures[-1].axes[0].patches if to_hex(p.get_facecolor()) == CLIENT]
    assert [bar.get_height() for bar in uplink] == [
        pytest.approx(float(client["uplink_mbytes"])) for client in record.clients
    ]


def test_charts_have_colours_for_light_and_dark_pages_and_equal_ones_equal_text(run):
    record = RunRecord.read(run)
    one, other = (to_svg(plot_plan(record.plan)) for _ in range(2))
    assert one == other
    style, drawn = one.split("</style>", 1)
    assert set(re.findall("#[0-9a-f]{6}", drawn)) <= {"#000000"}  # what nobody sees: no stroke
    for colour in (CLIENT, SERVER):
        name = f"--c{colour[1:]}"
        assert f"var({name})" in drawn
        assert re.findall(f"{name}:(#[0-9a-f]+)", style) == [colour, ON_DARK[colour]]


def test_cuts_of_any_method_are_named_after_its_networks(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "plan.yaml").write_text(
        "{blocks: {denoiser: 4}, clients: [{client: 0, cuts: [1, 2]}]}"
    )
    html = write_page(RunRecord.read(folder)).read_text()
    heads = ["client", "profile", "denoiser head", "denoiser tail"]
    assert "".join(f"<th>{head}</th>" for head in heads) in html


@pytest.mark.parametrize("missing", ["config.yaml", "plan.yaml"])
def test_a_folder_that_is_no_run_is_one_line(missing, run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / missing).unlink()
    assert main(["report", str(folder)]) == 2
    assert f"{folder}: not a run's folder" in capsys.readouterr().err
