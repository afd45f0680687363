"""Labelled pictures: from folders, from memory and from well-known data sets (DATASETS)."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stakes.errors import InputError, some
from stakes.folders import class_files, class_index, layout
from stakes.pictures import check_size, common_side, decode

CACHE = Path("~/.cache/stakes")
THREADS = min(16, os.cpu_count() or 1)


class Images(Protocol):
    """A set of n labelled square pictures of one size, decoded when asked for."""

    labels: Tensor
    """int64 (n,)"""

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The pictures at ``indices``: float32 in [0, 1], (len(indices), 3, h, w)."""
        ...

    def name(self, i: int) -> str:
        """What a person calls picture i: its path, or its place in a data set."""
        ...


class ImageFiles:
    """Pictures on disk, read with Pillow each time they are asked for.

    Args:
        paths: The n files.
        labels: (n,) class indices.
        size: Largest side in pixels. The side of the set, then found in the attribute ``size``,
            follows :func:`stakes.pictures.common_side`.
        exact: Bring every picture to ``size``, smaller ones too.
        root: Names of pictures are relative to this folder.

    Raises:
        InputError: no pictures, another number of labels, or a damaged picture.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Sequence[int] | Tensor,
        size: int | None = None,
        *,
        exact: bool = False,
        root: str | Path | None = None,
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.root = root
        _check_count("picture files", len(self.paths), self.labels)
        check_size(size)
        if exact and size is None:
            raise InputError("exact=True asks for a size")
        self.size = size if exact and size else common_side(self.paths, size)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.paths)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Decode the pictures at ``indices``: float32 in [0, 1], (len(indices), 3, size, size)."""
        paths = [self.paths[i] for i in _listed(indices)]
        pixels = np.empty((len(paths), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow decodes outside the interpreter lock
            for i, picture in enumerate(pool.map(decode, paths, repeat(self.size))):
                pixels[i] = picture
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)

    def name(self, i: int) -> str:
        """The path of picture i, relative to the root where there is one."""
        return os.path.relpath(self.paths[i], self.root) if self.root else self.paths[i]


class ImageArray:
    """Pictures held in memory with 8 bits a channel.

    Args:
        pixels: uint8 (n, 3, h, h).
        labels: (n,) class indices.
        size: Larger pictures are shrunk to this side (bicubic, antialiased); smaller ones stay.
        prefix: Picture i is called "prefix i".

    >>> images = ImageArray(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), [0, 1])
    >>> images.load([1]).shape, float(images.load([1]).max()), images.name(1)
    (torch.Size([1, 3, 4, 4]), 1.0, 'picture 1')
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Sequence[int] | Tensor,
        size: int | None = None,
        *,
        prefix: str = "picture",
    ) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(
                f"pixels are {pixels.dtype} {tuple(pixels.shape)}: wanted uint8 (n, 3, h, h)"
            )
        if pixels.shape[2] != pixels.shape[3]:
            raise InputError(f"pictures of {tuple(pixels.shape[2:])} pixels are not square")
        self.pixels = pixels if size is None or size >= pixels.shape[-1] else _shrunk(pixels, size)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.prefix = prefix
        _check_count("pictures", len(self.pixels), self.labels)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.pixels)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The pictures at ``indices``: float32 in [0, 1], (len(indices), 3, h, h)."""
        return self.pixels[torch.tensor(_listed(indices), dtype=torch.int64)].float().div_(255)

    def name(self, i: int) -> str:
        """The place of picture i in its set."""
        return f"{self.prefix} {i}"


def batches(
    images: Images, indices: Sequence[int] | Tensor | None = None, batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """Stream (pictures, labels) of at most ``batch_size`` at a time; all of them without indices.

    >>> images = ImageArray(torch.zeros(5, 3, 2, 2, dtype=torch.uint8), [0, 1, 2, 3, 4])
    >>> [labels.tolist() for _, labels in batches(images, [4, 0, 2], 2)]
    [[4, 0], [2]]
    """
    chosen = list(range(len(images))) if indices is None else _listed(indices)
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        yield images.load(part), images.labels[part]


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
                    f"are labelled 0 to {len(self.class_names) - 1}"
                )


def load_data(
    source: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = False,
    size: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Splits:
    """Load a data set by its name in DATASETS, or from a folder.

    A folder is laid out as DIR/train/<class>/... with DIR/test/<class>/... (or val, valid), or as
    DIR/<class>/... for a training set alone. Hidden files and files that are no pictures are
    ignored; pictures may lie in further folders below their class.

    Args:
        source: A name in DATASETS (which goes before a folder of that name), or a folder.
        root: Where named data sets are kept; default ~/.cache/stakes.
        download: Whether a named data set may be fetched. Nothing is fetched otherwise.
        size: Largest side of the pictures in pixels (see ImageFiles and ImageArray).
        class_names: The order of the classes, such as a classifier's; by default that of the data
            set, in folders the alphabet's. It may name classes of which there are no pictures.

    Raises:
        InputError: no such data, an unusable layout, or classes that do not fit ``class_names``.
    """
    check_size(size)
    if str(source) in DATASETS:
        root = Path(root or CACHE).expanduser()
        splits = DATASETS[str(source)](root, download, size)
        return splits if class_names is None else _reordered(splits, class_names, str(source))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"{source}: no such folder, and no data set of that name; "
            f"give a folder or one of {', '.join(DATASETS)}"
        )
    return _from_folder(folder, size, class_names)


def _from_folder(folder: Path, size: int | None, class_names: Sequence[str] | None) -> Splits:
    train_folder, test_folder = layout(folder)
    train = class_files(train_folder, folder)
    test = class_files(test_folder, folder) if test_folder else {}
    lacks, more = sorted(train.keys() - test.keys()), sorted(test.keys() - train.keys())
    if test and (lacks or more):
        raise InputError(
            f"{test_folder}: its classes differ from those of {train_folder}"
            + (f"; missing: {some(lacks)}" if lacks else "")
            + (f"; only here: {some(more)}" if more else "")
        )
    names = list(train) if class_names is None else list(class_names)
    label = {name: class_index(name, names, train_folder) for name in train}
    everything = [path for files in (*train.values(), *test.values()) for path in files]
    side = common_side(everything, size)

    def images(part: Mapping[str, list[str]]) -> ImageFiles:
        paths = [path for files in part.values() for path in files]
        labels = [label[name] for name, files in part.items() for _ in files]
        return ImageFiles(paths, labels, side, exact=True, root=folder)

    return Splits(images(train), images(test) if test else None, tuple(names))


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
    pictures = torch.from_numpy(grey).float().view(-1, 1, 8, 8)
    pictures = functional.interpolate(pictures, scale_factor=2, mode="bilinear")
    pixels = (pictures * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1)
    labels = torch.as_tensor(labels)
    split = train_test_split(np.arange(len(labels)), test_size=500, random_state=0)
    train, test = torch.as_tensor(split[0]), torch.as_tensor(split[1])
    return Splits(
        ImageArray(pixels[train], labels[train], size, prefix="digits train"),
        ImageArray(pixels[test], labels[test], size, prefix="digits test"),
        tuple("0123456789"),
    )


def _shrunk(pixels: Tensor, size: int) -> Tensor:
    parts = []
    for start in range(0, len(pixels), 1000):  # so that only a part is ever in float
        part = pixels[start : start + 1000].float()
        part = functional.interpolate(part, (size, size), mode="bicubic", antialias=True)
        parts.append(part.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _listed(indices: Sequence[int] | Tensor) -> list[int]:
    return [int(i) for i in indices]


def _check_count(what: str, count: int, labels: Tensor) -> None:
    if count == 0:
        raise InputError(f"no {what}: a set has at least one picture")
    if labels.shape != (count,):
        raise InputError(f"{count} {what} with labels of shape {tuple(labels.shape)}")


DATASETS: dict[str, Callable[[Path, bool, int | None], Splits]] = {
    "cifar10": partial(_cifar, "cifar10"),
    "cifar100": partial(_cifar, "cifar100"),
    "digits": _digits,
}
"""Name -> loader(root, download, size). A new data set is one function and one line here."""
