"""What was kept against what was forgotten: the right marks in the right places, readable."""

import itertools
import re

import pytest

from browser import chromium, opened
from stakes.report.figures.svg import STYLES, style
from stakes.report.figures.tradeoffs import MARKS, marker, scatter_chart, trade_offs
from stakes.report.page import write_report
from stakes.report.records import Row
from stakes.report.run_folder import RunFolder
from test_report import a_run

pytestmark = pytest.mark.slow


def run(title: str = "X", **row) -> RunFolder:
    """A run that kept 90 of 92 % and forgot everything, copies in part."""
    scores = {"acc_retain_before": 92.0, "acc_retain": 90.0, "acc_forget": 0.0}
    return RunFolder(
        title, Row(scores | {"forget_views": 30.0, "method_title": title} | row), [], [], []
    )


def marks(svg: str) -> list[tuple[int, float, float]]:
    """(colour, x, y) of every mark of a chart, in the order it is drawn; y grows downwards."""
    found = re.findall(
        r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: var\(--series-(\d)\)', svg
    )
    return [(int(colour), float(x), float(y)) for x, y, colour in found]


def numbers(svg: str) -> dict[str, tuple[float, float]]:
    """Where the middle of every label beside a mark is."""
    found = re.findall(r'text-anchor: middle[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>(\d+)</text>', svg)
    return {text: (float(x), float(y)) for x, y, text in found[-len(marks(svg)) :]}


def test_a_mark_stands_where_its_numbers_say():
    points = [(0, 0.0, -2.0), (1, 50.0, 0.0), (2, 100.0, -1.0)]
    found = marks(scatter_chart(points, describe="", name="a", label="x"))
    assert [colour for colour, _, _ in found] == [0, 1, 2]
    (_, x0, y0), (_, x1, y1), (_, x2, y2) = found
    assert x1 - x0 == pytest.approx(x2 - x1, abs=1e-3)
    assert y0 > y2 > y1
    assert y0 - y2 == pytest.approx(y2 - y1, abs=1e-3)  # small changes: a linear axis


def test_small_changes_can_be_told_beside_large_ones():
    points = [(0, 100.0, -0.2), (1, 100.0, -0.8), (2, 100.0, -10.0), (3, 100.0, -100.0)]
    svg = scatter_chart(points, describe="", name="a", label="x")
    heights = [y for _, _, y in marks(svg)]
    assert heights[1] - heights[0] > 10
    assert heights[3] - heights[2] == pytest.approx((heights[2] - heights[1]), rel=0.3)
    for words in ("−100", "−10", "−1", "0"):
        assert f">{words}</text>" in svg


NAMES = ("1  A", "2  B", "3  C", "4  D")


def test_both_trade_offs_are_drawn_with_a_mark_for_each_run_that_was_scored():
    runs = [
        run("A"),
        run("B", acc_forget=25.0, forget_views=90.0),
        run("C", forget_views=None),
        run("D", acc_retain=None),
    ]
    images, copies = trade_offs(runs)
    assert "on retained data (points) against images forgotten" in images.title
    assert "run 2: 75.0 % forgotten, -2.0 points; run 3: 100.0 % forgotten" in images.svg
    assert [name for name in NAMES if f">{name}<" in images.svg] == ["1  A", "2  B", "3  C"]
    assert "against altered copies forgotten" in copies.title
    assert "run 1: 70.0 % forgotten, -2.0 points; run 2: 10.0 % forgotten" in copies.svg
    assert [name for name in NAMES if f">{name}<" in copies.svg] == ["1  A", "2  B"]
    assert "images no longer recognised, %" in images.svg
    assert all(f">{number}</text>" in images.svg for number in "123")


def test_test_data_stands_in_for_retained_data_and_one_run_is_no_trade_off():
    scores = {"acc_retain": None, "acc_test_before": 90.0, "acc_test": 85.0}
    charts = trade_offs([run(**scores), run(**scores)])
    assert [chart.title.split(" (")[0] for chart in charts] == [
        "Change of accuracy on test data"
    ] * 2
    assert "-5.0 points" in charts[0].svg
    assert trade_offs([run()]) == trade_offs([run(), run(acc_retain=None)]) == []


def test_every_run_has_a_mark_of_its_own_in_colour_and_in_shape():
    looks = [(style(i)[0], marker(i)) for i in range(STYLES)]
    assert len(set(looks)) == STYLES
    for first, second in itertools.pairwise(looks):
        assert first[0] != second[0]
        assert first[1] != second[1]
    assert len(set(MARKS)) == len(MARKS)


def test_the_numbers_of_many_runs_that_did_alike_can_be_read():
    points = [(i, 100.0 - (i % 3), -0.05 * i) for i in range(STYLES)]
    names = [f"{i + 1}  a method" for i in range(STYLES)]
    svg = scatter_chart(points, describe="", name="a", label="x", names=names)
    assert all(f">{name}<" in svg for name in names)
    places = numbers(scatter_chart(points, describe="", name="a", label="x"))
    assert list(places) == [str(i + 1) for i in range(STYLES)]
    svg = scatter_chart(points, describe="", name="a", label="x")
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    for x, y in places.values():
        assert 0 < x < width
        assert 0 < y < height
    for (a, b), (c, d) in itertools.combinations(places.values(), 2):
        assert abs(a - c) > 5 or abs(b - d) > 6


CONTRAST = """selector => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const light = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
            .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    return [...document.querySelectorAll(selector)].map(mark => {
        const style = getComputedStyle(mark);
        const colour = style.fill === 'none' ? style.stroke : style.fill;
        const ground = light(getComputedStyle(mark.closest('section')).backgroundColor);
        const own = light(colour);
        return (Math.max(ground, own) + 0.05) / (Math.min(ground, own) + 0.05);
    });
}"""
SHOWN = """[...document.querySelectorAll('figure use[style*="--series"]')]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().width > 4).length"""


def test_a_browser_shows_the_marks_in_both_colour_schemes(tmp_path):
    runs = [
        a_run(tmp_path / f"r{i}", k=2, images=False, acc_retain=99.0 - i**2, forget_views=10.0 * i)
        for i in range(7)
    ]
    page = write_report(runs, tmp_path / "page.html")
    seen = set()
    with chromium() as browser:
        for scheme in ("light", "dark"):
            with opened(browser, page, color_scheme=scheme) as (tab, heard):
                assert tab.evaluate(SHOWN) == 2 * (7 + 7)
                ratios = tab.evaluate(CONTRAST, 'figure use[style*="--series"]')
                assert len(ratios) == 2 * (7 + 7)
                assert min(ratios) >= 3  # what WCAG asks of graphics
                seen.add(tuple(ratios))
                assert heard.console == []
    assert len(seen) == 2
