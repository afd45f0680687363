"""Sets of images: folders, memory, and the named data sets."""

import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from stakes.data.datasets import DATASETS, Splits, load_data
from stakes.data.images import ImageArray, ImageFiles, batches
from stakes.errors import InputError

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared" / "data"


def image(path: Path, value: int = 100, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, value, value)).save(path)
    return path


def tree(root: Path, *files: str, side: int = 8) -> Path:
    for i, file in enumerate(files):
        image(root / file, 10 * i, side)
    return root


# ImageFiles and ImageArray


def test_files_are_loaded_in_the_order_asked_for(tmp_path: Path) -> None:
    paths = [image(tmp_path / f"{v}.png", v) for v in (0, 51, 255)]
    images = ImageFiles(paths, [0, 1, 1], root=tmp_path)
    out = images.load(torch.tensor([2, 0, 1, 1]))
    assert out.shape == (4, 3, 8, 8)
    assert out.dtype == torch.float32
    assert out[:, 0, 0, 0].tolist() == pytest.approx([1, 0, 0.2, 0.2])
    assert (len(images), images.labels.tolist(), images.name(1)) == (3, [0, 1, 1], "51.png")
    assert images.load([]).shape == (0, 3, 8, 8)


def test_file_pixels_are_channels_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    out = ImageFiles([tmp_path / "a.png"], [0]).load([0])[0]
    for channel in range(3):
        assert np.array_equal((out[channel] * 255).round().numpy(), pixels[..., channel])


def test_exact_size_enlarges(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png", side=4)
    assert ImageFiles([path], [0], 16).load([0]).shape[-1] == 4
    assert ImageFiles([path], [0], 16, exact=True).load([0]).shape[-1] == 16
    with pytest.raises(InputError, match="exact=True asks for a size"):
        ImageFiles([path], [0], exact=True)


def test_a_damaged_file_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    for path in paths:
        Image.fromarray(noise).save(path)
    paths[30].write_bytes(paths[30].read_bytes()[:120])  # the header is whole
    images = ImageFiles(paths, [0] * 40)
    assert images.load(range(30)).shape[0] == 30
    with pytest.raises(InputError, match=r"30\.png: cannot be read as an image"):
        images.load(range(40))


def test_sets_refuse_what_does_not_fit(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png")
    with pytest.raises(InputError, match="image files"):
        ImageFiles([], [])
    with pytest.raises(InputError, match=r"1 image files.*\(2,\)"):
        ImageFiles([path], [0, 1])
    with pytest.raises(InputError, match=r"torch.float32 \(1, 3, 4, 4\): expected uint8"):
        ImageArray(torch.zeros(1, 3, 4, 4), [0])
    with pytest.raises(InputError, match="square"):
        ImageArray(torch.zeros(1, 3, 4, 5, dtype=torch.uint8), [0], 4)
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    fine = ImageArray(pixels, [0, 1])
    for labels, said in (([0, 2], "0 to 2"), ([-1, 1], "-1 to 1")):
        wrong = ImageArray(pixels, labels)
        with pytest.raises(InputError, match=f"training set has labels {said}: 2 classes.*0 to 1"):
            Splits(wrong, None, ("a", "b"))
        with pytest.raises(InputError, match=f"test set has labels {said}: 2 classes.*0 to 1"):
            Splits(fine, wrong, ("a", "b"))


def test_array_shrinks_but_never_enlarges() -> None:
    pixels = torch.full((3, 3, 8, 8), 77, dtype=torch.uint8)
    assert ImageArray(pixels, [0, 0, 0], 32).load([0]).shape[-1] == 8
    small = ImageArray(pixels, [0, 0, 0], 4).load([0, 2])
    assert small.shape == (2, 3, 4, 4)
    assert torch.equal(small, torch.full((2, 3, 4, 4), 77 / 255))


def test_arrays_are_shrunk_as_pillow_shrinks_files() -> None:
    stripes = np.indices((24, 24))[1] // 5 % 2 * 255  # so that the filter overshoots
    noise = np.random.default_rng(0).integers(80, 176, (24, 24))
    pixels = np.stack([np.stack([one] * 3, -1) for one in (stripes, noise)]).astype(np.uint8)
    shrunk = ImageArray(torch.from_numpy(pixels).permute(0, 3, 1, 2), [0, 0], 10)
    wanted = [Image.fromarray(one).resize((10, 10), Image.Resampling.BICUBIC) for one in pixels]
    for got, image in zip(shrunk.pixels, wanted, strict=True):
        away = got.permute(1, 2, 0).int() - torch.from_numpy(np.array(image)).int()
        assert away.abs().max() <= 1


def test_a_large_array_is_shrunk_whole() -> None:
    number = torch.arange(2001)
    pixels = torch.stack([number % 256, number // 256, number * 0], 1).to(torch.uint8)
    images = ImageArray(pixels[:, :, None, None].expand(2001, 3, 4, 4), number, 2)
    assert torch.equal(images.pixels[:, :, 0, 0], pixels)


def test_batches_cover_everything_once_in_order() -> None:
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 3, 2, 2)
    images = ImageArray(pixels, torch.arange(7))
    parts = list(batches(images, batch_size=3))
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(7))
    assert torch.equal(torch.cat([x for x, _ in parts]), images.load(range(7)))
    one = next(batches(images, torch.tensor([5])))
    assert one[1].tolist() == [5]
    assert float(one[0].max()) == pytest.approx(5 / 255)


# Folders


@pytest.mark.parametrize("test_name", ["test", "val", "valid"])
def test_train_and_test_folders(tmp_path: Path, test_name: str) -> None:
    tree(tmp_path, "train/dog/b.png", "train/dog/deep/a.png", "train/cat/x.JPG")
    tree(tmp_path, f"{test_name}/cat/1.png", f"{test_name}/dog/2.png")
    splits = load_data(tmp_path, size=224)
    assert splits.class_names == ("cat", "dog")
    assert splits.test is not None
    assert [splits.train.name(i) for i in range(3)] == [
        "train/cat/x.JPG", "train/dog/b.png", "train/dog/deep/a.png",
    ]  # fmt: skip
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert splits.test.labels.tolist() == [0, 1]
    assert splits.test.load([1]).mean() == pytest.approx(10 / 255)


def test_test_goes_before_val(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/1.png", "val/a/1.png", "test/a/2.png", "test/a/3.png")
    test = load_data(str(tmp_path)).test
    assert test is not None
    assert len(test) == 2


def test_class_folders_alone_are_a_training_set(tmp_path: Path) -> None:
    tree(tmp_path, "b/1.png", "a/1.png", "train/1.png")  # a class may be called train
    splits = load_data(tmp_path)
    assert splits.test is None
    assert splits.class_names == ("a", "b", "train")


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/1.png", "a/.2.png", ".c/1.png", "b/.d/1.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    splits = load_data(tmp_path)
    assert splits.class_names == ("a", "b")
    assert len(splits.train) == 2


def test_links_to_class_folders_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    tree(tmp_path / "store", "x/1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "store" / "x" / "again").symlink_to(tmp_path / "store")
    assert len(load_data(tmp_path / "set").train) == 1


def test_given_class_names_set_the_order_and_may_be_more(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/1.png")
    splits = load_data(tmp_path, class_names=["b", "z", "a"])
    assert splits.class_names == ("b", "z", "a")
    assert splits.train.labels.tolist() == [2, 0]
    with pytest.raises(InputError, match=r"'a'.*b, z"):
        load_data(tmp_path, class_names=["b", "z"])


def test_train_and_test_come_at_one_size(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/1.png", side=8)
    tree(tmp_path, "test/a/1.png", side=20)
    splits = load_data(tmp_path, size=12)
    assert splits.test is not None
    assert splits.train.load([0]).shape == splits.test.load([0]).shape == (1, 3, 12, 12)


def test_unusable_folders_say_what_is_wanted(tmp_path: Path) -> None:
    flat, empty, half = tmp_path / "flat", tmp_path / "empty", tmp_path / "half"
    tree(flat, "1.png", "train/1.png")
    empty.mkdir()
    tree(half, "test/a/1.png")
    for folder, found in ((flat, "no class folders in .*train"), (empty, "no class folders")):
        with pytest.raises(InputError, match=rf"{found}; expected .*/train/<class>/"):
            load_data(folder)
    with pytest.raises(InputError, match="half"):
        load_data(half)
    with pytest.raises(InputError, match=r"nowhere: no such folder.* or one of cifar10, cifar100"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(InputError, match="size -1: "):
        load_data(flat, size=-1)


def test_class_folders_without_images_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png")
    for i in range(7):
        (tmp_path / f"b{i}").mkdir()
    with pytest.raises(InputError, match=r"class folders b0, b1, b2, b3, b4 and 2 more; .*\.png"):
        load_data(tmp_path)


def test_classes_of_train_and_test_have_to_agree(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dgo/1.png")
    with pytest.raises(InputError, match=r"train.*dog.*dgo"):
        load_data(tmp_path)


def test_near_names_are_offered_and_twins_refused(tmp_path: Path) -> None:
    tree(tmp_path, "crane/1.png")
    with pytest.raises(InputError, match=r"'crane'.*did you mean .rane"):
        load_data(tmp_path, class_names=["krane", "truck"])
    with pytest.raises(InputError, match=r"0 and 2.*'crane'"):
        load_data(tmp_path, class_names=["crane", "truck", "crane"])


def test_twenty_thousand_files_are_listed_quickly(tmp_path: Path) -> None:
    first = image(tmp_path / "a" / "00000.png")
    for i in range(1, 20_000):
        (tmp_path / "a" / f"{i:05d}.png").hardlink_to(first)
    start = time.process_time()
    assert len(load_data(tmp_path).train) == 20_000
    assert time.process_time() - start < 3  # .15 s by itself


# Named data sets


def test_digits_are_whole_and_always_split_alike() -> None:
    splits, again = load_data("digits"), load_data("digits")
    assert splits.test is not None
    assert again.test is not None
    assert (len(splits.train), len(splits.test)) == (1297, 500)
    assert splits.class_names == tuple("0123456789")
    x = splits.train.load(range(1297))
    assert x.shape == (1297, 3, 16, 16)
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert torch.equal(x[:, 0], x[:, 2])
    assert torch.equal(splits.test.load(range(500)), again.test.load(range(500)))
    assert splits.test.labels[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    from sklearn.datasets import load_digits

    mean = load_digits().data.mean() / 16  # doubling keeps the mean, but for the border
    whole = torch.cat([x, splits.test.load(range(500))]).mean()
    assert float(whole) == pytest.approx(mean, abs=0.002)


def test_named_sets_follow_given_class_names_and_size() -> None:
    plain = load_data("digits")
    turned = load_data("digits", class_names=tuple("9876543210"), size=10)
    assert torch.equal(turned.train.labels, 9 - plain.train.labels)
    assert turned.test is not None
    assert plain.test is not None
    assert torch.equal(turned.test.labels, 9 - plain.test.labels)
    assert turned.train.load([0]).shape == (1, 3, 10, 10)
    with pytest.raises(InputError, match=r"digits.*'3'.*0, 1, 2"):
        load_data("digits", class_names=["0", "1", "2"])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_absent_set_is_not_fetched_unasked(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*--download.*folder"):
        load_data(name, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_cifar_by_way_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def cifar(root: str, *, train: bool, download: bool) -> SimpleNamespace:
        calls.append((root, train, download))
        data = np.zeros((2 if train else 1, 32, 32, 3), np.uint8)
        data[0, 1, 2, 0] = 255  # row 1, column 2, red
        return SimpleNamespace(data=data, targets=[1, 0][: len(data)], classes=["x", "y"])

    monkeypatch.setattr("torchvision.datasets.CIFAR10", cifar)
    splits = load_data("cifar10", root=tmp_path, download=True, size=224)
    assert splits.test is not None
    assert calls == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    assert splits.class_names == ("x", "y")
    assert splits.train.load([0])[0, 0, 1, 2] == 1
    assert splits.train.load([0]).sum() == 1
    assert (splits.train.name(1), splits.test.name(0)) == ("cifar10 train 1", "cifar10 test 0")


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cifar(*_: object, **__: object) -> None:
        raise URLError("no\nroute")

    monkeypatch.setattr("torchvision.datasets.CIFAR100", cifar)
    with pytest.raises(InputError, match=r"cifar100.*no route"):
        load_data("cifar100", root=tmp_path, download=True)


def test_every_named_set_has_a_loader() -> None:
    assert {"cifar10", "cifar100", "digits"} <= set(DATASETS)


# Real images


def unpacked(archive: Path, into: Path, limit: int) -> Path:
    if not archive.is_file():
        pytest.skip(f"{archive} is absent: real images not tried")
    with tarfile.open(archive) as tar:
        files = [member for member in tar if member.isfile()][:limit]
        tar.extractall(into, files, filter="data")
    return into


def test_real_cifar_images_keep_their_size(tmp_path: Path) -> None:
    folder = unpacked(SHARED / "cifar10" / "test.tar", tmp_path, 1200) / "cifar10" / "test"
    train = load_data(folder, size=224).train
    assert len(train) == 1200
    assert train.load(range(0, 1200, 100)).shape == (12, 3, 32, 32)
    assert train.labels.bincount().tolist() == [1000, 200]


def test_real_faces_are_cut_square(tmp_path: Path) -> None:
    train = load_data(unpacked(SHARED / "faces-orl" / "images.tar", tmp_path, 40), size=224).train
    x = train.load(range(5))
    assert x.shape == (5, 3, 92, 92)
    assert torch.equal(x[:, 0], x[:, 1])
    assert 0.1 < float(x.mean()) < 0.9
