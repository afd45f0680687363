"""Data sets by name (DATASETS) and from folders: a training set, a test set, class names."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from stakes.data.decode import check_size, common_side
from stakes.data.folders import TRAIN_FOLDERS, class_files, class_index, layout, subfolders
from stakes.data.images import ImageArray, ImageFiles, Images
from stakes.data.shards import Sample, class_list, samples, shards
from stakes.errors import InputError, some
from stakes.preprocessing import Reader
from stakes.texts import expanded

CACHE = Path("~/.cache/stakes")
Listed = tuple[Sequence[str], Sequence[int]]
"""Paths of images, and their labels."""


@dataclass(frozen=True)
class Splits:
    """A training set, a test set where there is one, and the names of the classes.

    Raises:
        InputError: a label without a class name.
    """

    train: Images
    test: Images | None
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, images in (("training", self.train), ("test", self.test)):
            if images is None:
                continue
            low, high = int(images.labels.min()), int(images.labels.max())
            if low < 0 or high >= len(self.class_names):
                raise InputError(
                    f"the {name} set has labels {low} to {high}: {len(self.class_names)} classes "
                    f"are labelled 0 to {len(self.class_names) - 1}; give every class its name"
                )


def load_data(
    source: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
    class_names: Sequence[str] | None = None,
    read: Reader | None = None,
) -> Splits:
    """Load a data set by its name in DATASETS, or from a folder.

    A folder of tar shards has DIR/classes.txt (see :mod:`stakes.data.shards`). Another one
    is laid out as DIR/train/<class>/... with DIR/test/<class>/... (or val, valid), or as
    DIR/<class>/... for a training set alone. Hidden files and files that are no images are
    ignored; images may lie in further folders below their class.

    Args:
        source: A name in DATASETS (which takes precedence over a folder of that name), or a folder.
        root: Where named data sets are kept; default ~/.cache/stakes.
        download: Whether a named data set may be fetched. Nothing is fetched otherwise.
        size: Largest side of the images in pixels (see ImageFiles and ImageArray).
        class_names: The order of the classes, such as a classifier's; by default that of the data
            set, and alphabetical for folders. It may name classes without images.
        read: What makes pixels of an image, such as a classifier's ``preprocessing``; ``size`` is
            then ignored. By default the largest centred square is scaled.

    Raises:
        InputError: no such data, an unusable layout, or classes that do not fit ``class_names``.
    """
    check_size(size)
    found = find_data(source, root=root, download=download)
    return found.splits(size=size, class_names=class_names, read=read)


class Found(Protocol):
    """A data set that is there: its classes are known, and it can be read in any order of them."""

    class_names: tuple[str, ...]

    def splits(
        self,
        *,
        size: int | None = None,
        class_names: Sequence[str] | None = None,
        read: Reader | None = None,
    ) -> Splits:
        """Its images; the arguments are those of :func:`load_data`."""
        ...


def find_data(
    source: str | Path, *, root: str | Path | None = None, download: bool = False
) -> Found:
    """Find a data set whose classes are needed before it can be read (see :func:`load_data`).

    Raises:
        InputError: no such data, or an unusable layout.
    """
    if str(source) in DATASETS:
        return _Named(str(source), expanded(root or CACHE), download)
    folder = expanded(source)
    if not folder.is_dir():
        raise InputError(
            f"{source}: no such folder, and no data set of that name; "
            f"give a folder or one of {', '.join(DATASETS)}"
        )
    return _Shards(folder) if _holds_shards(folder) else _Folder(folder)


def _holds_shards(folder: Path) -> bool:
    """Whether a folder, or its folder for training, holds tar shards."""
    below = [path for name, path in subfolders(folder).items() if name.lower() in TRAIN_FOLDERS]
    return any(shards(place) for place in (str(folder), *below))


class _Shards:
    """A folder of tar shards (see :mod:`stakes.data.shards`), in train/ and test/ or by itself."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.class_names = folder, class_list(folder)
        train, test = (str(folder), None) if shards(folder) else layout(folder)
        self._train = samples(shards(train))
        self._test = samples(shards(test)) if test and shards(test) else []

    def splits(
        self,
        *,
        size: int | None = None,
        class_names: Sequence[str] | None = None,
        read: Reader | None = None,
    ) -> Splits:
        """The images; the arguments are those of :func:`load_data`."""

        def listed(part: Sequence[Sample]) -> Listed:
            paths, labels = zip(*part, strict=True)
            return paths, labels

        test = listed(self._test) if self._test else None
        train, tested = _files(listed(self._train), test, self._folder, size, read)
        splits = Splits(train, tested, self.class_names)
        if class_names is None:
            return splits
        return _reordered(splits, class_names, str(self._folder))


class _Named:
    """A data set of DATASETS, loaded at its own size."""

    def __init__(self, name: str, root: Path, download: bool) -> None:
        self._name, self._root = name, root
        self._own = DATASETS[name](root, download, None)
        self.class_names = self._own.class_names

    def splits(
        self,
        *,
        size: int | None = None,
        class_names: Sequence[str] | None = None,
        read: Reader | None = None,
    ) -> Splits:
        size, own = None if read else size, self._own
        if size is not None and not isinstance(own.train, ImageArray):
            own = DATASETS[self._name](self._root, False, size)
        train, test = (_sized(images, size, read) for images in (own.train, own.test))
        assert train is not None
        splits = Splits(train, test, own.class_names)
        return splits if class_names is None else _reordered(splits, class_names, self._name)


def _sized(images: Images | None, size: int | None, read: Reader | None) -> Images | None:
    """The same images at another size, or as a reader makes them; pixels are shared."""
    if not isinstance(images, ImageArray):
        return copy(images)
    return ImageArray(images.pixels, images.labels, size, prefix=images.prefix, read=read)


class _Folder:
    """A folder of class folders, listed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._train_folder, test_folder = layout(folder)
        self._train = class_files(self._train_folder, folder)
        self._test = class_files(test_folder, folder) if test_folder else {}
        self.class_names = tuple(self._train)
        lacks = sorted(self._train.keys() - self._test.keys())
        more = sorted(self._test.keys() - self._train.keys())
        if self._test and (lacks or more):
            raise InputError(
                f"{test_folder}: its classes differ from those of {self._train_folder}"
                + (f"; missing: {some(lacks)}" if lacks else "")
                + (f"; only here: {some(more)}" if more else "")
                + "; give both the same class folders"
            )

    def splits(
        self,
        *,
        size: int | None = None,
        class_names: Sequence[str] | None = None,
        read: Reader | None = None,
    ) -> Splits:
        names = list(self.class_names if class_names is None else class_names)
        label = {name: class_index(name, names, self._train_folder) for name in self._train}

        def listed(part: Mapping[str, list[str]]) -> Listed:
            paths = [path for files in part.values() for path in files]
            return paths, [label[name] for name, files in part.items() for _ in files]

        test = listed(self._test) if self._test else None
        train, tested = _files(listed(self._train), test, self._folder, size, read)
        return Splits(train, tested, tuple(names))


def _files(
    train: Listed, test: Listed | None, root: Path, size: int | None, read: Reader | None
) -> tuple[ImageFiles, ImageFiles | None]:
    """The images of both parts, all at one size; none where there is no test part."""
    paths = [*train[0], *(test[0] if test else ())]
    side = common_side(paths, size) if read is None else None

    def images(part: Listed) -> ImageFiles:
        return ImageFiles(*part, side, exact=read is None, root=root, read=read)

    return images(train), images(test) if test else None


def _reordered(splits: Splits, class_names: Sequence[str], source: str) -> Splits:
    """The same data set with labels that follow ``class_names``."""
    names = list(class_names)
    order = torch.tensor([class_index(name, names, source) for name in splits.class_names])
    for images in (splits.train, splits.test):
        if images is not None:
            images.labels = order[images.labels]
    return Splits(splits.train, splits.test, tuple(names))


def _cifar(name: str, root: Path, download: bool, size: int | None) -> Splits:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009) by torchvision.

    Its files are pickles; torchvision opens only those with the published digests.
    """
    from torchvision import datasets

    load: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        parts = [load(str(root), train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError, HTTPException) as error:
        if download:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{name} could not be fetched to {root} ({reason}); try again"
            ) from error
        raise InputError(
            f"{name} is not in {root}, or is damaged: add --download to fetch it (170 MB), "
            "or give a folder DIR/train/<class>/*.png instead of the name"
        ) from error
    train, test = (
        ImageArray(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            part.targets,
            size,
            prefix=f"{name} {which}",
        )
        for part, which in zip(parts, ("train", "test"), strict=True)
    )
    return Splits(train, test, tuple(parts[0].classes))


def _digits(root: Path, download: bool, size: int | None) -> Splits:
    """scikit-learn's 1,797 handwritten digits: 8 x 8 doubled to 16 x 16, 1,297 to train on.

    They come with scikit-learn, so nothing is fetched. Doubled, because shifts and cut-outs of a
    few pixels would leave nothing of 8 x 8; bilinear with 16 grey levels, the doubling is exact.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    grey, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(grey).float().view(-1, 1, 8, 8)
    images = functional.interpolate(images, scale_factor=2, mode="bilinear")
    pixels = (images * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1)
    labels = torch.as_tensor(labels)
    split = train_test_split(np.arange(len(labels)), test_size=500, random_state=0)
    train, test = torch.as_tensor(split[0]), torch.as_tensor(split[1])
    return Splits(
        ImageArray(pixels[train], labels[train], size, prefix="digits train"),
        ImageArray(pixels[test], labels[test], size, prefix="digits test"),
        tuple("0123456789"),
    )


DATASETS: dict[str, Callable[[Path, bool, int | None], Splits]] = {
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
    "digits": _digits,
}
"""Name -> loader(root, download, size). A new data set is one function and one line here."""
