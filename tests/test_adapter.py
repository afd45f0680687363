"""Users' own data, in whatever type a program holds it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from stakes import InputError, as_images
from stakes.data.adapter import as_pixels
from stakes.data.datasets import Splits
from stakes.data.images import ImageArray, ImageFiles

PIXELS = torch.randint(0, 256, (4, 3, 6, 6), generator=torch.Generator().manual_seed(0)).byte()
LABELS = [2, 0, 1, 1]
PICTURES = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in PIXELS]
WANTED = PIXELS.float() / 255


class Items(Dataset):
    """A dataset that counts how often it is read."""

    def __init__(self, items, **attributes):
        self.items, self.reads = items, 0
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        self.reads += 1
        return self.items[i]


class Columns(Items):
    """What Hugging Face's datasets look like: items by place, columns by name."""

    column_names = ("image", "label")

    def __getitem__(self, i):
        return LABELS if i == "label" else super().__getitem__(i)


PAIRS = list(zip(PICTURES, LABELS, strict=True))
ENTRIES = [{"image": image, "label": label} for image, label in PAIRS]
HELD = {
    "8-bit tensor": lambda: as_images(PIXELS, LABELS),
    "float tensor": lambda: as_images(WANTED, torch.tensor(LABELS)),
    "whole numbers": lambda: as_images(PIXELS.long(), np.array(LABELS, np.int32)),
    "array, channels last": lambda: as_images(PIXELS.permute(0, 2, 3, 1).numpy(), LABELS),
    "float array": lambda: as_images(WANTED.permute(0, 2, 3, 1).numpy(), LABELS),
    "labels of 2 bytes": lambda: as_images(PIXELS, np.array(LABELS, np.uint16)),
    "labels of 4 bytes": lambda: as_images(PIXELS, np.array(LABELS, np.uint32)),
    "labels of 8 bytes": lambda: as_images(PIXELS, np.array(LABELS, np.uint64)),
    "images and labels": lambda: as_images((PIXELS, LABELS)),
    "tensor dataset": lambda: as_images(TensorDataset(WANTED, torch.tensor(LABELS))),
    "pairs": lambda: as_images(PAIRS),
    "dicts": lambda: as_images(ENTRIES),
    "images alone": lambda: as_images(PICTURES, LABELS),
    "dataset": lambda: as_images(Items(PAIRS)),
    "dataset with targets": lambda: as_images(Items(PAIRS, targets=LABELS)),
    "columns": lambda: as_images(Columns(ENTRIES)),
    "subset": lambda: as_images(Subset(Items(PAIRS), range(4))),
}


@pytest.mark.parametrize("held", HELD)
def test_the_same_images_come_out_however_they_are_held(held):
    images = HELD[held]()
    assert len(images) == 4
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == LABELS
    assert torch.equal(images.load([3, 0]), WANTED[[3, 0]])
    assert torch.equal(images.load(torch.tensor([1])), WANTED[[1]])
    assert images.name(2) == "image 2"


def test_images_of_our_own_stay_as_they_are():
    images = ImageArray(PIXELS, LABELS)
    assert as_images(images) is images
    with pytest.raises(InputError, match="leave them out"):
        as_images(images, LABELS)


def test_floats_keep_every_bit():
    exact = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(as_images(exact, LABELS).load(range(4)), exact)


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 1, 6, 6), (2, 6, 6, 1)])
def test_grey_images_get_three_equal_channels(shape):
    grey = torch.rand(shape)
    pixels = as_pixels(grey)
    assert torch.equal(pixels, grey.reshape(2, 1, 6, 6).expand(2, 3, 6, 6))


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int64])
def test_whole_numbers_of_any_width_are_pixels_up_to_255(kind):
    pixels = np.full((2, 3, 4, 4), 200, dtype=kind)
    assert as_pixels(pixels).dtype == torch.uint8
    with pytest.raises(InputError, match="expected 0 to 255"):
        as_pixels(pixels * 100)


def test_labels_are_not_looked_for_in_items_where_they_are_at_hand():
    for items in (Columns(ENTRIES), Items(PAIRS, targets=torch.tensor(LABELS))):
        as_images(items)
        assert items.reads < 4
    changed = Items(PAIRS, targets=[9, 9, 9, 9], target_transform=abs)
    assert as_images(changed).labels.tolist() == LABELS  # targets are not what the items say


def test_pil_images_are_brought_to_one_size_and_tensors_are_not():
    mixed = [(Image.new("RGB", (9, 6)), 0), (Image.new("L", (20, 30)), 1)]
    assert as_images(mixed).load([0, 1]).shape == (2, 3, 6, 6)
    assert as_images(mixed, size=4).load([0, 1]).shape == (2, 3, 4, 4)
    tensors = as_images([(torch.rand(3, 6, 6), 0), (torch.rand(3, 5, 5), 1)])
    with pytest.raises(InputError, match=r"image 1 .*\(5, 5\).*\(6, 6\)"):
        tensors.load([0, 1])


def test_pil_images_are_read_as_the_network_reads_them():
    def white(image):
        return torch.full((3, 2, 5), 255, dtype=torch.uint8)

    images = as_images(PAIRS, read=white)
    assert torch.equal(images.load([0, 1]), torch.ones(2, 3, 2, 5))


@pytest.mark.parametrize("image", ["image", "img", "pixel_values"])
@pytest.mark.parametrize("label", ["label", "labels"])
def test_items_are_read_under_the_usual_names(image, label):
    images = as_images(
        [{image: pixels, label: y} for pixels, y in zip(PIXELS, LABELS, strict=True)]
    )
    assert images.labels.tolist() == LABELS
    assert torch.equal(images.load(range(4)), WANTED)


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_a_pil_image_becomes_what_its_file_becomes(mode, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("L") if mode != "RGB" else Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256 + 77)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        got = as_images([(opened, 0)], size=5).load([0])
    assert torch.equal(got, ImageFiles([tmp_path / "a.png"], [0], 5, exact=True).load([0]))


def test_arrays_of_8_bits_are_shrunk_to_a_size():
    assert as_images(PIXELS, LABELS, size=3).load([0]).shape == (1, 3, 3, 3)


def test_a_truncated_pil_image_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    with Image.open(tmp_path / "a.png") as cut, pytest.raises(InputError, match="image 1: "):
        as_images([(PICTURES[0], 0), (cut, 1)]).load([1])


REFUSED = {
    "no images: a set has": lambda: as_images([]),
    r"images are a str: give labelled images": lambda: as_images("photos/"),
    r"images are a int": lambda: as_images(3),
    r"images are a generator": lambda: as_images(x for x in PAIRS),
    r"images are a dict": lambda: as_images({"image": PICTURES}),
    r"loader\.dataset": lambda: as_images(DataLoader(Items(PAIRS))),
    r"data\.train or data\.test": lambda: as_images(
        Splits(ImageArray(PIXELS, LABELS), None, ("a", "b", "c"))
    ),
    "4 images without labels": lambda: as_images(PIXELS),
    "image 0 has no label": lambda: as_images(PICTURES),
    "image 0 is a str": lambda: as_images([("a.png", 0)]),
    "image 1 has the label 'cat'": lambda: as_images([PAIRS[0], (PICTURES[1], "cat")]),
    r"4 images with labels of shape \(3,\)": lambda: as_images(PIXELS, [0, 1, 2]),
    r"4 images with labels of shape \(4, 3\)": lambda: as_images(PIXELS, torch.eye(4, 3).long()),
    "labels are torch.float32": lambda: as_images(PIXELS, torch.tensor([0.0, 1, 2, 3])),
    "labels are a list that cannot be read": lambda: as_images(PIXELS, ["a", "b", "c", "d"]),
    "label -1 is negative": lambda: as_images(PIXELS, [0, 1, 2, -1]),
    "keys picture, label: no image": lambda: as_images([{"picture": PICTURES[0], "label": 0}]),
    "keys image, y: no label": lambda: as_images([{"image": PICTURES[0], "y": 0}]),
    "pixels from 0 to 255, expected 0 to 1": lambda: as_images(PIXELS.float(), LABELS),
    r"image 0: pixels from -0.99.*leave out Normalize": lambda: as_images(
        TensorDataset(WANTED * 2 - 1, torch.tensor(LABELS))
    ),
    "pixels from nan": lambda: as_images(WANTED * float("nan"), LABELS),
    r"shape \(4, 2, 6, 6\)": lambda: as_images(PIXELS[:, :2], LABELS),
    r"pixels are torch\.bool": lambda: as_images(PIXELS > 3, LABELS),
    "image 0: floating-point pixels": lambda: as_images([(Image.new("F", (6, 6)), 0)]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_labelled_images_is_refused_in_one_line(message):
    with pytest.raises(InputError, match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)
