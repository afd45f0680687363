"""The script that finds the forget images of the paper's code, on a few made-up images."""

import csv

import pytest
import torch

from command_line import noise, write_images
from scripts import benchmark
from stakes import ForgetSet, InputError
from stakes.data.digests import pixel_digests


@pytest.fixture
def script():
    return benchmark("published_draws")


@pytest.fixture
def images(tmp_path, script, monkeypatch):
    """Twelve images in two classes; four of them, out of order, are draw 3."""
    pixels = noise(12)
    write_images(tmp_path / "cifar" / "train", pixels, torch.arange(12) % 2, ("cat", "dog"))
    write_images(tmp_path / "cifar" / "test", noise(2, 1), torch.arange(2), ("cat", "dog"))
    digests = pixel_digests(pixels[[7, 2, 9, 4]] / 255)
    known = tmp_path / "known.csv"
    known.write_text("seed,place,pixels\n" + "".join(f"3,0,{digest}\n" for digest in digests))
    monkeypatch.setattr(script, "KNOWN", known)
    monkeypatch.setattr(script, "NUMBERS", (2, 4))
    return tmp_path, digests


def test_images_are_found_by_their_pixels_and_kept_in_the_order_of_the_draw(script, images):
    place, digests = images
    script.main([str(place / "cifar"), str(place / "out")])
    for k in (2, 4):
        forget = ForgetSet.from_csv(place / "out" / f"draw-3-k-{k}.csv", ("cat", "dog"))
        assert forget.pixel_digests() == digests[:k]
        assert forget.labels.tolist() == [1, 0, 1, 0][:k]


def test_a_data_set_without_them_is_refused_before_a_table_is_written(script, images):
    place, _ = images
    next((place / "cifar" / "train" / "dog").iterdir()).unlink()
    next((place / "cifar" / "train" / "cat").glob("2.png")).unlink()
    with pytest.raises(InputError, match="of 4 images are not among its training images"):
        script.main([str(place / "cifar"), str(place / "out")])
    assert not list((place / "out").glob("*.csv"))


def test_the_places_are_those_that_pytorch_draws(script):
    with script.KNOWN.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for seed in range(5):
        places = [int(row["place"]) for row in rows if row["seed"] == str(seed)]
        torch.manual_seed(seed)
        assert places == torch.randperm(50000)[: max(script.NUMBERS)].tolist()
    assert len({row["pixels"] for row in rows}) == len({row["place"] for row in rows})
