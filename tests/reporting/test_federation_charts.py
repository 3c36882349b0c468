"""Pictures of the federation show what the rows say."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from huscf.reporting.charts import COLOURS, to_png
from huscf.reporting.federation_charts import (
    draw_last_round,
    draw_maps_by_round,
    plot_cluster_map,
    plot_maps_by_round,
    plot_weights,
    thin_out,
)
from huscf.reporting.federation_history import FederationRow, by_round


def make_rows(number, clusters, num_rounds=1):
    stream = np.random.default_rng(number)
    return [
        FederationRow(r, c, f"domain {c % 2}", cluster, 10, 0.1, 1 / 3, *stream.normal(size=2))
        for r in range(number, number + num_rounds)
        for c, cluster in enumerate(clusters)
    ]


def count_pixels(png, colour):
    """Pixels that are nearly of a colour, which is drawn at three quarters on white."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
    wanted = 255 * (0.75 * np.array(to_rgb(colour)) + 0.25)
    return int((np.abs(pixels - wanted).max(axis=2) < 4).sum())


def test_points_have_the_colours_of_their_clusters():
    rows = make_rows(1, [0, 0, 1, 1])
    plain = to_png(plot_cluster_map(rows))
    assert count_pixels(plain, COLOURS[0]) > 50
    assert count_pixels(plain, COLOURS[1]) > 50
    assert count_pixels(plain, COLOURS[2]) == 0
    chosen = to_png(plot_cluster_map(rows, {0: 2, 1: 1}))
    assert count_pixels(chosen, COLOURS[0]) == 0
    assert count_pixels(chosen, COLOURS[2]) > 50


def test_a_map_needs_places_and_a_strip_two_maps():
    nowhere = [row._replace(map_x=None, map_y=None) for row in make_rows(1, [0, 1])]
    assert plot_cluster_map(nowhere) is None
    assert plot_cluster_map([]) is None
    one_map = by_round(nowhere + make_rows(2, [0, 1]))
    assert draw_maps_by_round(one_map) is None and plot_maps_by_round(one_map) == []
    assert plot_weights({}) is None
    # A client without a place among others is no obstacle; nor is a round without any place.
    mixed = [*nowhere[:1], *make_rows(1, [0, 1, 1])[1:]]
    assert count_pixels(to_png(plot_cluster_map(mixed)), COLOURS[1]) > 50
    assert draw_last_round(nowhere).startswith(b"\x89PNG")


def test_a_map_of_many_clusters_stays_readable():
    rows = [row._replace(domain="") for row in make_rows(1, range(20))]
    figure = plot_cluster_map(rows)
    (axes,) = figure.axes
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == [*(f"cluster {c}" for c in range(13)), "and 7 more"]
    looks = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in axes.collections
    }
    assert len(looks) == 20  # one and the same colour comes back with another marker
    assert axes.get_aspect() == 1.0


def test_the_heat_map_has_a_cell_per_client_and_round_and_none_where_a_client_was_away(monkeypatch):
    from huscf.reporting import federation_charts

    shown = []
    monkeypatch.setattr(federation_charts, "to_png", lambda figure: shown.append(figure) or b"")
    rows = [*make_rows(1, [0, 0, 1]), *make_rows(2, [0, 0])]
    rows = [row._replace(weight=0.1 * row.round + row.client) for row in rows]
    draw_last_round(rows)
    (image,) = (i for axes in shown[0].axes for i in axes.images)
    cells = np.ma.filled(image.get_array(), np.nan)
    assert cells == pytest.approx(np.array([[0.1, 0.2], [1.1, 1.2], [2.1, np.nan]]), nan_ok=True)
    axes = image.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "1", "2"]
    assert {t.get_text() for t in axes.texts} == {"0.10", "0.20", "1.10", "1.20", "2.10", ""}


def test_strips_of_long_runs_show_a_few_maps_on_one_scale(monkeypatch):
    from huscf.reporting import federation_charts

    shown = []
    monkeypatch.setattr(federation_charts, "to_png", lambda figure: shown.append(figure) or b"")
    draw_maps_by_round(by_round(make_rows(1, [0, 1, 1], num_rounds=40)))
    axes = [a for a in shown[0].axes if a.get_visible()]
    titles = [a.get_title(loc="left") for a in axes]
    assert len(titles) == 12
    assert titles[0] == "round 1, 2 clusters"
    assert titles[-1] == "round 40, 2 clusters"
    assert len({a.get_xlim() for a in axes}) == len({a.get_ylim() for a in axes}) == 1
    small = plot_maps_by_round(by_round(make_rows(1, [0, 1, 1], num_rounds=40)))
    assert [caption for caption, _ in small] == titles
    assert len({(f.axes[0].get_xlim(), f.axes[0].get_ylim()) for _, f in small}) == 1


def test_numbers_are_thinned_at_even_distances_with_both_ends():
    assert thin_out(range(5), 12) == [0, 1, 2, 3, 4]
    assert thin_out(range(1, 101), 4) == [1, 34, 67, 100]


def test_hundreds_of_clients_and_rounds_are_drawn():
    rows = make_rows(1, [c % 9 for c in range(300)], num_rounds=30)
    with Image.open(io.BytesIO(draw_last_round(rows))) as picture:
        assert picture.size == (1755, 624)
