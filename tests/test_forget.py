"""Forget sets: where they come from, and what they refuse."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from properties import given, settings
from properties import strategies as st
from stakes.data.datasets import load_data
from stakes.data.digests import pixel_digests
from stakes.data.duplicates import Finder
from stakes.data.forget import ForgetSet
from stakes.data.forget_checks import check_memory
from stakes.data.forget_words import parse_forget
from stakes.data.images import ImageArray
from stakes.data.retain import found_again
from stakes.errors import InputError

torch.set_num_threads(1)
CLASSES = ("cat", "dog", "horse")


def noise(path: Path, seed: int, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def array(n: int, side: int = 4, seed: int = 0) -> ImageArray:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, side, side), generator=generator, dtype=torch.uint8)
    return ImageArray(pixels, torch.arange(n) % 3)


def forget_of(n: int, seed: int = 0) -> ForgetSet:
    return ForgetSet.from_indices(array(n, seed=seed), range(n))


# What a forget set refuses


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5, float("inf"), 255.0])
def test_values_outside_zero_to_one_are_refused_by_name(value: float) -> None:
    images = torch.rand(3, 3, 4, 4)
    images[1, 2, 3, 0] = value
    with pytest.raises(InputError, match=r"^b: .*\[0, 1\]"):
        ForgetSet(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))


def test_wrong_shapes_types_and_labels_are_refused() -> None:
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(InputError, match="empty"):
        ForgetSet(images[:0], labels[:0], ())
    with pytest.raises(InputError, match=r"\(2, 1, 4, 4\).*\(2, 3, h, w\)"):
        ForgetSet(images[:, :1], labels, ("a", "b"))
    with pytest.raises(InputError, match=r"torch\.float32 and torch\.int64"):
        ForgetSet(images.double(), labels, ("a", "b"))
    for number, places in ((1, None), (2, (7,))):
        with pytest.raises(InputError, match="another number of labels or indices"):
            ForgetSet(images, labels[:number], ("a", "b"), places)
    with pytest.raises(InputError, match="b: label -1 is negative"):
        ForgetSet(images, torch.tensor([0, -1]), ("a", "b"))
    forget = ForgetSet(images, labels, ("a", "b"))
    forget.check(2)
    with pytest.raises(InputError, match=r"b: label 1.*0 to 0"):
        forget.check(1)


def test_more_than_the_budget_is_refused_before_decoding(tmp_path: Path) -> None:
    noise(tmp_path / "cat" / "1.png", 1, side=64)
    noise(tmp_path / "cat" / "2.png", 2, side=64)
    need = 2 * 3 * 64 * 64 * 4
    assert len(ForgetSet.from_folder(tmp_path, CLASSES, max_bytes=need)) == 2
    data = (tmp_path / "cat" / "2.png").read_bytes()
    (tmp_path / "cat" / "2.png").write_bytes(data[:200])  # its header is whole: decoding would fail
    with pytest.raises(InputError, match=r"2 .*64x64.* 0\.09 MiB"):
        ForgetSet.from_folder(tmp_path, CLASSES, max_bytes=need - 1)
    with pytest.raises(InputError, match=r"60,000\.00 MiB.*1,024\.00 MiB"):
        check_memory(20_000, 512, 2**30)
    with pytest.raises(InputError, match="10 forget images of 4x4 need"):
        ForgetSet.random(array(20), 10, 0, max_bytes=1000)
    check_memory(10, 32)  # the default budget has room for these


def test_half_of_the_free_memory_is_left_for_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    need = 10 * 3 * 32 * 32 * 4
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2 * need))
    check_memory(10, 32)
    with pytest.raises(InputError, match="11 forget images of 32x32 need"):
        check_memory(11, 32)


def test_moving_keeps_everything() -> None:
    forget = ForgetSet.from_indices(array(9), [4, 4, 7])
    moved = forget.to("cpu")
    assert moved.digest() == forget.digest()
    assert (moved.names, moved.indices, moved.dropped) == (forget.names, (4, 7), 1)


def test_one_order_keeps_names_labels_and_places_with_their_images() -> None:
    images, orders = array(9), []
    for places in ([4, 7, 2, 0], [0, 2, 7, 4]):
        orders.append(ForgetSet.from_indices(images, places).in_one_order())
    for one in orders:
        assert one.indices is not None
        assert one.indices == orders[0].indices
        assert one.names == tuple(f"image {i}" for i in one.indices)
        assert torch.equal(one.images, images.load(one.indices))
        assert torch.equal(one.labels, images.labels[list(one.indices)])


# Folders


def test_folder_gives_images_with_their_classes(tmp_path: Path) -> None:
    noise(tmp_path / "dog" / "a.png", 1)
    noise(tmp_path / "cat" / "deep" / "b.png", 2)
    (tmp_path / "horse").mkdir()
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / "dog" / "Thumbs.db").write_text("")
    (tmp_path / "desktop.ini").write_text("")
    forget = ForgetSet.from_folder(tmp_path, CLASSES)
    assert forget.names == ("cat/deep/b.png", "dog/a.png")
    assert forget.labels.tolist() == [0, 1]
    assert forget.images.shape == (2, 3, 8, 8)
    assert (forget.indices, forget.dropped) == (None, 0)
    want = np.asarray(Image.open(tmp_path / "dog" / "a.png")).transpose(2, 0, 1)
    assert np.array_equal((forget.images[1] * 255).round().numpy(), want)


def test_folder_names_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="listed"):
        ForgetSet.from_folder(tmp_path / "none", CLASSES)
    with pytest.raises(InputError, match=r"no images to forget; expected .*/<class>/\*\.png"):
        ForgetSet.from_folder(tmp_path, CLASSES)
    noise(tmp_path / "hors" / "a.png", 1)
    with pytest.raises(InputError, match=r"'hors'.*did you mean horse"):
        ForgetSet.from_folder(tmp_path, CLASSES)
    (tmp_path / "hors").rename(tmp_path / "horse")
    stray = noise(tmp_path / "b.png", 2)
    with pytest.raises(InputError, match=r"b\.png: not in a class folder"):
        ForgetSet.from_folder(tmp_path, CLASSES)
    stray.rename(tmp_path / "horse" / "b.heic")  # asked for, so not to be passed over in silence
    with pytest.raises(InputError, match=r"b\.heic: no image in a known format"):
        ForgetSet.from_folder(tmp_path, CLASSES)


def test_the_same_image_is_kept_once_or_refused(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/copy.bmp", "dog/b.png"):
        noise(tmp_path / name, seed=len(name) if "dog" in name else 0)
    forget = ForgetSet.from_folder(tmp_path, CLASSES)
    assert (forget.names, forget.dropped) == (("cat/a.png", "dog/b.png"), 1)
    assert forget.labels.tolist() == [0, 1]
    noise(tmp_path / "horse" / "c.png", 0)
    with pytest.raises(InputError, match=r"cat/a\.png and horse/c\.png"):
        ForgetSet.from_folder(tmp_path, CLASSES)


# Tables


def table(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder / "list.csv"


def test_table_takes_names_indices_and_relative_paths(tmp_path: Path) -> None:
    noise(tmp_path / "p" / "a.png", 1)
    noise(tmp_path / "b, c.png", 2)
    full = noise(tmp_path / "d.png", 3)
    file = table(
        tmp_path, "who, label ,path", "me,dog,p/a.png", "", 'me,horse,"b, c.png"', f"me,cat,{full}",
        encoding="utf-8-sig",
    )  # fmt: skip
    forget = ForgetSet.from_csv(file, CLASSES)
    assert forget.labels.tolist() == [1, 2, 0]
    assert forget.names == ("p/a.png", "b, c.png", str(full))


def test_numbers_of_classes_count_from_0_in_a_column_of_their_own(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", 1)
    forget = ForgetSet.from_csv(table(tmp_path, "path,index", "a.png,2"), CLASSES)
    assert forget.labels.tolist() == [2]
    for header, row, message in (
        ("path,index", "a.png,3", "line 2: index 3, but the classes are 0 to 2; count from 0"),
        ("path,index", "a.png,cat", "line 2: index cat"),
        ("path,label", "a.png,1", "line 2: label 1 is not a class name .*column index"),
    ):
        with pytest.raises(InputError, match=message):
            ForgetSet.from_csv(table(tmp_path, header, row), CLASSES)


def test_a_class_named_by_a_number_goes_before_an_index(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", 1)
    forget = ForgetSet.from_csv(table(tmp_path, "path,label", "a.png,2"), ("2", "1", "0"))
    assert forget.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,class", "a.png,cat"], r"list\.csv line 1: expected the header path,label"),
        (["path;label", "a.png;cat"], "line 1: expected the header"),
        (["path,label"], "no rows"),
        (["path,label", "a.png,cat", "b.png,cat"], r"line 3: image .*b\.png: no such file"),
        (["path,label", "a.png,catt"], "line 2: 'catt' is not one of .* did you mean cat"),
        (["path,label", "a.png,3"], "line 2: label 3 is not a class name"),
        (["path,label", "a.png,-1"], "line 2: '-1' is not one of"),
        (["path,label", "", "a.png"], "line 3: expected a path and a label"),
        (["path,label", "a.png,cat,"], "line 2: more columns than the header"),
        (["path,label,label", "a.png,cat,dog"], "line 1: a column appears twice"),
        (["path,index", "a.png," + "9" * 5000], "line 2: index 99.*the classes are 0 to 2"),
    ],
)
def test_bad_tables_are_named_by_line(tmp_path: Path, lines: list[str], message: str) -> None:
    noise(tmp_path / "a.png", 1)
    with pytest.raises(InputError, match=message):
        ForgetSet.from_csv(table(tmp_path, *lines), CLASSES)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        ForgetSet.from_csv(tmp_path / "none.csv", CLASSES)
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe,cat\n")
    with pytest.raises(InputError, match=r"x\.csv line 2: no text in UTF-8"):
        ForgetSet.from_csv(tmp_path / "x.csv", CLASSES)


# Places in a training set


def test_indices_keep_images_labels_names_and_places() -> None:
    images = array(10)
    forget = ForgetSet.from_indices(images, torch.tensor([7, 2]))
    assert forget.indices == (7, 2)
    assert forget.names == ("image 7", "image 2")
    assert torch.equal(forget.images, images.load([7, 2]))
    assert torch.equal(forget.labels, images.labels[[7, 2]])
    twice = ForgetSet.from_indices(images, [7, 2, 7])
    assert (twice.indices, twice.dropped) == ((7, 2), 1)


@pytest.mark.parametrize("bad", [10, -1])
def test_indices_outside_are_refused(bad: int) -> None:
    with pytest.raises(InputError, match=f"index {bad}.*0 to 9"):
        ForgetSet.from_indices(array(10), [0, bad])
    with pytest.raises(InputError, match="empty"):
        ForgetSet.from_indices(array(10), [])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), data=st.data(), seed=st.integers(0, 2**40))
def test_random_draws_have_no_repeats_and_hang_on_the_seed(
    n: int, data: st.DataObject, seed: int
) -> None:
    images = array(n)
    k = data.draw(st.integers(1, n))
    before = torch.random.get_rng_state()
    forget = ForgetSet.random(images, k, seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert forget.indices is not None
    assert len(forget) == len(set(forget.indices)) == k
    assert ForgetSet.random(images, k, seed).indices == forget.indices
    assert ForgetSet.random(images, n, seed).indices[:k] == forget.indices  # type: ignore[index]


def test_random_draws_differ_by_seed_and_have_bounds() -> None:
    images = array(100)
    assert len({ForgetSet.random(images, 8, seed).indices for seed in range(20)}) == 20
    for k in (0, 101):
        with pytest.raises(InputError, match=f"{k} random images.*1 to 100"):
            ForgetSet.random(images, k, 0)


# Digests


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)))
def test_digest_ignores_order_and_names(order: list[int]) -> None:
    forget = forget_of(6)
    turned = ForgetSet(forget.images[order], forget.labels[order], tuple("abcdef"))
    assert turned.digest() == forget.digest()
    assert turned.pixel_digests() == tuple(forget.pixel_digests()[i] for i in order)


def test_digest_sees_pixels_labels_and_shape() -> None:
    forget = forget_of(3)
    pixel = forget.images.clone()
    pixel[0, 0, 0, 0] = (pixel[0, 0, 0, 0] + 0.1) % 1
    relabelled = forget.labels.roll(1)
    others = [
        ForgetSet(pixel, forget.labels, forget.names),
        ForgetSet(forget.images, relabelled, forget.names),
        ForgetSet(forget.images[:2], forget.labels[:2], forget.names[:2]),
        ForgetSet(forget.images.reshape(3, 3, 2, 8), forget.labels, forget.names),
    ]
    assert len({one.digest() for one in [forget, *others]}) == 5


def test_pixel_digests_forgive_rounding_only() -> None:
    images = array(4).load(range(4))
    assert pixel_digests(images) == pixel_digests((images * 1.0000001).clamp(0, 1))
    assert not set(pixel_digests(images)) & set(pixel_digests(1 - images))


# Leaving the forget images out of another set


def without(images, forget: ForgetSet, indices=None) -> list[int]:
    """Those places of a set where no forget image is."""
    places = [int(i) for i in (range(len(images)) if indices is None else indices)]
    found = found_again(images, Finder(forget.images), places, forget.images.shape[1:])
    return [i for i in places if i not in {pair.among for pair in found}]


def test_without_drops_copies_under_other_names(tmp_path: Path) -> None:
    for i in range(5):
        noise(tmp_path / "set" / "cat" / f"{i}.png", i)
    noise(tmp_path / "set" / "dog" / "copy-of-1.png", 1)  # even under another class
    noise(tmp_path / "forget" / "cat" / "x.bmp", 1)
    noise(tmp_path / "forget" / "cat" / "y.bmp", 99)
    images = load_data(tmp_path / "set").train
    forget = ForgetSet.from_folder(tmp_path / "forget", CLASSES)
    assert without(images, forget) == [0, 2, 3, 4]
    assert without(images, forget, [4, 1, 0]) == [4, 0]
    assert without(images, forget, torch.tensor([1])) == []
    assert without(images, forget, []) == []


def test_without_refuses_images_of_another_size() -> None:
    with pytest.raises(InputError, match=r"\(4, 4\).*\(8, 8\)"):
        without(array(3, side=8), forget_of(3))


# The command line's --forget


def test_parse_random_folder_and_table(tmp_path: Path) -> None:
    images = array(30, side=8)
    drawn = parse_forget("random:5", images, CLASSES, 3)
    assert drawn.indices == ForgetSet.random(images, 5, 3).indices
    noise(tmp_path / "dog" / "a.png", 1, side=20)
    noise(tmp_path / "dog" / "b.png", 2, side=6)
    file = table(tmp_path / "dog", "path,label", "a.png,dog", "b.png,dog")
    assert len(parse_forget(str(file), None, CLASSES)) == 2
    assert parse_forget(str(file), None, CLASSES, size=12).images.shape[-1] == 12
    file.unlink()
    assert parse_forget(str(tmp_path), None, CLASSES).labels.tolist() == [1, 1]


def test_parse_brings_files_to_the_size_of_the_training_set(tmp_path: Path) -> None:
    noise(tmp_path / "set" / "cat" / "small.png", 1, side=6)
    noise(tmp_path / "set" / "dog" / "large.png", 2, side=20)
    noise(tmp_path / "forget" / "cat" / "other-name.png", 1, side=6)
    images = load_data(tmp_path / "set", size=16).train
    forget = parse_forget(str(tmp_path / "forget"), images, CLASSES, size=4)
    assert forget.images.shape[-1] == 16
    assert without(images, forget) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random:", "--forget random:: expected a number, such as random:64"),
        ("random:1.5", "expected a number"),
        ("random:-3", "expected a number"),
        ("random:0", "0 random images"),
        ("random:31", "31 random images: the training set can give 1 to 30"),
        ("somewhere", r"no such folder; give a folder .*, a \.csv file .*, random:64, classes:cat"),
        ("classes:cat,hors", "classes:cat,hors: 'hors' is not one of the 3 .*did you mean horse"),
        ("classes:", "give names, such as classes:cat,dog, or a share"),
        ("classes:cat,", "give names"),
        ("classes:0%", "share above 0% and below 100%"),
        ("classes:101%", "share above 0% and below 100%"),
        ("classes:-5%", "'-5%' is not one of the 3 classes"),
        ("classes:cat,dog,horse", "these are all 3 classes with images; leave out at least one"),
        ("classes:67%", "these are all 3 classes"),
        ("some.csv", r"some\.csv: no such file"),
    ],
)
def test_parse_says_what_is_wanted(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_forget(text, array(30), CLASSES)


def test_parse_checks_its_surroundings() -> None:
    with pytest.raises(InputError, match="add --data"):
        parse_forget("random:3", None, CLASSES)
    with pytest.raises(InputError, match="classes:cat"):
        parse_forget("classes:cat", None, CLASSES)
    with pytest.raises(InputError, match="zebra"):
        parse_forget("classes:zebra,cat", array(30), (*CLASSES, "zebra"))
    with pytest.raises(InputError, match="label 2, but the classes are 0 to 1"):
        parse_forget("random:30", array(30), CLASSES[:2])


# Whole classes


def test_classes_by_name_are_forgotten_whole() -> None:
    images = array(30)
    forget = parse_forget("classes:horse, cat", images, CLASSES)
    assert forget.classes == (0, 2)
    assert forget.indices == tuple(i for i in range(30) if i % 3 != 1)
    assert forget.labels.tolist() == [i % 3 for i in forget.indices]
    assert without(images, forget) == list(range(1, 30, 3))
    assert forget.to("cpu").classes == (0, 2)
    assert parse_forget("random:5", images, CLASSES).classes == ()


def test_a_class_with_a_comma_in_its_name_stands_in_quotes() -> None:
    names = ("cat", "great white shark, man-eater", "horse")
    forget = parse_forget('classes:"great white shark, man-eater",cat', array(30), names)
    assert forget.classes == (0, 1)


@pytest.mark.parametrize(("share", "count"), [("10%", 1), ("34%", 2), ("2.5 %", 1), ("66.6%", 2)])
def test_a_share_of_the_classes_is_rounded_up(share: str, count: int) -> None:
    forget = parse_forget(f"classes:{share}", array(30), CLASSES)
    assert len(forget.classes) == count
    assert len(forget) == 10 * count


def test_a_share_is_drawn_by_the_seed_from_the_classes_that_have_images() -> None:
    images = ImageArray(array(80).pixels, torch.arange(80) % 40)
    names = tuple(map(str, range(50)))

    def drawn(share: str, seed: int) -> set[int]:
        return set(parse_forget(f"classes:{share}", images, names, seed).classes)

    assert drawn("10%", 0) == drawn("10%", 0) != drawn("10%", 1)
    assert len(drawn("10%", 0)) == 4  # of the 40 with images
    assert drawn("10%", 0) < drawn("50%", 0)
    assert set().union(*(drawn("25%", seed) for seed in range(30))) == set(range(40))


def test_whole_classes_are_checked_against_the_memory() -> None:
    need = 10 * 3 * 4 * 4 * 4
    assert len(parse_forget("classes:dog", array(30), CLASSES, max_bytes=need)) == 10
    with pytest.raises(InputError, match="10 forget images of 4x4 need"):
        parse_forget("classes:dog", array(30), CLASSES, max_bytes=need - 1)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
def test_a_mask_is_no_list_of_places(kind):
    """As numbers, True and False are the places 1 and 0: not the images that were meant."""
    mask = [i == 3 for i in range(10)]
    with pytest.raises(InputError, match="mask"):
        ForgetSet.from_indices(array(10), kind(mask))


@pytest.mark.parametrize("bad", [[1.9, 2.2], ["5"], torch.tensor([1.0, 2.0]), [[1], [2]]])
def test_places_are_whole_numbers(bad):
    with pytest.raises(InputError, match="whole numbers"):
        ForgetSet.from_indices(array(10), bad)


@pytest.mark.parametrize(
    "good", [np.array([4, 2]), (4, 2), range(4, 0, -2), np.array([4, 2]).tolist()]
)
def test_places_come_in_any_sequence(good):
    assert ForgetSet.from_indices(array(10), good).indices == (4, 2)
