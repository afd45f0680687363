"""Labelled images, decoded when asked for: from files and from memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stakes.data.decode import check_size, common_side, decode, opened
from stakes.errors import InputError
from stakes.preprocessing import Reader, unit_range

THREADS = min(16, os.cpu_count() or 1)


class Images(Protocol):
    """A set of n labelled images of one size, decoded when asked for."""

    labels: Tensor
    """int64 (n,)"""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images at ``indices``: float32 in [0, 1], (len(indices), 3, h, w)."""
        ...

    def name(self, i: int) -> str:
        """What a person calls image i: its path, or its place in a data set."""
        ...


class ImageFiles:
    """Images on disk, read with Pillow each time they are asked for.

    Args:
        paths: The n files.
        labels: (n,) class indices.
        size: Largest side in pixels. The side of the set, then found in the attribute ``size``,
            follows :func:`stakes.data.decode.common_side`.
        exact: Bring every image to ``size``, smaller ones too.
        root: Names of images are relative to this folder.
        read: What makes pixels of an opened image, such as a classifier's ``preprocessing``;
            ``size`` and ``exact`` are then without meaning. By default the largest centred square
            of an image is scaled (see :func:`stakes.data.decode.decode`).
        max_bytes: that decoding one image may take (see :func:`stakes.data.decode.opened`).

    Attributes:
        shape: (height, width) of the images.

    Raises:
        InputError: no images, another number of labels, or a damaged image.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Sequence[int] | Tensor,
        size: int | None = None,
        *,
        exact: bool = False,
        root: str | Path | None = None,
        read: Reader | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.root, self.read, self._max_bytes = root, read, max_bytes
        _check_count("image files", len(self.paths), self.labels)
        check_size(size)
        if exact and size is None:
            raise InputError("exact=True asks for a size")
        if read is None:
            side = size if exact and size else common_side(self.paths, size)
            self.shape = (side, side)
        else:
            height, width = self._pixels(self.paths[0]).shape[1:]
            self.shape = (height, width)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Decode the images at ``indices``: float32 in [0, 1], (len(indices), 3, height, width).

        Raises:
            InputError: a damaged image, or one that the reader makes of another size.
        """
        paths = [self.paths[i] for i in _listed(indices)]
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow decodes outside the interpreter lock
            if self.read is not None:
                return _stacked(pool.map(self._pixels, paths), paths, self.shape)
            pixels = np.empty((len(paths), *self.shape, 3), np.uint8)
            for i, image in enumerate(pool.map(self._square, paths)):
                pixels[i] = image
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)

    def _pixels(self, path: str) -> Tensor:
        assert self.read is not None
        with opened(path, self._max_bytes) as image:
            return self.read(image)

    def _square(self, path: str) -> NDArray[np.uint8]:
        return decode(path, self.shape[0], self._max_bytes)

    def name(self, i: int) -> str:
        """The path of image i, relative to the root where there is one."""
        return os.path.relpath(self.paths[i], self.root) if self.root else self.paths[i]


class ImageArray:
    """Images held in memory with 8 bits a channel.

    Args:
        pixels: uint8 (n, 3, h, h).
        labels: (n,) class indices.
        size: Larger images are shrunk to this side (bicubic, antialiased); smaller ones stay.
        prefix: Image i is called "prefix i".
        read: What makes pixels of an image, as if it lay in a file; or None.

    >>> images = ImageArray(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), [0, 1])
    >>> images.load([1]).shape, float(images.load([1]).max()), images.name(1)
    (torch.Size([1, 3, 4, 4]), 1.0, 'image 1')
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Sequence[int] | Tensor,
        size: int | None = None,
        *,
        prefix: str = "image",
        read: Reader | None = None,
    ) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(
                f"pixels are {pixels.dtype} {tuple(pixels.shape)}: expected uint8 (n, 3, h, h)"
            )
        if size is not None and pixels.shape[2] != pixels.shape[3]:
            raise InputError(
                f"images of {tuple(pixels.shape[2:])} pixels are not square; "
                "leave out size, or bring them to a square"
            )
        self.pixels = pixels if size is None or size >= pixels.shape[-1] else _shrunk(pixels, size)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.prefix, self.read = prefix, read
        _check_count("images", len(self.pixels), self.labels)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images at ``indices``: float32 in [0, 1], (len(indices), 3, h, w)."""
        chosen = _listed(indices)
        if self.read is not None and chosen:
            parts = [self.read(self.pil_image(i)) for i in chosen]
            return _stacked(parts, [self.name(i) for i in chosen], tuple(parts[0].shape[1:]))
        return self.pixels[torch.tensor(chosen, dtype=torch.int64)].float().div_(255)

    def pil_image(self, i: int) -> Image.Image:
        """Image i as Pillow would open it."""
        return Image.fromarray(self.pixels[i].permute(1, 2, 0).numpy())

    def name(self, i: int) -> str:
        """The place of image i in its set."""
        return f"{self.prefix} {i}"


def batches(
    images: Images, indices: Sequence[int] | Tensor | None = None, batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """Stream (images, labels) of at most ``batch_size`` at a time; all of them without indices.

    The next images are decoded while these are used: two batches are held at once.

    >>> images = ImageArray(torch.zeros(5, 3, 2, 2, dtype=torch.uint8), [0, 1, 2, 3, 4])
    >>> [labels.tolist() for _, labels in batches(images, [4, 0, 2], 2)]
    [[4, 0], [2]]
    """
    chosen = list(range(len(images))) if indices is None else _listed(indices)
    parts = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    if not parts:
        return
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_loaded, images, parts[0])
        for part, following in zip(parts, [*parts[1:], []], strict=True):
            pixels = loading.result()
            if following:
                loading = pool.submit(_loaded, images, following)
            yield pixels, images.labels[part]


@torch.no_grad()  # of each thread its own
def _loaded(images: Images, part: list[int]) -> Tensor:
    return images.load(part)


def _shrunk(pixels: Tensor, size: int) -> Tensor:
    parts = []
    for start in range(0, len(pixels), 1000):  # so that only a part is ever in float
        part = pixels[start : start + 1000].float()
        part = functional.interpolate(part, (size, size), mode="bicubic", antialias=True)
        parts.append(part.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


def _stacked(parts: Iterable[Tensor], names: Sequence[str], shape: tuple[int, ...]) -> Tensor:
    """What a reader made of each image, as float32 in [0, 1], (n, 3, height, width)."""
    stack = torch.empty(len(names), 3, *shape)
    for i, pixels in enumerate(parts):
        if pixels.shape[1:] != shape:
            raise InputError(
                f"{names[i]}: {tuple(pixels.shape[1:])} pixels after preprocessing, others have "
                f"{shape}; let it bring every image to one size"
            )
        stack[i] = unit_range(pixels)
    return stack


def _listed(indices: Sequence[int] | Tensor) -> list[int]:
    return [int(i) for i in indices]


def _check_count(what: str, count: int, labels: Tensor) -> None:
    if count == 0:
        raise InputError(f"no {what}: a set has at least one image")
    if labels.shape != (count,):
        raise InputError(
            f"{count} {what} with labels of shape {tuple(labels.shape)}; give one class index each"
        )
