"""The paper's figures: drawn from what the runs measured, in files that stand alone."""

import json
import math
import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from stakes.report.figures.paper import FIGURES, Named, plates, write_plates
from stakes.report.page import write_report
from stakes.report.records import Row
from stakes.report.run_folder import RunFolder
from stakes.report.run_reader import read_run
from test_report import CLASSES, NASTY, Page, a_run, audited, image

pytestmark = pytest.mark.slow

METHODS = ("STRUCTGUARD", "L2UL", NASTY[0])
SVG = "{http://www.w3.org/2000/svg}"


def with_examples(folder: Path, seed: int, turn: float) -> Path:
    """Add the examples that a real run would have, its affinities changed by ``turn``."""
    rng = random.Random(0)
    evidence = json.loads((folder / "evidence.json").read_text())
    for i, item in enumerate(evidence["saliency"]):
        item |= {"of": "forget", "name": f"gone {i}"}
    evidence["saliency"] += [
        {**item, "of": "retain", "name": f"kept {i}"}
        for i, item in enumerate(evidence["saliency"][:4])
    ]
    found = [{"label": CLASSES[i % 4], "image": image(50 + i)} for i in range(5)]
    evidence["retrieval"] = [
        {
            "of": of, "name": f"{of} {i}", "label": CLASSES[i], "image": image(i),
            "before": found, "after": found[::-1],
        }
        for of in ("retain", "forget")
        for i in range(2)
    ]  # fmt: skip
    evidence["affinities"] = []
    for i in range(2):
        before = [rng.uniform(-0.2, 0.4) for _ in CLASSES]
        after = [value + turn * rng.uniform(-0.2, 0.2) for value in before]
        nearest = [{"anchor": name, "text": "wings; a beak; feathers"} for name in CLASSES[:3]]
        evidence["affinities"].append(
            {
                "name": f"test {i}", "label": CLASSES[i], "image": image(90 + i),
                "before": before, "after": after, "nearest": nearest,
            }
        )  # fmt: skip
    (folder / "evidence.json").write_text(json.dumps(evidence))
    row = json.loads((folder / "row.json").read_text())
    for of in ("retain", "forget"):
        for rank, key in enumerate(("r1", "r5", "r10", "map")):
            row[f"retrieval_{of}_{key}_before"] = 80.0 + rank + seed
            row[f"retrieval_{of}_{key}"] = 80.0 + rank + seed - 30 * turn
    (folder / "row.json").write_text(json.dumps(row))
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> list[Named]:
    """Three methods with two seeds each."""
    found = []
    for m, method in enumerate(METHODS):
        for seed in (0, 1):
            folder = tmp_path_factory.mktemp("runs") / f"{m}-{seed}"
            a_run(folder, k=24, seed=seed, acc_test=90.0 - 5 * m - seed, method_title=method)
            with_examples(audited(folder), seed, 0.1 + m)
            found.append(Named("ResNet-18", 24, method, read_run(folder)))
    return found


def drawn(figures: list[str], shown: list[Named]) -> dict[str, str]:
    return {plate.stem: plate.file() for plate in plates(figures, shown)}


def said(svg: str) -> str:
    """What is told of a figure to those who cannot see it."""
    return ET.fromstring(svg).get("aria-label") or ""


def texts(svg: str) -> list[str]:
    return [item.text or "" for item in ET.fromstring(svg).iter(f"{SVG}text")]


def paths(svg: str, colour: str, kind: str = "stroke") -> list[list[tuple[float, float]]]:
    """The points of every path of a colour."""
    found = re.findall(rf'<path d="([^"]*)"[^>]*style="[^"]*{kind}: {colour}', svg)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", d)] for d in found
    ]


BLUE, ORANGE = "#0072b2", "#c44e00"


def test_every_figure_is_a_file_that_stands_alone(shown, tmp_path):
    found = plates([number for number in FIGURES if number != "9"], shown)
    written = write_plates(found, tmp_path)
    assert [path.name for path in written] == [f"figure-{n}.svg" for n in FIGURES if n != "9"]
    for path, plate in zip(written, found, strict=True):
        root = ET.parse(path).getroot()
        assert root.tag == f"{SVG}svg"
        assert float(root.get("width").removesuffix("pt")) > 200
        assert root.find(f"{SVG}title").text == plate.heading
        assert plate.heading.endswith(": ResNet-18, k = 24")
        text = path.read_text(encoding="utf-8")
        assert "var(" not in text
        addresses = re.findall(r'href="([^"]*)"', text)
        assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
        assert not [item for item in root.iter() if item.tag.endswith("script")]
        if path.stem != "figure-8":
            assert any("L2UL" in words for words in texts(text)), path
    assert drawn(["2a"], shown) == drawn(["2a"], shown)  # the same runs give the same bytes


def test_collapse_is_the_drift_of_each_run(shown):
    (svg,) = drawn(["2a"], shown).values()
    lines = [line for line in paths(svg, BLUE) if len(line) > 10]
    assert len(lines) == 2  # two seeds of the first method
    drifts = [record["drift"] for record in shown[0].run.history]
    steps = [y for _, y in lines[0]]
    share = (steps[0] - steps[60]) / (steps[0] - steps[-1])
    assert share == pytest.approx(drifts[60] / drifts[-1], abs=1e-3)
    assert "STRUCTGUARD: 0.0123 at step 120" in said(svg)


def test_mean_collapse_stands_against_what_was_kept_less_what_is_known(shown):
    run = shown[0].run
    left = run.row | {"acc_forget": 25.0}
    odd = Named(
        "ResNet-18", 24, "left some", type(run)("x", type(run.row)(left), run.history, [], [])
    )
    (svg,) = drawn(["2b"], [*shown, odd]).values()
    mean = sum(record["drift"] for record in run.history[1:]) / 120
    assert f"STRUCTGUARD: 99.1 points at {mean:.3g}" in said(svg)
    assert f"left some: 74.1 points at {mean:.3g}" in said(svg)
    unscored = RunFolder("x", Row(), run.history, [], [])
    assert drawn(["2b"], [Named("n", 1, "m", unscored)]) == {}


def test_bars_are_as_high_as_the_means_over_seeds(shown):
    (svg,) = drawn(["5b"], shown).values()
    # seeds 0 and 1: R@1 80 and 81, less 30 times the change of the method, .1 and 1.1
    for words in ("Before, retain, R@1 80.5", "STRUCTGUARD, retain, R@1 77.5",
                  "L2UL, forget, mAP 50.5"):  # fmt: skip
        assert words in said(svg)
    high = [
        max(y for _, y in bar) - min(y for _, y in bar)
        for colour in (BLUE, ORANGE)
        for bar in paths(svg, colour, "fill")[:1]
    ]
    assert high[0] / high[1] == pytest.approx(77.5 / 47.5, rel=1e-3)


def test_a_query_s_finds_are_marked_by_class(shown):
    (svg,) = drawn(["5a"], shown).values()
    marks = [words for words in texts(svg) if words[:1] in "✓✗" and words]
    assert len(marks) == 4 * 4 * 5  # queries, networks, finds
    classes = [CLASSES[i % 4] for i in range(5)]
    for query in range(2):
        right = classes.count(CLASSES[query])
        assert marks.count(f"✓ {CLASSES[query]}") == 2 * 4 * right
    assert len(re.findall("<image ", svg)) == 4 + len(marks)
    assert "Before, forget: a airplane finds airplane, bird, cat, deer, airplane" in said(svg)


def test_images_of_another_draw_are_not_shown_as_the_same(shown, tmp_path):
    other = with_examples(audited(a_run(tmp_path / "other", k=24)), 0, 0.0)
    evidence = json.loads((other / "evidence.json").read_text())
    for key in ("retrieval", "saliency", "affinities"):
        for item in evidence[key]:
            item["name"] = f"another {item['name']}"
    (other / "evidence.json").write_text(json.dumps(evidence))
    both = [shown[0], Named("ResNet-18", 24, "other", read_run(other))]
    for number, images in (("5a", 4 + 2 * 4 * 5), ("4", 6 * 3)):
        (svg,) = drawn([number], both).values()
        assert len(re.findall("<image ", svg)) <= images


def test_the_seed_is_shown_that_most_methods_have_images_of(shown):
    first, second, other, *_ = shown
    bare = other._replace(run=other.run.__class__("x", other.run.row, [], [], []))
    renamed = [{**item, "name": f"another {item['name']}"} for item in other.run.audit["retrieval"]]
    audit = {**other.run.audit, "retrieval": renamed}
    elsewhere = [
        item._replace(run=RunFolder("x", item.run.row, [], item.run.classes, [], audit))
        for item in (second, other)
    ]
    # seed 0 of the first method has images that no other has; its seed 1 those of the second's
    (svg,) = drawn(["5a"], [first, elsewhere[0], bare, elsewhere[1]]).values()
    assert said(svg).count("L2UL, ") == said(svg).count("STRUCTGUARD, ") == 4


def test_affinities_are_those_of_the_evidence(shown):
    (svg,) = drawn(["7"], shown).values()
    row = shown[2].run.audit["affinities"][1]
    before, after = row["before"], row["after"]
    product = sum(a * b for a, b in zip(before, after, strict=True))
    change = 1 - product / math.sqrt(sum(a * a for a in before) * sum(b * b for b in after))
    assert f"L2UL, bird: {change:.3f}" in said(svg)
    curves = [curve for curve in paths(svg, BLUE) if len(curve) == len(CLASSES) + 1]
    assert len(curves) == 2  # one an image, closed
    assert curves[0][0] == curves[0][-1]
    assert "airplane: wings; a beak; feathers" in texts(svg)


def test_anchors_without_descriptions_promise_none(tmp_path):
    folder = with_examples(audited(a_run(tmp_path / "run")), 0, 0.1)
    for text in ("a beak", ""):
        evidence = json.loads((folder / "evidence.json").read_text())
        for item in evidence["affinities"]:
            item["nearest"] = [{"anchor": "bird", "text": text}]
        (folder / "evidence.json").write_text(json.dumps(evidence))
        [plate] = plates(["7"], [Named("ResNet-18", 24, "A", read_run(folder))])
        assert ("attributes" in plate.note) == bool(text)
        assert ("bird: a beak" if text else "bird") in texts(plate.file())


def test_a_confusion_matrix_counts_every_image(shown):
    (svg,) = drawn(["8"], shown).values()
    counts = [int(words) for words in texts(svg) if words.isdigit()]
    assert sum(counts) == 3 * 24
    assert "STRUCTGUARD: airplane as deer (3)" in said(svg)


def test_a_row_of_the_confusion_matrix_is_a_true_class():
    classes = [{"name": name} for name in "abc"]
    forget = [{"label": "a", "after": after} for after in "bcc"]
    (svg,) = drawn(["8"], [Named("n", 3, "m", RunFolder("x", Row(), [], classes, forget))]).values()
    cells = paths(svg, BLUE, "fill")
    assert len(cells) == 2
    (left, right), (top, below) = (
        [min(c[axis] for c in cell) for cell in cells] for axis in (0, 1)
    )
    assert left < right  # b, then c
    assert top == below


def test_a_density_is_the_mean_over_the_runs_of_a_method():
    def run(cosines):
        found = [{"cosine": x, "density": y} for x, y in cosines]
        return Named("n", 1, "m", RunFolder("x", Row(), [], [], [], {"consistency": found}))

    one = run([(0.0, 0.0), (0.5, 2.0), (1.0, 0.0)])
    two = run([(0.75, 6.0), (1.0, 2.0)])  # nothing below .75
    (svg,) = drawn(["6"], [one, two]).values()
    # at 0, .5, .75 and 1: 0, 2 / 2, (1 + 6) / 2, 2 / 2
    assert said(svg).endswith("m: most at a cosine of 0.75, least 0")
    [curve] = [line for line in paths(svg, BLUE) if len(line) == 4]
    heights = [curve[0][1] - y for _, y in curve]
    assert [height / max(heights) for height in heights] == pytest.approx(
        [0, 1 / 3.5, 1, 1 / 3.5], abs=1e-3
    )


def test_sensitivity_has_a_panel_for_each_group_and_a_line_for_what_has_none(shown):
    names = ["as shipped", "prompt: one", "prompt: two", "anchors a class: 2"]
    runs = [
        Named("n", 24, name, item.run)
        for name, item in zip(names, [shown[i] for i in (0, 0, 2, 4)], strict=True)
    ]
    (svg,) = drawn(["9"], runs).values()
    assert {"(a) prompt", "(b) anchors a class", "one", "two", "2", "as shipped"} <= {*texts(svg)}
    # the mean of 90 and 99.12, of 85 and 99.12
    assert "line, as shipped: 94.56; prompt, one: 94.56; prompt, two: 92.06" in said(svg)
    assert drawn(["9"], shown) == {}


def of_copies(method, copies, retained, **fields) -> Named:
    """A run that made so many copies wrong, percent, at so many points of retained accuracy."""
    row = {"method": "m", "forget_views": 100 - copies, "acc_retain": 99 + retained}
    row |= {"acc_retain_before": 99.0} | {f"method_{key}": value for key, value in fields.items()}
    return Named("n", 64, method, RunFolder("x", Row(row), [], [], []))


def test_the_cost_of_copies_is_joined_where_only_what_was_asked_differs():
    runs = [
        of_copies("default", 20, -0.2, criterion="exact", views_needed=0.9, lr=0.1),
        of_copies("half", 48, -1.0, criterion="views", views_needed=0.5, lr=0.1),
        of_copies("half", 52, -2.0, criterion="views", views_needed=0.5, lr=0.1),
        of_copies("other", 70, -3.0, criterion="exact", views_needed=0.9, lr=0.2),
    ]
    (plate,) = plates(["copies"], runs)
    assert plate.heading == "What it costs to forget copies too: n, k = 64"
    for words in ("default: -0.20 points at 20.0 %", "half: -1.50 points at 50.0 %"):
        assert words in said(plate.file())
    ends = r'd="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s*"'
    lines = [list(map(float, found)) for found in re.findall(ends, plate.file())]
    width = max(x2 - x1 for x1, _, x2, _ in lines)  # of the grid, 100 %
    (share,) = [(x2 - x1) / width for x1, y1, x2, y2 in lines if y1 != y2 and x1 != x2]
    assert share == pytest.approx(0.3, abs=1e-3)  # one line, from 20 to 50 %
    unscored = of_copies("default", 20, -0.2)
    del unscored.run.row["forget_views"]
    assert plates(["copies"], [unscored]) == []


def test_a_legend_of_long_names_stays_within_the_figure(shown):
    names = [f"a method with rather a long name, no. {i}" for i in range(5)]
    (svg,) = drawn(["6"], [shown[0]._replace(method=name) for name in names]).values()
    root = ET.fromstring(svg)
    width = float(root.get("width").removesuffix("pt"))
    placed = [
        float(re.search(r"translate\(([\d.-]+)", item.get("transform"))[1])
        if "translate" in (item.get("transform") or "")
        else float(item.get("x"))
        for item in root.iter(f"{SVG}text")
        if item.text in names
    ]
    assert len(placed) == 5
    assert min(placed) >= 0
    assert max(placed) + 4.5 * len(names[0]) <= width


def test_each_network_and_k_has_a_file_of_its_own_and_what_is_missing_has_none(shown, tmp_path):
    twice = [shown[0], shown[0]._replace(network="ResNet 20/x", k=3)]
    stems = {plate.stem for plate in plates(["6"], twice)}
    assert stems == {"figure-6-resnet-18-k-24", "figure-6-resnet-20-x-k-3"}
    bare = Named("n", None, "m", read_run(a_run(tmp_path / "bare", k=4, images=False)))
    assert {plate.stem for plate in plates(list(FIGURES), [bare])} == {
        "figure-2a", "figure-2b", "figure-8", "figure-copies",
    }  # fmt: skip


def test_names_that_are_no_text_still_make_figures(shown, tmp_path):
    folder = with_examples(audited(a_run(tmp_path / "odd", k=24)), 0, 0.5)
    path = folder / "evidence.json"
    path.write_text(path.read_text().replace('"airplane"', r'"a\udce9\u0007<b> var(--x)"'))
    found = drawn(list(FIGURES), [Named("\udcff", 1, "m\x00$x$", read_run(folder))])
    assert {*found} == {f"figure-{number}" for number in FIGURES if number != "9"}
    for svg in found.values():
        assert ET.fromstring(svg.encode("utf-8")).tag == f"{SVG}svg"
    assert any("a\ufffd<b>" in words for words in texts(found["figure-7"]))
    assert write_report([folder], tmp_path / "odd.html").stat().st_size > 0


def test_figures_that_are_drawn_no_more_are_no_longer_there(shown, tmp_path):
    write_plates(plates(["2a", "6"], shown), tmp_path)
    write_plates(plates(["6"], shown), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["figure-6.svg"]


def test_the_page_shows_the_figures_and_escapes_the_names_in_them(shown, tmp_path):
    folders = [a_run(tmp_path / f"r{i}", k=24, seed=i) for i in range(2)]
    figures = plates(["4", "5a", "7", "8"], shown)
    html = write_report(folders, tmp_path / "p.html", plates=figures).read_text("utf-8")
    page = Page(html)
    assert "Figures of the paper, of these runs" in page.text
    assert figures[0].note in page.text
    assert page.all("script") == []
    assert "&lt;script&gt;" in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_runs_of_very_different_length_share_a_logarithmic_axis_with_plain_numbers(tmp_path):
    runs = {"short": 6, "long": 400}
    shown = [
        Named("ResNet-20", 64, name, read_run(a_run(tmp_path / name, steps=steps)))
        for name, steps in runs.items()
    ]
    (svg,) = drawn(["2a"], shown).values()
    assert {"0", "1", "3", "10", "30", "100", "300"} <= set(texts(svg))
    assert "mathdefault" not in svg
