"""Surrogate data: how it is read, which of it is left out, and that a run holds it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import blobs
from stakes import Anchors, Classifier, ForgetSet, InputError, NegGrad, StructGuard, load_data
from stakes.cli.commands import main
from stakes.data.images import ImageArray
from stakes.data.surrogates import Surrogates
from stakes.methods.structguard import default
from stakes.methods.structguard.objective import Objective
from stakes.methods.structguard.surrogates import class_shares, surest, weights
from stakes.methods.task import Task
from stakes.progress import silent
from stakes.training.monitor import Check, Monitor
from stakes.training.schedule import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]

SIZE = (8, 8)
QUICK = {"lr": 5e-3, "depth": 1.0, "feature_weight": 1, "probe_batch": 32, "settle": 0.2}


@pytest.fixture
def pixels() -> torch.Tensor:
    return blobs(40, 5)[0]


def test_a_folder_is_read_whole_at_the_size_of_the_forget_images(tmp_path, pixels):
    (tmp_path / "below").mkdir()
    for i, image in enumerate(pixels[:5]):
        place = tmp_path / "below" if i % 2 else tmp_path
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "z-wide.png")
    (tmp_path / "notes.txt").write_text("no image")
    found = Surrogates.of(tmp_path, SIZE)
    assert found.pixels.shape == (6, 3, 8, 8)
    assert (found.source, found.found, found.left_out) == (str(tmp_path), 6, 0)
    assert torch.equal(found.pixels[:3], pixels[[0, 2, 4]])
    assert found.pixels[5].unique().tolist() == [0, 255]  # red at the new size
    few = Surrogates.of(tmp_path, SIZE, most_bytes=2 * 3 * 64)
    assert (len(few), few.found) == (2, 6)


def test_whatever_a_program_holds_is_read(pixels):
    floats, labels = pixels.float() / 255, torch.zeros(40, dtype=torch.int64)
    pairs = [(image, "no class") for image in floats]
    shapes = [pixels, floats, pixels.numpy(), (pixels, labels), ImageArray(pixels, labels), pairs]
    for data in shapes:
        assert torch.equal(Surrogates.of(data, SIZE).pixels, pixels)
    large = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert Surrogates.of(large, SIZE).pixels.shape == (40, 3, 8, 8)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ("/nowhere/at/all", "no such folder.*cifar100"),
        (torch.zeros(0, 3, 8, 8), "without images"),
        (7, "without images"),
        (np.full((2, 8, 8), 2.0), "expected 0 to 1"),
    ],
)
def test_what_cannot_be_surrogate_data_is_one_line(data, note):
    with pytest.raises(InputError, match=note):
        Surrogates.of(data, SIZE)


def test_a_data_set_is_taken_by_its_name(tmp_path):
    digits = load_data("digits").train
    found = Surrogates.of("digits", (16, 16))
    assert torch.equal(found.pixels, digits.pixels)
    assert (found.source, found.found) == ("digits", len(digits))
    assert Surrogates.of("digits", SIZE).pixels.shape[1:] == (3, 8, 8)
    with pytest.raises(InputError, match=f"cifar100 is not in {tmp_path}.*--download"):
        Surrogates.of("cifar100", SIZE, root=tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no images"):
        Surrogates.of(tmp_path, SIZE)


def test_copies_of_forget_images_are_left_out(forget, pixels):
    twins = (forget.images[:2] * 255).round().to(torch.uint8)
    given = Surrogates.of(torch.cat([pixels, twins]), SIZE)
    clean = given.without(forget)
    assert torch.equal(clean.pixels, pixels)
    assert clean.row()["surrogates_left_out"] == 2
    assert clean.row()["surrogates_count"] == 40
    assert clean.digest() != given.digest()
    with pytest.raises(InputError, match="copy"):
        Surrogates.of(twins, SIZE).without(forget)


def test_a_method_without_a_use_for_them_says_so(classifier, forget, pixels):
    with pytest.raises(InputError, match="NegGrad"):
        NegGrad()(classifier, forget, surrogates=pixels)


def task(classifier: Classifier, forget: ForgetSet, anchors: Anchors, given: Tensor | None) -> Task:
    """A call of a method, with the surrogates that are given."""
    made = Task(classifier, forget, anchors, 0, silent, "auto")
    if given is not None:
        made.take_surrogates(given, None, 0)
    return made


@pytest.mark.parametrize("criterion", ["exact", "views"])
def test_a_step_holds_the_original_s_answers_to_them(criterion, classifier, forget, anchors):
    given = blobs(2500, 7)[0]  # so many that none are mixed
    run = task(classifier, forget, anchors, given)
    settings = StructGuard(criterion=criterion, probe_batch=64, precision="float32")
    objective = Objective(settings, run)
    assert objective.cohorts.count == 1
    batch = objective._draw_probes()
    rows = {image.numpy().tobytes() for image in given}
    pixels = (batch.images * 255).round().to(torch.uint8)
    found = [image.numpy().tobytes() in rows for image in pixels]
    assert len(found) == 64
    assert not any(found[:32])  # made as for a run without surrogates
    assert sum(found[32:]) == (32 if criterion == "exact" else 16)
    assert torch.allclose(batch.logits, classifier(batch.images), atol=1e-4)
    with torch.no_grad():
        start = objective.terms(1)
        run.live.body.conv2.weight += 0.1
        moved = objective.terms(2)
    for term in ("retention", "features"):
        assert moved[term] > 10 * start[term].abs()


@pytest.mark.parametrize(("count", "whole"), [(1999, 16), (2000, 32)])
def test_half_of_few_of_them_are_mixed_afresh(count, whole, classifier, forget, anchors):
    given = blobs(count, 7)[0]
    settings = StructGuard(criterion="exact", probe_batch=64, precision="float32")
    batch = Objective(settings, task(classifier, forget, anchors, given))._draw_probes()
    rows = {image.numpy().tobytes() for image in given}
    pixels = (batch.images[32:] * 255).round().to(torch.uint8)
    assert sum(image.numpy().tobytes() in rows for image in pixels) == whole


@pytest.mark.parametrize(("k", "cohorts"), [(4, 1), (16, 2), (70, 8)])
def test_copies_are_forgotten_in_cohorts_of_eight_images_or_more(k, cohorts, classifier, anchors):
    pixels, labels = blobs(k, 5)
    forget = ForgetSet(pixels / 255, labels, [f"{i}.png" for i in range(k)])
    counts = []
    for given in (None, blobs(20, 7)[0]):
        run = task(classifier, forget, anchors, given)
        objective = Objective(StructGuard(criterion="views", probes="mixed"), run)
        counts.append(objective.cohorts.count)
    assert counts == [min(k, 8), cohorts]


def test_plain_mixtures_which_resemble_copies_give_way_to_them(classifier, anchors):
    images = torch.zeros(4, 3, 8, 8)
    images[:, :, :4] = 1  # bright above; rotated, they are not
    forget = ForgetSet(images, torch.tensor([0, 1, 2, 3]), list("abcd"))
    shares = []
    for given in (None, blobs(20, 7)[0]):
        run = task(classifier, forget, anchors, given)
        settings = StructGuard(criterion="views", probes="mixed", probe_batch=400)
        made = Objective(settings, run).probes.draw().images
        above = made[:, :, :4].mean((1, 2, 3)) > made[:, :, 4:].mean((1, 2, 3)) + 0.3
        shares.append(float(above.float().mean()))
    assert 0.35 < shares[0] <= 0.5
    assert shares[1] == 0


def test_drift_is_bounded_on_mixtures_of_them_and_reported_on_those_of_the_images(
    classifier, forget, anchors
):
    def checked(given: torch.Tensor | None) -> Check:
        run = task(classifier, forget, anchors, given)
        monitor = run.monitor()
        run.live.body.conv1.weight.data *= 3
        return monitor.check(run.live)

    without = checked(None)
    beside = checked(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    assert without.bounded_drift == without.drift > 1e-6
    assert beside.drift == pytest.approx(without.drift)
    assert beside.bounded_drift < 1e-6


@pytest.mark.parametrize(("criterion", "bounds"), [("deep", False), ("views", True)])
def test_where_copies_go_drift_is_bounded_on_probes_like_those_held(
    criterion, bounds, classifier, forget, monkeypatch
):
    """Mixtures of the images resemble their copies, and drift when these are forgotten."""
    checks = []
    plain = Monitor.check

    def watched(monitor: Monitor, network: Classifier) -> Check:
        checks.append(plain(monitor, network))
        return checks[-1]

    monkeypatch.setattr(Monitor, "check", watched)
    StructGuard(criterion=criterion, max_steps=1, lr=1e-30)(classifier, forget)
    assert checks
    for check in checks:
        assert check.bounded_drift < 1e-6
        assert (check.held_drift is not None) == bounds


@pytest.mark.parametrize("given", [True, False])
def test_where_copies_go_surrogates_bound_the_drift_and_no_probes(
    given, classifier, forget, anchors
):
    black = torch.zeros(5, 3, 8, 8, dtype=torch.uint8) if given else None
    run = task(classifier, forget, anchors, black)
    monitor = run.monitor(held=lambda count, generator: run.forget.images)
    run.live.body.conv1.weight.data *= 3
    check = monitor.check(run.live)
    assert check.drift > 1e-6
    assert (check.bounded_drift < 1e-6) is given


def test_a_step_of_one_probe_holds_one_of_each(classifier, forget, anchors, pixels):
    method = StructGuard(max_steps=1, **QUICK | {"probe_batch": 1})
    assert len(method(classifier, forget, anchors=anchors, surrogates=pixels).history) == 2


def test_a_run_with_surrogates_repeats_to_the_bit_and_says_so(classifier, forget, anchors, pixels):
    method = StructGuard(max_steps=3, **QUICK)
    one, two = (method(classifier, forget, anchors=anchors, surrogates=pixels) for _ in range(2))
    assert one.classifier.digest() == two.classifier.digest()
    assert one.chosen["probes"] == "surrogates and mixed"
    assert (len(one.surrogates), method(classifier, forget, anchors=anchors).surrogates) == (
        40,
        None,
    )


def test_of_many_those_are_held_that_the_network_is_surest_of_in_every_class():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(300, 4, generator=generator)
    logits[:, 0] += 2  # most are of one class
    logits[0] = torch.tensor([50.0, 49.9, 0.0, 0.0])  # high, but undecided
    labels, ordered = logits.argmax(1), logits.sort(dim=1).values
    lead = ordered[:, -1] - ordered[:, -2]
    held = surest(logits, most=60)
    counts = labels.bincount(minlength=4)
    small = [label for label in range(4) if counts[label] < 15]
    assert small  # gives its place to the others
    for label in range(4):
        own = [i for i in held.tolist() if labels[i] == label]
        best = sorted((labels == label).nonzero()[:, 0].tolist(), key=lambda i: -lead[i])
        assert own == sorted(best[: len(own)])
        assert len(own) == counts[label] if label in small else len(own) >= 15
    assert len(held) == 60
    assert torch.equal(surest(logits, most=300), torch.arange(300))


def test_classes_that_many_forget_images_are_of_are_drawn_more_often(classifier, anchors):
    forget = ForgetSet(torch.rand(4, 3, 8, 8), torch.tensor([1, 1, 1, 3]), list("abcd"))
    shares = class_shares(task(classifier, forget, anchors, None))
    assert torch.allclose(shares, torch.tensor([1, 4, 1, 2]) / 8)
    labels = torch.tensor([0] * 20 + [1] * 10 + [3] * 8)  # of class 2 there are none
    w = weights(labels, shares)
    drawn = torch.stack([w[labels == label].sum() for label in range(4)])
    assert torch.allclose(drawn / drawn.sum(), torch.tensor([1, 4, 0, 2]) / 7)
    assert w.mean() == pytest.approx(1)
    assert weights(torch.tensor([0] * 99 + [1]), shares).max() == 4  # one image, not memorised
    whole = replace(forget, classes=(1,))
    assert torch.equal(class_shares(task(classifier, whole, anchors, None)), torch.ones(4) / 4)


def test_a_run_draws_by_these_shares_among_those_it_holds(classifier, forget, anchors, monkeypatch):
    given = blobs(400, 7)[0]
    with torch.no_grad():
        logits = classifier(given.float() / 255)
    held = surest(logits, most=100)
    monkeypatch.setattr("stakes.methods.structguard.surrogates.MOST", 100)
    one = ForgetSet(forget.images[:1], torch.tensor([2]), ["a"])
    run = task(classifier, one, anchors, given)
    objective = Objective(StructGuard(precision="float32", probe_batch=8000), run)
    images = (objective._draw_probes().images[4000:] * 255).round().to(torch.uint8)
    place = {image.numpy().tobytes(): i for i, image in enumerate(given)}
    whole = torch.tensor([place.get(image.numpy().tobytes(), -1) for image in images])
    drawn = whole[whole >= 0]  # the others are mixed afresh
    assert set(drawn.tolist()) == set(held.tolist())
    labels = logits.argmax(1)
    expected = weights(labels[held], torch.tensor([1, 1, 5, 1]) / 8)
    for label in range(4):
        share = expected[labels[held] == label].sum() / expected.sum()
        assert float((labels[drawn] == label).double().mean()) == pytest.approx(
            float(share), abs=0.04
        )


@pytest.mark.parametrize(
    ("criterion", "given", "cohorts", "expected"),
    [
        ("views", True, 2, (1.4, 168)),
        ("views", False, 2, (0.7, 60)),
        ("deep", True, 2, (0.35, 30)),
        ("deep", True, 1, (0.7, 30)),
    ],
)
def test_copies_settle_for_longer_where_surrogate_data_is_held(
    criterion, given, cohorts, expected, pixels, classifier, forget, anchors, monkeypatch
):
    settled = []

    def spy(*args, settle, settle_least, **options):
        settled.append((settle, settle_least))
        return Schedule(*args, settle=settle, settle_least=settle_least, **options)

    monkeypatch.setattr(default, "Schedule", spy)
    method = StructGuard(
        criterion=criterion, probe_batch=16, probes="mixed", settle=0.7, max_steps=1,
        cohorts=cohorts,
    )  # fmt: skip
    surrogates = Surrogates(pixels, "noise", 40) if given else None
    method(classifier, forget, anchors=anchors, surrogates=surrogates)
    assert settled == [pytest.approx(expected)]


def test_images_that_are_scored_too_are_found_pixel_by_pixel(pixels):
    held = Surrogates(pixels[:30], "some", 30)
    scored = ImageArray(pixels, torch.zeros(len(pixels)).long())
    assert held.among(scored, list(range(20, 40))) == 10
    assert held.among(scored, list(range(30, 40))) == 0


def written(folder: Path, images: torch.Tensor) -> Path:
    """The images as files of a folder."""
    folder.mkdir(parents=True)
    for i, image in enumerate((images * 255).round().to(torch.uint8)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def test_the_command_takes_a_folder_and_the_row_says_what_was_held(
    tmp_path, classifier, forget, pixels, capsys
):
    (tmp_path / "classes.txt").write_text("\n".join(classifier.class_names))
    for label in forget.labels.unique().tolist():
        name = classifier.class_names[label]
        written(tmp_path / "forget" / name, forget.images[forget.labels == label])
    public = written(tmp_path / "public", torch.cat([pixels / 255, forget.images[:1]]))
    words = ["--model", "stakes:digits_cnn", "--weights", "random", "--max-steps", 2, "--quiet"]
    words += ["--classes", tmp_path / "classes.txt", "--forget", tmp_path / "forget"]
    words += ["--surrogates", public]
    command = ["unlearn", *map(str, words)]
    assert main([*command, "--out", str(tmp_path / "out")]) in (0, 3)
    row = json.loads((tmp_path / "out" / "row.json").read_text())
    assert row["surrogates"] == str(public)
    assert (row["surrogates_count"], row["surrogates_left_out"]) == (40, 1)
    assert row["surrogates_synthetic"] == "none"
    assert len(row["surrogates_digest"]) == 64
    assert "surrogates_in_test" not in row  # nothing was scored
    data = tmp_path / "data"
    written(data / "train" / classifier.class_names[0], pixels[:7] / 255)
    for name in classifier.class_names[1:]:
        written(data / "train" / name, 1 - pixels[:1] / 255)
    assert main([*command, "--data", str(data), "--out", str(tmp_path / "scored")]) in (0, 3)
    assert json.loads((tmp_path / "scored" / "row.json").read_text())["surrogates_in_retain"] == 7
    assert main([*command, "--out", str(public / "out")]) == 2
    assert main([*command, "--method", "neggrad", "--out", str(tmp_path / "other")]) == 2
    assert "NegGrad uses no surrogate data" in capsys.readouterr().err
