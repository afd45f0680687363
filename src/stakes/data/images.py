"""Labelled images, decoded when asked for: from files and from memory."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stakes.data.decode import check_size, common_side, decode
from stakes.errors import InputError

THREADS = min(16, os.cpu_count() or 1)


class Images(Protocol):
    """A set of n labelled square images of one size, decoded when asked for."""

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
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.root = root
        _check_count("image files", len(self.paths), self.labels)
        check_size(size)
        if exact and size is None:
            raise InputError("exact=True asks for a size")
        self.size = size if exact and size else common_side(self.paths, size)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Decode the images at ``indices``: float32 in [0, 1], (len(indices), 3, size, size)."""
        paths = [self.paths[i] for i in _listed(indices)]
        pixels = np.empty((len(paths), self.size, self.size, 3), np.uint8)
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow decodes outside the interpreter lock
            for i, image in enumerate(pool.map(decode, paths, repeat(self.size))):
                pixels[i] = image
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)

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
    ) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(
                f"pixels are {pixels.dtype} {tuple(pixels.shape)}: wanted uint8 (n, 3, h, h)"
            )
        if pixels.shape[2] != pixels.shape[3]:
            raise InputError(f"images of {tuple(pixels.shape[2:])} pixels are not square")
        self.pixels = pixels if size is None or size >= pixels.shape[-1] else _shrunk(pixels, size)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.prefix = prefix
        _check_count("images", len(self.pixels), self.labels)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images at ``indices``: float32 in [0, 1], (len(indices), 3, h, h)."""
        return self.pixels[torch.tensor(_listed(indices), dtype=torch.int64)].float().div_(255)

    def name(self, i: int) -> str:
        """The place of image i in its set."""
        return f"{self.prefix} {i}"


def batches(
    images: Images, indices: Sequence[int] | Tensor | None = None, batch_size: int = 256
) -> Iterator[tuple[Tensor, Tensor]]:
    """Stream (images, labels) of at most ``batch_size`` at a time; all of them without indices.

    >>> images = ImageArray(torch.zeros(5, 3, 2, 2, dtype=torch.uint8), [0, 1, 2, 3, 4])
    >>> [labels.tolist() for _, labels in batches(images, [4, 0, 2], 2)]
    [[4, 0], [2]]
    """
    chosen = list(range(len(images))) if indices is None else _listed(indices)
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        yield images.load(part), images.labels[part]


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
        raise InputError(f"no {what}: a set has at least one image")
    if labels.shape != (count,):
        raise InputError(f"{count} {what} with labels of shape {tuple(labels.shape)}")
