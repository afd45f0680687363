"""The report says what the run folders say, escapes what they name, and fetches nothing."""

import base64
import io
import json
import math
import random
import re
import unicodedata
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from browser import chromium, opened
from stakes.data.views import VIEWS as SCORED
from stakes.errors import InputError
from stakes.evaluation.membership import FOLDS
from stakes.report.attacks import LEAST
from stakes.report.compare import COMPARED, TRACES, compare, cost, grouped, ordered
from stakes.report.figures import svg
from stakes.report.page import write_report
from stakes.report.run_folder import VIEWS
from stakes.report.run_reader import read_run, read_runs
from stakes.report.verdict import verdict

pytestmark = pytest.mark.slow

NASTY = ["<script>alert(1)</script>", "a\"b' & <b>", "$x^2$ & co", "long" * 30, "кот 猫 \u202egnp"]
CLASSES = ["airplane", "bird", "cat", "deer", "dog", *NASTY]
DRAWN: dict[str, str] = {}
VOID = {"meta", "link", "img", "br", "hr", "input"}


@cache
def image(seed: int, size: int = 32) -> str:
    """A small colourful PNG as a data address."""
    rng = random.Random(seed)
    top, low = ([rng.randrange(256) for _ in range(3)] for _ in "ab")
    image = Image.new("RGB", (size, size))
    for y in range(size):
        for x in range(size):
            disc = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3) ** 2
            shade = y / size
            image.putpixel(
                (x, y),
                tuple(
                    int(b if disc else a * (1 - shade) + 200 * shade)
                    for a, b in zip(top, low, strict=True)
                ),
            )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def a_row(k: int = 64, **changes):
    row = {
        "method": "structguard",
        "method_title": "STRUCTGUARD",
        "needs_retain": False,
        "method_lr": 0.0003,
        "method_max_steps": 600,
        "method_projector": True,
        "method_pull_back": False,
        "method_probes": "mixed",
        "model": "stakes:resnet20",
        "dataset": "cifar10",
        "forget": f"random:{k}",
        "k": k,
        "num_classes": len(CLASSES),
        "seed": 0,
        "deploy": "direct",
        "eval_samples": None,
        "n_test": 10000,
        "n_retain": 5000,
        "acc_test_before": 91.73,
        "acc_test": 89.94,
        "acc_test_projected": 88.2,
        "acc_retain_before": 99.83,
        "acc_retain": 99.12,
        "acc_retain_projected": 97.9,
        "acc_forget_before": 100.0,
        "acc_forget": 0.0,
        "acc_forget_projected": 3.125,
        "forget_flip_before": 98.4375,
        "forget_flip": 90.625,
        "forget_shift_before": 97.65625,
        "forget_shift": 42.1875,
        "forget_crop_before": 96.875,
        "forget_crop": 50.0,
        "forget_noise_before": 95.3125,
        "forget_noise": 12.5,
        "forget_jpeg_before": 98.4375,
        "forget_jpeg": 6.25,
        "forget_light_before": 96.875,
        "forget_light": 18.75,
        "forget_views_before": 97.2656,
        "forget_views": 36.71875,
        "drift_probes": 0.0123,
        "steps": 120,
        "stop_reason": "forgotten: every forget image is misclassified",
        "seconds_probes": 12.5,
        "seconds_unlearn": 61.2,
        "seconds_evaluate": 20.0,
        "seconds_total": 97.1,
        "peak_memory_mb": 812.4,
        "weights_digest": "a1" * 32,
        "unlearned_digest": "b2" * 32,
        "forget_digest": "c3" * 32,
        "anchors_digest": "d4" * 32,
        "anchors": "cifar10",
        "version_stakes": "0.1.0",
        "version_torch": "2.15.0",
        "version_python": "3.11.9",
        "device": "cpu",
        "cpu": "A Processor @ 2.4 GHz",
        "cores": 2,
        "date": "2026-03-01T12:00:00+00:00",
        "command": "stakes unlearn --model stakes:resnet20 --forget random:64 --out run",
    }
    return row | changes


def a_run(
    folder: Path,
    k: int = 64,
    *,
    images: bool = True,
    depth: bool = True,
    speed: float = 0.05,
    **changes,
) -> Path:
    """Write a plausible run folder; ``changes`` go into its row."""
    folder.mkdir(parents=True, exist_ok=True)
    row = a_row(k, **changes)
    steps = []
    for step in range(int(row["steps"] or 0) + 1):
        fade = math.exp(-speed * step)
        known = {"step": step, "forget_accuracy": 100 * max(0, 1.02 * fade - 0.02)}
        known["drift"] = 0.0123 * (1 - fade)
        terms = {"term_deletion": 8 * fade, "term_retention": 1 - fade, "term_<b>": -0.9}
        steps.append(known | ({"loss": sum(terms.values()), **terms} if step else {}))
    classes = [
        {"name": name, "n_test": 1000, "acc_test_before": 92.0, "acc_test": 92.0 - i * 0.7 + 1}
        for i, name in enumerate(CLASSES)
    ]
    wrong = round((row["acc_forget"] or 0) * k / 100)
    forget = []
    for i in range(k):
        label = CLASSES[i % len(CLASSES)]
        after = label if i >= k - wrong else CLASSES[(i + 3) % len(CLASSES)]
        item = {"name": f"train/{i:05d}.png" if i else NASTY[0], "label": label}
        item |= {"before": label, "before_confidence": 99.1, "after": after}
        item |= {"after_confidence": 43.2, "thumbnail": image(i) if images and i % 9 else None}
        if depth:
            item |= {"true_before": 99.0, "true_after": 50.0 * i / k, "rank_before": 1}
            item |= {"rank_after": 1 if after == label else 2, "mirrored_before": 98.0}
            item |= {"mirrored_after": 90.0 - i / k, "copies": 14, "copies_after": i % 15}
        forget.append(item)
    (folder / "row.json").write_text(json.dumps(row))
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, steps)) + "\n")
    (folder / "evidence.json").write_text(json.dumps({"classes": classes, "forget": forget}))
    return folder


CALM = dict.fromkeys((*VIEWS, "forget_views"), 0.0)
AUDIT = {
    "mia_retain": 0.54,
    "mia_forget_loss": 0.06,
    "mia_forget_unlikely": 12.5,
    "probe_forget_before": 100.0,
    "probe_forget": 43.75,
    "probe_test_before": 90.6,
    "probe_test": 90.4,
    "n_probe": 500,
    "n_audit_test": 2000,
    "n_audit_retain": 2000,
    "centroid_forget": 50.0,
    "consistency": 0.9983,
    "consistency_low": 0.9961,
    "n_wrong": 64,
    "foretold": 75.0,
    "answer_entropy": 2.25,
    "relearn_forget": 9,
    "relearn_test": 31,
    "n_relearn": 16,
    "relearn_limit": 30,
}


def audited(folder: Path, name: str = NASTY[0], **found: float) -> Path:
    """Add to a run folder what the audit would have written."""
    row = json.loads((folder / "row.json").read_text()) | AUDIT
    (folder / "row.json").write_text(json.dumps(row))
    evidence = json.loads((folder / "evidence.json").read_text())
    numbers = {"auc": 0.06, "low": 0.02, "high": 0.19, "found": 0.0, "unlikely": 12.5, **found}
    evidence["membership"] = [
        {"attack": attack, "of": of, "when": when, "m": 64, "n": 2000, **numbers}
        for attack in ("loss", "entropy", "modified entropy", "learned")
        for of, when in (("retain", "after"), ("forget", "before"), ("forget", "after"))
    ]
    evidence["consistency"] = [
        {"cosine": 0.9 + i / 1000, "density": math.exp(-((i - 80) ** 2) / 200)} for i in range(101)
    ]
    parts = ("image", "before", "after")
    evidence["saliency"] = [
        {"name": name, "label": name, **{key: image(i + j) for j, key in enumerate(parts)}}
        for i in range(8)
    ]
    (folder / "evidence.json").write_text(json.dumps(evidence))
    return folder


class Page(HTMLParser):
    """The words, tags, attributes and ids of a page; checks that every tag is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\xa0", " ").split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def of_class(self, tag: str, word: str) -> list[dict[str, str | None]]:
        return [a for a in self.all(tag) if word in (a.get("class") or "").split()]


def page(tmp_path: Path, *folders: Path, **options) -> Page:
    return Page(write_report(folders, tmp_path / "out.html", **options).read_text("utf-8"))


@pytest.fixture
def drawn_anew() -> None:
    """Ask that charts be drawn, each time."""


@pytest.fixture
def drawn(monkeypatch) -> None:
    """Ask that charts be drawn: those of the same lines once for all tests."""
    draw = svg.line_chart

    def line_chart(lines, **options) -> str:
        key = repr((lines, options))
        DRAWN[key] = DRAWN.get(key) or draw(lines, **options)
        return DRAWN[key]

    monkeypatch.setattr(svg, "line_chart", line_chart)


@pytest.fixture(autouse=True)
def _undrawn(request) -> None:
    if not {"drawn", "drawn_anew"} & {*request.fixturenames}:
        request.getfixturevalue("undrawn")


@pytest.mark.parametrize(
    ("k", "most", "second", "said"),
    [
        (1, 4.7e-6, 0.0, "below 0.1 % (chart); it is not even the second"),
        (1, 12.5, 100.0, "of up to 12.5 % (chart); it is the second choice."),
        (4, 0.05, 0.0, "of up to 0.1 % (chart); it is not even the"),
        (4, 0.0, 50.0, "below 0.1 % (chart); it is the second choice for 2"),
    ],
)
def test_how_deep_is_said_of_one_image_and_of_several(k, most, second, said, tmp_path):
    deep = {"forget_true_probability_max": most, "forget_top2": second}
    text = page(tmp_path, a_run(tmp_path / "run", k=k, **deep)).text
    assert f"The true class has a probability {said}" in text


def test_the_verdict_and_its_numbers_stand_on_the_page(tmp_path):
    counted = {"n_test_lost": 300, "n_test_gained": 121, "forget_top2": 100.0}
    counted["forget_true_probability_max"] = 49.8
    found = page(tmp_path, a_run(tmp_path / "run", **counted))
    text = found.text
    assert "The 64 images are no longer recognised. Altered copies of them still are." in text
    assert (
        "The true class has a probability of up to 49.8 % (chart); it is the second choice for 64"
        in text
    )
    assert "Mirrored: 58 of 64 recognised." in text
    assert "10,000 test images: 91.7 → 89.9 % (95 % interval of the change: −2.2 to −1.4)" in text
    assert "Images cropped to seven eighths 96.88 50.00" in text
    assert "Mean of these 97.27 36.72" in text
    assert "Deployed path (direct)" in text
    assert "Other path (projected), scored but not deployed" in text
    assert "Nothing else: no other training image." in text
    assert "max_steps 600" in text
    assert "pull_back no" in text
    assert "a1" * 32 in text
    assert "torch 2.15.0" in text
    assert "1 min 37 s" in text
    assert "812 MiB" in text
    assert found.of_class("h2", "headline")


WRECKED = {"acc_test": 26.5, "acc_retain": 27.0, "drift_probes": 0.94}
NO_DATA = dict.fromkeys(
    [f"{key}{suffix}" for key in ("acc_test", "acc_retain") for suffix in ("", "_before")]
)


@pytest.mark.parametrize(
    ("changes", "tone", "words"),
    [
        ({}, "caution", "no longer recognised. Altered copies of them still are."),
        ({"forget_views": 5.0}, "caution", "The 64 images are no longer recognised."),
        ({"acc_forget": 4.6875}, "bad", "3 of 64 images are still recognised"),
        ({"acc_forget": 1.5625}, "bad", "1 of 64 images is still recognised"),
        ({"acc_forget": None}, "unknown", "was not measured"),
        ({"k": 1}, "caution", "The image is no longer recognised."),
        ({"k": 1, "acc_forget": 100.0}, "bad", "the image is still recognised"),
        ({"k": 100_000, "acc_forget": 0.0004}, "bad", "1 of 100,000 images is"),
        (WRECKED, "bad", "The 64 images are no longer recognised, but the network is damaged."),
        (WRECKED | NO_DATA, "bad", "but the network is most likely damaged."),
        ({"acc_forget_before": 10.0}, "bad", "58 of 64 images were never recognised"),
        ({"acc_forget_before": 87.5}, "caution", "56 of 64 images are forgotten, 8 were never"),
    ],
)
def test_the_tone_follows_the_outcome(tmp_path, changes, tone, words):
    folder = a_run(tmp_path / "run", k=64)
    (folder / "row.json").write_text(json.dumps(a_row(64) | changes))
    found = verdict(read_run(folder))
    assert found.tone == tone
    assert words in found.headline
    assert page(tmp_path, folder).of_class("section", tone)


def test_only_where_all_was_measured_and_well_the_verdict_is_good(tmp_path):
    calm = CALM | {"acc_test": 91.5}
    folder = audited(a_run(tmp_path / "run", **calm), auc=0.5, low=0.4, high=0.6)
    good = verdict(read_run(folder))
    assert good.tone == "good"
    assert {answer.tone for answer in good.answers} == {"good"}
    row = json.loads((folder / "row.json").read_text())
    for spoiled in (
        NO_DATA,
        {"forget_views": 40.0},
        {"forget_views": None},
        {"acc_test": 88.0},
        {"drift_probes": 0.94},
        {"stop_reason": "step budget: 600 steps done"},
        {"acc_forget_before": 98.0},
    ):
        (folder / "row.json").write_text(json.dumps(row | spoiled))
        assert verdict(read_run(folder)).tone != "good", spoiled
    (folder / "row.json").write_text(json.dumps(row))
    assert verdict(read_run(folder)).tone == "good"
    evidence = json.loads((folder / "evidence.json").read_text()) | {"membership": []}
    (folder / "evidence.json").write_text(json.dumps(evidence))
    assert verdict(read_run(folder)).tone == "caution"


def test_without_data_the_cost_is_unknown(tmp_path):
    rest = verdict(read_run(a_run(tmp_path / "run", **CALM, **NO_DATA))).answers[2]
    assert (rest.tone, rest.answer) == ("unknown", "Not measured")
    moved = verdict(read_run(a_run(tmp_path / "m", **CALM, **NO_DATA, drift_probes=0.3))).answers[2]
    assert moved.tone == "bad"
    assert "0.30" in moved.detail


def test_a_drift_that_most_sound_networks_have_is_no_hint(tmp_path):
    """Copies forgotten in depth move structure by .1 to .2 where they cost a point or less."""
    rest = verdict(read_run(a_run(tmp_path / "r", **CALM, **NO_DATA, drift_probes=0.2))).answers[2]
    assert (rest.tone, rest.answer) == ("unknown", "Not measured")


def test_a_change_within_its_interval_is_said_to_be_chance(tmp_path):
    few = {"acc_test": 91.5, "n_test": 1000, "n_test_lost": 12, "n_test_gained": 10}
    assert "within chance" in verdict(read_run(a_run(tmp_path / "a", **few))).answers[2].detail
    lost = {"acc_test": 90.7, "n_test": 10_000, "n_test_lost": 130, "n_test_gained": 27}
    assert "within chance" not in verdict(read_run(a_run(tmp_path / "b", **lost))).answers[2].detail


@pytest.mark.parametrize(
    ("n", "lost", "answer"),
    [
        (10, 0, "Too few images to tell"),
        (10, 1, "Too few images to tell"),
        (10, 8, "No, 80.0 points lost"),
        (200, 0, "Yes"),
        (200, 4, "Mostly, 2.0 points lost"),
    ],
)
def test_few_images_neither_clear_nor_blame_the_network(tmp_path, n, lost, answer):
    counts = {"n_test": n, "n_test_lost": lost, "n_test_gained": 0}
    row = NO_DATA | counts | {"acc_test_before": 100.0, "acc_test": 100.0 - 100 * lost / n}
    found = verdict(read_run(a_run(tmp_path / "run", **CALM, **row)))
    assert found.answers[2].answer == answer
    assert (found.answers[2].tone == "unknown") == answer.startswith("Too few")
    if answer.startswith("Too few"):
        assert "The cost is unknown" in found.headline
    ends = re.search(r"between ([\d.]+) and", page(tmp_path, tmp_path / "run").text)
    assert ends is not None
    assert float(ends[1]) < 100 - 100 * lost / n


@pytest.mark.parametrize(
    ("test", "retained", "answer"),
    [
        ((3, 0), (2000, 2), "Too few test images to tell"),
        ((3, 1), (2000, 2), "Too few test images to tell"),
        ((3, 0), (2000, 60), "Too few test images to tell"),
        ((3, 0), (2000, 400), "No, 20.0 points lost"),
        ((3, 0), (3, 0), "Too few images to tell"),
        ((2000, 2), (3, 1), "Yes"),
        ((0, 0), (2000, 2), "Yes"),
    ],
)
def test_a_yes_rests_on_test_images_where_there_are_some(tmp_path, test, retained, answer):
    row = dict(NO_DATA)
    for key, (n, lost) in (("test", test), ("retain", retained)):
        if n:
            row |= {f"n_{key}": n, f"n_{key}_lost": lost, f"n_{key}_gained": 0}
            row |= {f"acc_{key}_before": 100.0, f"acc_{key}": 100 - 100 * lost / n}
    rest = verdict(read_run(a_run(tmp_path / "run", **CALM, **row))).answers[2]
    assert rest.answer == answer
    assert (rest.tone == "unknown") == answer.startswith("Too few")
    assert f"{retained[0]:,} retained images" in rest.detail


@pytest.mark.parametrize(
    ("test", "retained", "why"),
    [
        (3, 40, "It needs at least 5 test and 5 retained images; there were 3 and 40."),
        (40, 4, "It needs at least 5 test and 5 retained images; there were 40 and 4."),
        (40, 0, "It needs test and retained images (--data)."),
        (None, None, "It needs test and retained images (--data)."),
        (40, 40, "The attack on test and retained images failed."),
    ],
)
def test_an_attack_that_was_not_made_says_why(tmp_path, test, retained, why):
    folder = a_run(tmp_path / "run", n_audit_test=test, n_audit_retain=retained)
    told = verdict(read_run(folder)).answers[3]
    assert (told.answer, told.detail) == ("Not measured", why)
    assert LEAST == FOLDS


@pytest.mark.parametrize(
    ("k", "attack", "answer"),
    [
        (1, {"auc": 0.0, "low": 0.0, "high": 0.63}, "Too few images to tell"),
        (1, {"auc": 0.0, "low": 0.0, "high": 0.63, "unlikely": 100.0}, "Yes"),
        (2, {"auc": 0.1, "low": 0.0, "high": 0.6, "unlikely": 50.0}, "Yes, one by one"),
        (16, {"auc": 0.45, "low": 0.31, "high": 0.6}, "Not by their loss"),
        (16, {"auc": 0.06, "low": 0.02, "high": 0.19}, "Yes, as a group"),
    ],
)
def test_few_images_leave_open_whether_they_stand_out(tmp_path, k, attack, answer):
    folder = audited(a_run(tmp_path / "run", k), **{"unlikely": 0.0, **attack, "m": k})
    assert verdict(read_run(folder)).answers[3].answer == answer


def test_altered_copies_that_give_images_away_are_in_the_verdict(tmp_path):
    calm = {"auc": 0.5, "low": 0.38, "high": 0.62, "unlikely": 0.0}
    folder = audited(a_run(tmp_path / "run", 16), **calm, m=16)
    assert verdict(read_run(folder)).answers[3].answer == "Not by their loss"
    evidence = json.loads((folder / "evidence.json").read_text())
    found = {"attack": "copies", "of": "forget", "when": "after", "m": 16, "n": 256, **calm}
    for more, answer in (
        ({"found": 0.0}, "Not by these attacks"),
        ({"found": 0.0, "auc": 0.95, "low": 0.85, "high": 0.99}, "Yes, as a group"),
        ({"found": 75.0, "auc": 0.99, "low": 0.95, "high": 1.0}, "Yes, one by one"),
    ):
        beside = evidence | {"membership": [*evidence["membership"], found | more]}
        (folder / "evidence.json").write_text(json.dumps(beside))
        given = verdict(read_run(folder)).answers[3]
        assert given.answer == answer
        assert f"by altered copies, AUC {(found | more)['auc']:.2f}" in given.detail
        assert "near 1, the copies give it away" in page(tmp_path, folder).text
    assert "12 of 16 stand out individually" in given.detail


def test_one_image_is_spoken_of_as_one(tmp_path):
    found = {"n_found_exact": 1, "n_found_near": 0}
    text = page(tmp_path, a_run(tmp_path / "run", 1, **found)).text
    assert "The image is in the training data that was given, pixel by pixel." in text
    assert "the 1 image to forget" in text
    assert not re.search(r"\b1 images\b", text)


def test_what_was_never_recognised_names_its_likely_causes(tmp_path):
    counts = {"n_forgotten": 2, "n_recognised": 0, "n_never_recognised": 62}
    text = page(tmp_path, a_run(tmp_path / "run", **counts)).text
    assert "a different order from the network’s outputs" in text
    assert "62 of 64 never recognised" in text
    assert "Do not put this network into service" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"stop_reason": "step budget: 600 steps done", "acc_forget": 3.0},
            "The run was cut short",
        ),
        ({"stop_reason": "diverged: the loss is not finite at step 7"}, "The run was cut short"),
        (
            {"outcome": "complete", "stop_reason": "complete: all 20 steps done", "acc_forget": 25},
            "The method did all its steps, but 2 images are still recognised.",
        ),
        (
            {"stop_reason": "complete: all 20 steps done", "acc_forget": 12.5},
            "The method did all its steps, but 1 image is still recognised.",
        ),
        ({"drift_probes": 0.94}, "drift of its features is 0.94"),
        ({"method_criterion": "views", "forget_views": 3.125}, "3.1\xa0% still recognised"),
        ({"method_criterion": "views", "forget_views": None}, "too: not measured"),
    ],
)
def test_what_makes_the_result_doubtful_is_said_beside_it(tmp_path, changes, words):
    assert verdict(read_run(a_run(tmp_path / "calm", k=8, **CALM))).warnings == []
    found = verdict(read_run(a_run(tmp_path / "run", k=8, **(CALM | changes))))
    assert any(words in warning for warning in found.warnings)
    assert found.tone != "good"


@pytest.mark.parametrize(
    ("criterion", "said"), [("exact", True), ("deep", True), ("views", False), (None, False)]
)
def test_a_run_that_did_not_ask_for_copies_says_how_to(tmp_path, criterion, said):
    changes = {"method_criterion": criterion, "forget_views": 80.0}
    copies = verdict(read_run(a_run(tmp_path / "run", **changes))).answers[1]
    assert copies.answer.startswith("No, 80.0")
    assert ("Only --criterion views makes" in copies.detail) == said


def test_every_view_that_is_scored_stands_on_the_page():
    assert VIEWS.keys() == SCORED.keys()


def test_what_was_not_measured_is_called_so_and_never_zero(tmp_path):
    changes = {key: None for key in a_row() if key.startswith(("acc_", "forget_", "drift"))}
    folder = a_run(tmp_path / "run", k=4, **changes)
    (folder / "evidence.json").unlink()
    (folder / "history.jsonl").unlink()
    text = page(tmp_path, folder).text
    assert "Whether the images are still recognised was not measured." in text
    assert "Does the rest still work? Not measured" in text
    assert "Not measured in this run: test accuracy; accuracy on retained training data" in text
    assert "0.0 %" not in text.replace("100.0 %", "")
    assert "No history of the steps was recorded." in text
    assert "No evidence on single images was recorded." in text


def test_an_empty_row_still_makes_a_page(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "row.json").write_text("{}")
    text = page(tmp_path, tmp_path / "run").text
    assert "not measured" in text
    assert "not recorded" in text


def test_wrong_types_and_numbers_that_are_none_are_not_measured(drawn, tmp_path):
    nan = float("nan")
    folder = a_run(tmp_path / "run", k=4, acc_test="x", acc_retain=nan, drift_probes=True, steps=3,
                   seconds_total=10**400)  # fmt: skip
    found = read_run(folder)
    for key in ("acc_test", "acc_retain", "drift_probes", "seconds_total"):
        assert found.number(key) is None
    assert "Does the rest still work? Not measured" in page(tmp_path, folder).text


def test_names_are_escaped_wherever_they_stand(drawn, tmp_path):
    folder = a_run(tmp_path / "run", k=20, model=NASTY[0], command=NASTY[1], method_lr=NASTY[0])
    found = page(tmp_path, folder, folder, title=NASTY[0])
    assert found.all("script") == found.all("b") == []
    assert NASTY[0] in found.text
    assert NASTY[1] in found.text
    single = page(tmp_path, folder, title=NASTY[1])
    assert single.all("script") == single.all("b") == []


def test_names_neither_turn_the_text_around_nor_hold_control_characters(drawn, tmp_path):
    """In text, titles and alternative texts; what Persian or an emoji needs stays."""
    joined = "می\u200cخواهم"
    name = f"{joined} \x1b[31m\u202egnp.exe\u2066\x9b\x00"
    folder = a_run(tmp_path / "run", k=2, model=name, command=name, forget=name)
    evidence = json.loads((folder / "evidence.json").read_text())
    for item in evidence["forget"]:
        item |= {"name": name, "label": name, "before": name}
    (folder / "evidence.json").write_text(json.dumps(evidence))
    for folders in ([folder], [audited(folder, name), folder]):
        html = write_report(folders, tmp_path / "out.html", title=name).read_text("utf-8")
        signs = {sign for sign in html if unicodedata.category(sign) in ("Cc", "Cf")}
        assert signs <= {"\n", "\u200c"}
        assert f"{joined} \ufffd[31m\ufffdgnp.exe" in html


def test_a_name_that_is_no_text_still_makes_a_page(drawn, tmp_path):
    folder = a_run(tmp_path / "run", k=1, forget="folder \udcff")
    assert "folder ?" in page(tmp_path, folder).text


def test_images_come_only_from_the_evidence_itself(tmp_path):
    folder = a_run(tmp_path / "run", k=5, depth=False)
    evidence = json.loads((folder / "evidence.json").read_text())
    sources = [
        "https://example.org/x.png",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,AA",
        "data:image/png;base64,AAAA",
    ]
    for item, source in zip(evidence["forget"], sources, strict=False):
        item["thumbnail"] = source
    (folder / "evidence.json").write_text(json.dumps(evidence))
    found = page(tmp_path, folder)
    assert len(found.all("img")) == 1
    assert "example.org" not in str(found.tags)


def test_of_many_images_all_are_listed_and_the_first_at_once(tmp_path):
    found = page(tmp_path, a_run(tmp_path / "run", k=130, acc_forget=100 * 3 / 130, depth=False))
    assert len(found.of_class("td", "state")) == 130
    assert "Show 106 more" in found.text
    assert len(found.of_class("tr", "known")) == 3
    assert all(image["alt"] for image in found.all("img"))
    listed = found.text.partition("The first 24 images")[2]
    # they are the last three of the evidence: moved to the front
    assert [listed.count(f"train/{i:05d}.png") for i in (127, 128, 129)] == [1, 1, 1]
    assert listed.index("train/00129.png") < listed.index("train/00001.png")
    assert found.text.count("✗ still recognised") == 3
    several = page(tmp_path, *[a_run(tmp_path / f"r{i}", k=40, seed=i) for i in range(2)])
    assert len(several.of_class("td", "state")) == 48
    assert "16 more images are not shown here" in several.text


def test_the_chart_has_a_line_for_each_image_and_of_many_for_the_most_tied(tmp_path):
    few = page(tmp_path, a_run(tmp_path / "few", k=16))
    descriptions = [svg["aria-label"] or "" for svg in few.all("svg") if svg.get("role") == "img"]
    lines = [words for words in descriptions if "mirrored, after" in words]
    assert len(lines) == 16
    first = "before 99.0\xa0%, after 46.9\xa0%, mirrored, after 89.1\xa0%"
    assert lines[0].endswith(first)  # the most tied comes first
    assert few.of_class("circle", "after")
    assert not few.of_class("line", "tick")
    many = page(tmp_path, a_run(tmp_path / "many", k=256))
    assert len(many.of_class("line", "tick")) == 3 * 256
    assert len(many.of_class("circle", "after")) == 16 + 1  # and that of the key
    none = page(tmp_path, a_run(tmp_path / "old", k=16, depth=False))
    assert "How strongly" not in none.text


def test_the_privacy_of_the_report_itself_is_said(tmp_path):
    shown = page(tmp_path, a_run(tmp_path / "shown", k=4))
    assert "This report contains the images that were to be forgotten." in shown.text
    hidden = page(tmp_path, a_run(tmp_path / "hidden", k=4, images=False))
    assert hidden.all("img") == []
    assert "This report contains the images" not in hidden.text
    assert "This report leaves the images out" in hidden.text


def test_of_many_classes_those_that_changed_most_are_shown(tmp_path):
    folder = a_run(tmp_path / "run", k=4)
    classes = [
        {"name": f"class {i}", "n_test": 100, "acc_test_before": 90.0, "acc_test": 90.0 - i / 10}
        for i in range(100)
    ] + [{"name": "unseen", "n_test": 0, "acc_test_before": None, "acc_test": None}]
    (folder / "evidence.json").write_text(json.dumps({"classes": classes, "forget": []}))
    text = page(tmp_path, folder).text
    assert "The 20 of 101 classes that changed most" in text
    assert "class 99" in text
    assert "class 80" in text
    assert "class 79 " not in text
    assert "unseen" not in text


def test_a_method_that_saw_retained_data_is_marked(tmp_path):
    text = page(tmp_path, a_run(tmp_path / "run", k=4, needs_retain=True)).text
    assert "and retained training data, which this method needs" in text
    assert "Nothing else" not in text


def test_the_last_move_back_is_told_beside_the_curves(tmp_path):
    text = page(tmp_path, a_run(tmp_path / "run", k=4, chosen_pulled_back_to=0.75)).text
    assert "After these steps, the weights were moved back" in text
    assert "75.0 % of the change remains" in text


def test_charts_tell_their_numbers_to_those_who_cannot_see_them(drawn, tmp_path):
    found = page(tmp_path, a_run(tmp_path / "run", k=4))
    descriptions = [svg["aria-label"] for svg in found.all("svg") if svg.get("role") == "img"]
    assert len(descriptions) == 4 + 3
    assert any("still recognised: 100 at step 0, 0 at 120" in words for words in descriptions)
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_what_is_left_stands_on_the_page(tmp_path):
    found = page(tmp_path, audited(a_run(tmp_path / "run", k=64)))
    for words in (
        "What an attacker could still find",
        "Could someone tell it was done? Yes, as a group",
        "Detectable: the network is now unusually wrong about these images.",
        "64 images against 2,000 unseen ones",
        "How unlikely the network finds its class (loss) 0.06 0.02–0.19 0.06",
        "Simple attacks on its answers were tried",
        "What the features still know",
        "classifies 28 of 64 images correctly",
        "A new last layer (linear probe) 100.0 43.8 90.6 90.4",
        "after 9 steps; trained on as many misclassified test images, after more than 30",
        "What in the image supports its true class",
    ):
        assert words in found.text, words
    assert "The features may still identify the images." not in found.text
    assert "Membership inference was not measured" not in found.text
    descriptions = [svg["aria-label"] for svg in found.all("svg") if svg.get("role") == "img"]
    assert any("most at a cosine of 0.98" in words for words in descriptions)
    assert found.all("script") == found.all("b") == []
    assert found.text.count(f"{NASTY[0]} , class {NASTY[0]}") == 8


def test_retrieval_stands_on_the_page(tmp_path):
    row = {"n_audit_retain": 2000}
    for of, before, after in (("forget", 99.0, 31.25), ("retain", 98.0, 96.5)):
        for place, key in enumerate(("r1", "r5", "r10", "map")):
            row[f"retrieval_{of}_{key}_before"] = before - place
            row[f"retrieval_{of}_{key}"] = after - place
    text = page(tmp_path, a_run(tmp_path / "run", **row)).text
    assert "Similarity search from forgotten images finds their class less often than from" in text
    assert "Image-to-image retrieval among 2,000 retained images" in text
    assert "R@5 98.0 30.2 97.0 95.5 R@10 97.0 29.2 96.0 94.5 mAP 96.0 28.2 95.0 93.5" in text
    assert "Image-to-image retrieval" not in page(tmp_path, a_run(tmp_path / "old")).text


def test_whole_classes_stand_on_the_page(tmp_path):
    row = {"forgotten_classes": ["cat"]}
    for key, before, after in (("forgotten", 90.0, 1.5), ("kept", 92.0, 91.25)):
        row[f"acc_test_{key}_classes_before"] = before
        row[f"acc_test_{key}_classes"] = after
    text = page(tmp_path, a_run(tmp_path / "run", **row)).text
    assert "1.5 % (before: 90.0 %) of the unseen images of the forgotten class, cat" in text
    assert "Test images of the forgotten classes 90.00 1.50 −88.50" in text
    assert "Test images of all other classes 92.00 91.25 −0.75" in text
    assert "forgotten classes" not in page(tmp_path, a_run(tmp_path / "single")).text


def test_a_whole_class_that_is_gone_is_no_damage(tmp_path):
    gone = {"acc_test": 82.5, "n_test_lost": 923, "n_test_gained": 0}
    assert verdict(read_run(a_run(tmp_path / "a", **CALM, **gone))).tone == "caution"
    gone |= {"acc_test": 62.5, "n_test_lost": 2923}
    assert verdict(read_run(a_run(tmp_path / "b", **CALM, **gone))).tone == "bad"
    gone |= {"forgotten_classes": ["cat", "dog", "bird"]}
    gone |= {"acc_test_kept_classes_before": 92.0, "acc_test_kept_classes": 91.5}
    counts = {"": 7000, "_lost": 90, "_gained": 55}
    gone |= {f"n_test_kept_classes{key}": count for key, count in counts.items()}
    whole = read_run(a_run(tmp_path / "c", **CALM, **gone))
    rest = verdict(whole).answers[2]
    assert (rest.tone, rest.answer) == ("good", "Yes")
    assert "7,000 test images of the other classes: 92.0 → 91.5" in rest.detail
    assert cost(whole) == -0.5


def test_where_the_images_go_is_counted_by_class(tmp_path):
    found = page(tmp_path, a_run(tmp_path / "run", k=64, acc_forget=3.125))
    assert len(found.of_class("table", "confusion")) == 1
    shares = [cell for cell in found.all("td") if "--share" in (cell.get("style") or "")]
    assert len(shares) == len(CLASSES) + 2  # each class to one other, and two are still right
    assert sum(cell.get("class") == "right" for cell in shares) == 2


def test_what_is_left_was_not_measured_and_is_called_so(tmp_path):
    text = page(tmp_path, a_run(tmp_path / "run", k=4)).text
    assert "Membership inference was not measured: it needs test images and retained" in text
    assert "What the features still know was not measured: it needs test images." in text
    assert "membership inference; what the features still know; representation" in text
    assert "This run included no attack" in text
    assert "The features may still identify the images." in text


def test_what_is_left_is_compared_where_it_was_measured(tmp_path):
    plain = [a_run(tmp_path / name, k=8) for name in "ab"]
    assert "What is left" not in page(tmp_path, *plain).text
    found = page(tmp_path, audited(plain[0]), plain[1])
    assert "What is left" in found.text
    assert all(m.heading in found.text for columns in TRACES.values() for m in columns.values())
    assert "43.8 of 90.4" in found.text
    seeds = [audited(a_run(tmp_path / f"s{i}", k=8, seed=i)) for i in range(2)]
    assert "9 ± 0" in page(tmp_path, *seeds).text


def test_several_runs_are_compared_and_a_wrecked_network_is_no_success(drawn, tmp_path):
    folders = [
        a_run(tmp_path / "b", k=8, method="neggrad", method_title="NegGrad", acc_test=40.0),
        a_run(tmp_path / "d", k=8, method="y", method_title="Dear", acc_test=87.0),
        a_run(tmp_path / "a", k=8),
        a_run(tmp_path / "c", k=8, method="x", method_title="X", acc_forget=25.0, acc_retain=None),
    ]
    found = page(tmp_path, *folders)
    assert "2 of 4 runs" in found.text
    assert "preserved by STRUCTGUARD (run 1): −1.8 points" in found.text
    assert [run.title for run in ordered(read_runs(folders))][:2] == ["STRUCTGUARD", "Dear"]
    assert {run.title for run in ordered(read_runs(folders))[2:]} == {"NegGrad", "X"}
    assert all(metric.heading in found.text for metric in COMPARED.values())
    assert len(found.of_class("details", "run")) == 4
    assert "Over seeds" not in found.text
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_what_was_not_scored_is_not_said_to_be_whole(tmp_path):
    blind = [a_run(tmp_path / name, k=8, **NO_DATA) for name in ("a", "b")]
    found = compare(read_runs(blind))
    assert found.headline == "Every run made the network forget all the images."
    assert found.tone == "caution"
    assert "The cost is unknown" in found.facts[0]
    found = compare(read_runs([*blind, a_run(tmp_path / "c", k=8)]))
    assert "The cost in 2 of them is unknown" in found.facts[0]
    assert found.tone == "caution"
    whole = compare(read_runs([tmp_path / "c"]))
    assert whole.tone == "good"
    assert "left it intact" in whole.headline


def test_a_reference_stands_beside_the_runs_and_is_none_of_them(tmp_path):
    run = a_run(tmp_path / "run", k=8)
    oracle = a_run(tmp_path / "oracle", k=8, method_title="Oracle", acc_test=20.0)
    found = page(tmp_path, run, reference=oracle)
    assert "Every run" in found.text
    assert "The reference is Oracle (oracle)." in found.text
    assert "Reference Oracle" in found.text
    assert len(found.of_class("details", "run")) == 2


def test_seeds_of_the_same_settings_are_averaged(tmp_path):
    folders = [
        a_run(tmp_path / f"s{seed}", k=8, seed=seed, acc_test=accuracy)
        for seed, accuracy in ((0, 88.0), (1, 89.0), (2, 90.0))
    ]
    folders.append(a_run(tmp_path / "other", k=8, seed=3, method_lr=1.0, acc_test=10.0))
    folders.append(a_run(tmp_path / "again", k=8, seed=0, acc_test=20.0))
    text = page(tmp_path, *folders).text
    assert text.index("Over seeds") < text.index("The runs")  # means come first
    assert "seeds 0, 1, 2" in text
    assert "89.0 ± 1.0" in text
    assert "(mean of 3 seeds): −2.7 points" in text


def test_runs_that_do_not_match_are_not_compared_in_silence(tmp_path):
    one, two = a_run(tmp_path / "a", k=4), a_run(tmp_path / "b", k=4, forget_digest="e5" * 32)
    assert "The runs forget different images" in page(tmp_path, one, two).text
    assert "compare them with care" not in page(tmp_path, one, a_run(tmp_path / "c", k=4)).text


def test_other_numbers_of_images_and_other_seeds_are_other_draws_by_nature(tmp_path):
    draws = {(4, 0): "a1", (4, 1): "b2", (8, 0): "c3"}
    runs = [
        a_run(tmp_path / f"{method}-{k}-{seed}", k=k, seed=seed, method=method, forget_digest=draw)
        for (k, seed), draw in draws.items()
        for method in ("one", "two")
    ]
    assert compare(read_runs(runs)).warnings == []
    alone = a_run(tmp_path / "alone", k=4, seed=2, method="one", forget_digest="d4")
    (warning,) = compare(read_runs([*runs, alone])).warnings
    assert "different images" in warning


def test_each_number_of_images_has_a_table_and_a_best_of_its_own(tmp_path):
    runs = [
        a_run(tmp_path / f"{title}-{k}", k=k, method=title, method_title=title, acc_test=accuracy)
        for title, k, accuracy in (("A", 4, 91.0), ("B", 4, 90.0), ("A", 64, 88.0), ("B", 64, 89.0))
    ]
    found = page(tmp_path, *runs)
    said = " ".join(compare(read_runs(runs)).facts)
    assert "at k = 4 by A" in said
    assert "at k = 64 by B" in said
    assert [group.heading for group in grouped(read_runs(runs))] == ["k = 4", "k = 64"]
    labels = [attrs.get("aria-label") for _, attrs in found.tags]
    assert labels.count("k = 4: one row for each run") == 1
    assert labels.count("k = 64: one row for each run") == 1


def test_a_method_that_failed_once_is_not_the_best(tmp_path):
    runs = [
        a_run(tmp_path / f"{title}{seed}", k=4, seed=seed, method_title=title, method=title,
              acc_test=accuracy, acc_forget=left)
        for title, seed, accuracy, left in (
            ("A", 0, 91.7, 0.0), ("A", 1, 91.7, 50.0), ("B", 0, 90.0, 0.0), ("B", 1, 89.0, 0.0)
        )
    ]  # fmt: skip
    (fact,) = [fact for fact in compare(read_runs(runs)).facts if "best preserved" in fact]
    assert "B (mean of 2 seeds)" in fact


def test_the_same_folders_give_the_same_bytes(drawn_anew, tmp_path):
    folders = [a_run(tmp_path / "a", k=8), a_run(tmp_path / "b", k=8, seed=1)]
    for chosen in (folders[:1], folders):
        first = write_report(chosen, tmp_path / "1.html").read_bytes()
        assert write_report(chosen, tmp_path / "2.html").read_bytes() == first


def test_one_run_s_report_does_not_depend_on_where_it_lies(drawn, tmp_path):
    one = write_report([a_run(tmp_path / "a", k=4)], tmp_path / "1.html").read_bytes()
    two = write_report([a_run(tmp_path / ".b.new-7", k=4)], tmp_path / "2.html").read_bytes()
    assert one == two


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("row.json", None, r"row\.json"),
        ("row.json", "{", r"row\.json cannot be read as JSON"),
        ("row.json", "[1]", r"row\.json is damaged"),
        ("row.json", "[" * 200_000, r"row\.json cannot be read as JSON"),
        ("history.jsonl", '{"step": 0}\n{"st', r"history\.jsonl cannot be read as JSON"),
        ("evidence.json", '{"classes": 3}', r"evidence\.json is damaged: 'classes'"),
        ("evidence.json", '{"saliency": [1]}', r"evidence\.json is damaged: 'saliency'"),
    ],
)
def test_a_damaged_folder_is_named_in_one_line(tmp_path, name, content, message):
    folder = a_run(tmp_path / "run", k=2)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        write_report([folder], tmp_path / "out.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.html").exists()


def test_nothing_to_report_and_nowhere_to_write_are_refused(tmp_path):
    with pytest.raises(InputError, match="run folder"):
        write_report([], tmp_path / "out.html")
    with pytest.raises(InputError, match="HTML file"):
        write_report([a_run(tmp_path / "run", k=1)], tmp_path)


WIDE = "document.documentElement.scrollWidth <= window.innerWidth"
HIDDEN = """[...document.querySelectorAll('h1, h2')]
    .filter(e => e.getBoundingClientRect().width < 1 || e.getBoundingClientRect().height < 1)
    .map(e => e.textContent)"""
BROKEN = "[...document.images].filter(i => !i.complete || i.naturalWidth < 1).length"
CUT = """[...document.querySelectorAll('table.compare')].filter(t => t.checkVisibility()
    && t.scrollWidth > t.parentElement.clientWidth).map(t => t.caption.textContent)"""
CUES = """[...document.querySelectorAll('.sideways')].filter(p => p.checkVisibility()).length"""
CLIPPED = """[...document.querySelectorAll('.cams li, .ties .of, .steps li, dd, p')]
    .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.textContent.slice(0, 60))"""


def test_a_browser_shows_it_on_a_desk_a_phone_and_paper(drawn, tmp_path):
    one = write_report([audited(a_run(tmp_path / "run", k=130))], tmp_path / "one.html")
    runs = [audited(a_run(tmp_path / f"r{i}", k=12, seed=i, acc_test=90.0 - i)) for i in range(3)]
    several = write_report(runs, tmp_path / "several.html")
    with chromium() as browser:
        with opened(browser, several, viewport={"width": 1000, "height": 800}) as (tab, _):
            assert tab.evaluate(CUT) == []  # every column is there
            assert tab.evaluate(CUES) == 0
        with opened(browser, several, viewport={"width": 360, "height": 800}) as (tab, _):
            assert tab.evaluate(CUES) > 0
        for path in (one, several):
            for width in (1280, 360):
                size = {"width": width, "height": 800}
                with opened(browser, path, viewport=size) as (tab, heard):
                    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
                    assert tab.evaluate(WIDE), f"{path.name} is wider than {width} pixels"
                    assert tab.evaluate(HIDDEN) == []
                    assert tab.evaluate(CLIPPED) == []
                    assert tab.evaluate("document.images.length") > 10
                    assert tab.evaluate(BROKEN) == 0
                    assert tab.evaluate("document.querySelectorAll('script').length") == 0
                    paper = tab.pdf(prefer_css_page_size=True)
                    assert paper.startswith(b"%PDF")
                    assert len(paper) > 20_000
                    assert heard.console == []
                    assert {u for u in heard.requests if not u.startswith("data:")} == {
                        path.resolve().as_uri()
                    }


def printed_pages(browser, path: Path) -> int:
    with opened(browser, path) as (tab, _):
        return len(re.findall(rb"/Type\s*/Page\b", tab.pdf(prefer_css_page_size=True)))


def test_sixteen_images_are_four_printed_pages_and_256_a_few_more(drawn, tmp_path):
    reports = {}
    for k in (16, 256):
        folder = audited(a_run(tmp_path / f"run{k}", k=k))
        evidence = json.loads((folder / "evidence.json").read_text())
        for item in evidence["forget"]:
            item |= {"label": "automobile", "before": "automobile"}
        (folder / "evidence.json").write_text(json.dumps(evidence))
        reports[k] = write_report([folder], tmp_path / f"{k}.html")
    with chromium() as browser:
        assert printed_pages(browser, reports[16]) <= 4
        assert printed_pages(browser, reports[256]) <= 4 + 240 / 50  # 50 lines a page


def test_a_network_that_never_worked_is_not_said_to_work(tmp_path):
    """As where the classes come in another order than the outputs."""
    never = {"acc_forget_before": 0.0, "acc_forget": 0.0, "forget_views_before": 0.6}
    never |= {"acc_test_before": 8.8, "acc_test": 8.8, "acc_retain_before": 9.0, "acc_retain": 9.0}
    rows = {"guessing": never | {"num_classes": 10, "forget_views": 0.6}}
    rows["working"] = rows["guessing"] | {"acc_test_before": 92.0, "acc_test": 92.0}
    for name, row in rows.items():
        folder = a_run(tmp_path / name, k=16, **row)
        found = {answer.question: answer for answer in verdict(read_run(folder)).answers}
        rest, copied = found["Does the rest still work?"], found["Are altered copies forgotten?"]
        assert rest.tone == ("unknown" if name == "guessing" else "good")
        assert copied.tone == "unknown"


def test_evidence_of_older_versions_is_read_under_todays_keys(tmp_path):
    folder = a_run(tmp_path / "run", k=4)
    row = json.loads((folder / "row.json").read_text()) | {
        "second_choice": 75.0,
        "chosen_hold": 0.5,
        "method_retention": "ce",
    }
    (folder / "row.json").write_text(json.dumps(row))
    run = read_run(folder)
    assert run.number("foretold") == 75
    assert run.number("chosen_feature_scale") == 0.5
    assert run.row["method_retention_loss"] == "ce"
    record = {"name": "a", "picture": "data:image/png;base64,AAAA", "before": [{"picture": "x"}]}
    (folder / "evidence.json").write_text(json.dumps({"retrieval": [record]}))
    [found] = read_run(folder).audit["retrieval"]
    assert found["image"] == record["picture"]
    assert found["before"] == [{"image": "x"}]


def test_the_page_names_surrogate_data_and_what_was_left_out(tmp_path):
    given = {
        "surrogates": "public/", "surrogates_count": 1234, "surrogates_left_out": 2,
        "surrogates_digest": "f6" * 32, "needs_retain": False,
    }  # fmt: skip
    write_report([a_run(tmp_path / "a", **given)], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    for words in ("public/", "1,234 unlabelled images", "2 copies of images", "f6" * 32):
        assert words in page
    assert "statistics of the activations" not in page
    assert "most certain of" not in page
    given["chosen_surrogates_held"] = 1000
    write_report([a_run(tmp_path / "d", **given)], tmp_path / "d.html")
    assert "used the 1,000 that the network is most certain of" in (tmp_path / "d.html").read_text()
    given["chosen_probes"] = "surrogates and activations and inverted"
    write_report([a_run(tmp_path / "c", **given)], tmp_path / "c.html")
    assert "activations of the network’s layers" in (tmp_path / "c.html").read_text()
    write_report([a_run(tmp_path / "b")], tmp_path / "b.html")
    assert "unlabelled images" not in (tmp_path / "b.html").read_text()


@pytest.mark.parametrize(
    ("synthetic", "words"),
    [
        ("all", "8 synthetic images as surrogate data in place of the training data (kept). The "
         "synthetic images were fitted to statistics of each class of the training data (a "
         "sidecar). These were computed while the data existed, and may include the images to "
         "forget. Nothing else."),
        ("some", "8 unlabelled images as surrogate data in place of the training data (kept). Some "
         "of the images are synthetic: fitted to statistics of each class of the training data (a "
         "sidecar). These were computed while the data existed, and may include the images to "
         "forget. Nothing else."),
        ("none", "8 unlabelled images as surrogate data in place of the training data (kept). "
         "Nothing else."),
    ],
)  # fmt: skip
def test_a_sidecar_is_told_to_come_from_the_training_data(tmp_path, synthetic, words):
    given = {"surrogates": "kept", "surrogates_count": 8, "needs_retain": False}
    folder = a_run(tmp_path / "a", **given, surrogates_synthetic=synthetic)
    write_report([folder], tmp_path / "a.html")
    page = re.sub("</?bdi>", "", (tmp_path / "a.html").read_text())
    assert words in " ".join(page.split())


def test_data_that_was_not_given_is_none_and_data_without_a_name_is_not_recorded(tmp_path):
    unknown = {"n_test": None, "n_retain": None}
    for name, known in (("none", unknown), ("not recorded", {"n_test": 9})):
        folder = a_run(tmp_path / name, dataset=None, **known)
        write_report([folder], tmp_path / "a.html")
        fact = (tmp_path / "a.html").read_text().partition("<dt>Data</dt>")[2].partition("</dd>")[0]
        assert name in fact


def test_surrogate_images_that_were_scored_too_are_told(tmp_path):
    given = {"surrogates": "data/", "surrogates_count": 90, "needs_retain": False, "n_test": 50}
    given |= {"n_retain": 80, "surrogates_in_test": 20, "surrogates_in_retain": 70}
    folder = a_run(tmp_path / "a", k=8, **CALM, **given)
    write_report([folder], tmp_path / "a.html")
    page = " ".join((tmp_path / "a.html").read_text().split())
    assert "no other training image" not in page
    assert "70 of these unlabelled images are retained training images that were scored too" in page
    assert "the surrogate data included 20 of them" in page
    assert "the surrogate data included 70 of these images" in page
    assert "used only" not in page
    found = verdict(read_run(folder))
    assert "The surrogate data included 20 of the test images." in found.warnings
    assert found.tone != "good"
