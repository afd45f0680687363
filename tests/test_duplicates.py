"""An image that was saved again, resized, mirrored or cropped is found; another one is not."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from conftest import CLASSES
from stakes import Classifier, ForgetSet, evaluate
from stakes.data.duplicates import DISTANCE, Finder, near_duplicates
from stakes.data.images import ImageArray
from stakes.data.retain import retained
from stakes.evaluation.again import found_in_words
from stakes.report.findings import found_in_data, given_twice
from stakes.report.page import write_report
from stakes.report.records import Row
from stakes.report.run_folder import RunFolder


def photograph(seed: int, side: int = 48) -> Image.Image:
    """Shapes of many sizes before a sky, as photographs have them."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(draw.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for size in (0.6, 0.4, 0.3, 0.2, 0.15, 0.1):
        left, top = draw.uniform(0, side * (1 - size), 2)
        box = (left, top, left + side * size, top + side * size * draw.uniform(0.4, 1))
        colour = tuple(draw.integers(0, 256, 3).tolist())
        (pen.ellipse if draw.random() < 0.5 else pen.rectangle)(box, fill=colour)
    return image


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image, left: float, top: float, share: float = 0.92) -> Image.Image:
    side = image.width
    box = (left * side, top * side, (left + share) * side, (top + share) * side)
    return image.resize((side, side), Image.Resampling.BICUBIC, box)


ALTERED = {
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 75": lambda image: jpeg(image, 75),
    "half the size": lambda image: image.resize((24, 24)),
    "twice the size": lambda image: image.resize((96, 96)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped at a corner": lambda image: cropped(image, 0.08, 0),
    "cropped all round": lambda image: cropped(image, 0.04, 0.04),
    "cropped by a tenth": lambda image: cropped(image, 0.1, 0.1, 0.9),
    "cropped and JPEG": lambda image: jpeg(cropped(image, 0, 0.05), 75),
}


def pixels(images: list[Image.Image]) -> torch.Tensor:
    arrays = [np.asarray(image) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


PHOTOGRAPHS = [photograph(seed) for seed in range(40)]


@pytest.mark.parametrize("how", ALTERED)
def test_what_was_altered_a_little_is_found_both_ways(how):
    among = ImageArray(pixels(PHOTOGRAPHS), [0] * 40)
    altered = pixels([ALTERED[how](image) for image in PHOTOGRAPHS[10:16]]).float() / 255
    for pairs, shift in (
        (near_duplicates(altered, among, batch_size=7), 10),
        (Finder(among.load(range(40))).search(altered, range(6)), -10),
    ):
        assert [pair.among - pair.of for pair in pairs] == [shift] * 6
        assert not any(pair.exact for pair in pairs)
        assert all(0 <= pair.distance <= DISTANCE for pair in pairs)


def test_other_images_and_plain_surfaces_are_not():
    among = ImageArray(pixels(PHOTOGRAPHS), [0] * 40)
    assert near_duplicates(among.load(range(40)).flip(2), among) == []
    plain = torch.stack([torch.full((3, 48, 48), 0.5 + i / 20) for i in range(3)])
    assert Finder(plain[:1]).search(plain[1:], range(2)) == []
    (same,) = Finder(plain[:1]).search(plain, range(3))
    assert (same.among, same.exact) == (0, True)


@pytest.mark.parametrize(("shift", "found"), [(0.055, True), (0.065, False)])
def test_pixels_of_a_copy_differ_by_six_hundredths_at_most(shift, found):
    dim = 0.8 * pixels(PHOTOGRAPHS[:3]).float() / 255
    assert len(Finder(dim).search(dim + shift, range(3))) == (3 if found else 0)


@pytest.mark.parametrize(("strength", "found"), [(0.01, True), (0.04, False)])
def test_a_copy_changes_from_place_to_place_as_the_image_does(strength, found):
    ramp = torch.linspace(0.1, 0.9, 48)[:, None].expand(1, 3, 48, 48)
    board = (np.indices((48, 48)) // 3).sum(0) % 2  # of 16 x 16 cells, each lighter or darker
    checked = 2 * torch.from_numpy(board).float() - 1
    assert len(Finder(ramp).search(ramp + strength * checked, [0])) == found


def test_small_images_are_known_by_their_pixels_alone():
    small = torch.rand(4, 3, 16, 16)
    assert Finder(small).search(small.flip(3), range(4)) == []
    assert [pair.exact for pair in Finder(small).search(small, range(4))] == [True] * 4

    large = pixels(PHOTOGRAPHS[:4]).float() / 255
    assert len(Finder(large).search(resized(large, 24), range(4))) == 4
    assert len(Finder(resized(large, 24)).search(large, range(4))) == 4
    assert Finder(resized(large, 23)).search(large, range(4)) == []
    assert Finder(large).search(resized(large, 16), range(4)) == []
    assert Finder(large, near=False).search(large.flip(3), range(4)) == []


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    return nn.functional.interpolate(images, (side, side), mode="area")


def test_each_of_very_many_images_is_found():
    noise = torch.rand(1030, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    wanted = torch.cat([noise, pixels(PHOTOGRAPHS[:4]).float() / 255])
    found = Finder(wanted).search(wanted[-4:].flip(3), range(4))
    assert [(pair.of, pair.among) for pair in found] == [(1030 + i, i) for i in range(4)]


@pytest.mark.parametrize("nearest", [0, 1])
def test_of_several_that_are_alike_the_nearest_is_told(nearest):
    asked = [jpeg(PHOTOGRAPHS[5], quality) for quality in (60, 95)]
    found = Finder(pixels(asked if nearest else asked[::-1]).float() / 255)
    alone = [Finder(pixels([one]).float() / 255) for one in asked]
    searched = pixels([PHOTOGRAPHS[5]]).float() / 255
    (far,), (near,) = (finder.search(searched, [0]) for finder in alone)
    assert far.distance > near.distance
    (pair,) = found.search(searched, [0])
    assert (pair.of, pair.distance) == (nearest, near.distance)


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, len(CLASSES))

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def data():
    """Forty photographs, of which 3 is 2 mirrored; and a request for 0, 1 and 2, saved as JPEG."""
    images = [*PHOTOGRAPHS[:3], ALTERED["mirrored"](PHOTOGRAPHS[2]), *PHOTOGRAPHS[4:]]
    train = ImageArray(pixels(images), [0, 1, 2, 2, *[3] * 36], prefix="train")
    asked = [PHOTOGRAPHS[0], jpeg(PHOTOGRAPHS[1], 90), jpeg(PHOTOGRAPHS[2], 75)]
    return train, ForgetSet.from_tensors(pixels(asked), [0, 1, 2], ["a", "b", "c"])


def test_no_method_trains_on_them(data):
    train, forget = data
    rest = retained(train, forget, 0, len(CLASSES), torch.Generator().manual_seed(0))
    assert len(rest) == 36
    assert set(rest.labels.tolist()) == {3}


def test_they_are_neither_scored_nor_passed_over_in_silence(data):
    train, forget = data
    network = Classifier.wrap(Mean(), class_names=CLASSES, input_size=48)
    row, evidence = evaluate(
        network, network, forget, retain=train, test=train, eval_samples=5, thumbnails=False
    )
    assert row["n_searched"] == 40  # though only five are scored
    assert (row["n_found_exact"], row["n_found_near"], row["n_near_left_out"]) == (1, 2, 3)
    listed = {(item["name"], item["found"]) for item in evidence["duplicates"]}
    assert listed == {("b", "train 1"), ("c", "train 2"), ("c", "train 3")}
    said = "3 of 3 forget images found in --data (1 exact, 2 near-duplicates)"
    assert found_in_words({"k": 3} | row) == said
    run = RunFolder("run", Row(row | {"k": 3}), [], [], [], {"duplicates": evidence["duplicates"]})
    found, left = found_in_data(run)
    assert "3 of the 3 images are in the training data" in found
    assert all(name in left for name in ("3 training images", "train 1", "train 2", "train 3"))


def test_copies_among_the_images_to_forget_are_counted(tmp_path):
    asked = [PHOTOGRAPHS[0], *[PHOTOGRAPHS[1]] * 3]
    forget = ForgetSet.from_tensors(pixels(asked), [0, 1, 1, 1])
    network = Classifier.wrap(Mean(), class_names=CLASSES, input_size=48)
    row, _ = evaluate(network, network, forget, thumbnails=False)
    assert row["n_copies_left_out"] == 2
    (tmp_path / "row.json").write_text(json.dumps({"k": 2, **row}))
    write_report([tmp_path], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "Of the 4 images given, 2 are copies of others and count once." in page
    assert "2 (copies left out: 2)" in page
    row["n_copies_left_out"] = 1
    [said] = given_twice(RunFolder("run", Row(row | {"k": 2}), [], [], []))
    assert said == "Of the 3 images given, 1 is a copy of another and counts once."


def test_of_images_drawn_from_the_data_only_duplicates_are_told(data):
    train, _ = data
    forget = ForgetSet.from_indices(train, [2])
    network = Classifier.wrap(Mean(), class_names=CLASSES, input_size=48)
    row, evidence = evaluate(network, network, forget, retain=train, thumbnails=False)
    assert (row["n_retain"], row["n_found_exact"], row["n_near_left_out"]) == (38, None, 1)
    assert found_in_words({"k": 1} | row) == (
        "1 near-duplicate of forget images left out of --data"
    )
    assert evidence["duplicates"][0]["found"] == "train 3"
