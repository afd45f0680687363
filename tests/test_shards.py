"""Tar shards, as WebDataset writes them, as a data set."""

import io
import json
import tarfile

import pytest
import torch
from PIL import Image

from conftest import blobs
from stakes import load_data
from stakes.errors import InputError

NAMES = ("red", "green", "blue", "grey")


def put(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))


def png(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, pixels, labels, kind="cls"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            key = f"{path.stem}/{number:05}"
            content = str(label) if kind == "cls" else json.dumps({"label": label})
            put(shard, f"{key}.{kind}", content.encode())
            put(shard, f"{key}.png", png(image))


@pytest.fixture
def folder(tmp_path):
    """Two shards for training, one for testing; and the pixels and labels in them."""
    pixels, labels = blobs(20, 0)
    write(tmp_path / "train" / "a-000.tar", pixels[:9], labels[:9])
    write(tmp_path / "train" / "a-001.tar", pixels[9:16], labels[9:16], kind="json")
    write(tmp_path / "test" / "b-000.tar", pixels[16:], labels[16:])
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    return tmp_path, pixels, labels


def test_shards_give_the_pixels_and_labels_that_were_put_in(folder):
    top, pixels, labels = folder
    data = load_data(top)
    assert data.class_names == NAMES
    assert torch.equal(data.train.labels, labels[:16])
    assert torch.equal(data.train.load(range(16)), pixels[:16].float() / 255)
    assert torch.equal(data.test.load([3, 0]), pixels[[19, 16]].float() / 255)
    assert data.train.name(10).endswith(":a-001/00001.png")


def test_classes_follow_the_order_of_the_network(folder):
    top, _, labels = folder
    data = load_data(top, class_names=NAMES[::-1])
    assert torch.equal(data.train.labels, 3 - labels[:16])


def test_shards_without_splits_are_training_data(folder):
    top, pixels, _ = folder
    alone = top / "alone"
    write(alone / "x.tar", pixels[:4], torch.arange(4))
    (alone / "classes.txt").write_text("\n".join(NAMES))
    data = load_data(alone)
    assert (len(data.train), data.test) == (4, None)


def test_what_is_missing_or_damaged_is_said(folder):
    top, *_ = folder
    (top / "classes.txt").rename(top / "names")
    with pytest.raises(InputError, match=r"add .*classes\.txt"):
        load_data(top)
    (top / "names").rename(top / "classes.txt")
    with tarfile.open(top / "train" / "c.tar", "w") as shard:
        put(shard, "one.png", png(torch.zeros(3, 8, 8, dtype=torch.uint8)))
    with pytest.raises(InputError, match=r"add one\.cls"):
        load_data(top)
    (top / "train" / "c.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match="shard"):
        load_data(top)
