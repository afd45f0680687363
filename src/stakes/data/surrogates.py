"""Surrogate data: unlabelled images that stand in for the absent training data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.data.activations import Activations
from stakes.data.adapter import Data, as_images
from stakes.data.datasets import DATASETS, find_data
from stakes.data.digests import pixel_digests
from stakes.data.duplicates import near_duplicates
from stakes.data.folders import files_below, is_image
from stakes.data.forget import ForgetSet
from stakes.data.images import ImageArray, ImageFiles, Images
from stakes.errors import InputError
from stakes.files import tensor_digest
from stakes.preprocessing import Reader, Size
from stakes.progress import Progress, silent
from stakes.texts import expanded

IN_MEMORY = 2 * 2**30  # bytes at 8 bits a channel; of more images a random part is taken
CHUNK = 1024  # images decoded between two reports


@dataclass(frozen=True, eq=False)
class Surrogates:
    """Unlabelled images, decoded once and held in memory at 8 bits a channel.

    Attributes:
        pixels: uint8 (n, 3, h, w).
        source: where they are from, in words.
        found: images that were there.
        left_out: of these, copies of images to forget, which nothing may hold on to.
        activations: what the network's layers give for its training data, from a sidecar.
        synthetic: how many of the images were made by one; where all, its activations are a better
            choice.

    >>> one = Surrogates(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), "black squares", 5)
    >>> len(one), one.images(torch.tensor([1, 3])).shape
    (5, torch.Size([2, 3, 4, 4]))
    """

    pixels: Tensor
    source: str
    found: int
    left_out: int = 0
    activations: Activations | None = None
    synthetic: Literal["none", "some", "all"] = "none"

    def __len__(self) -> int:
        """n, the number of images."""
        return len(self.pixels)

    def images(self, indices: Tensor) -> Tensor:
        """Those at ``indices``: float32 in [0, 1], (len(indices), 3, h, w)."""
        return self.pixels[indices].float().div_(255)

    def digest(self) -> str:
        """SHA-256 over the shape and the pixels of all images in their order, and activations."""
        shape = f"{tuple(self.pixels.shape)}|".encode()
        found = hashlib.sha256(shape + self.pixels.numpy().tobytes())
        if self.activations is not None:
            found.update(tensor_digest(self.activations.tensors()).encode())
        return found.hexdigest()

    def row(self) -> dict[str, str | int]:
        """What a run's record says of them."""
        return {
            "surrogates": self.source,
            "surrogates_count": len(self),
            "surrogates_synthetic": self.synthetic,
            "surrogates_left_out": self.left_out,
            "surrogates_digest": self.digest(),
        }

    def without(self, forget: ForgetSet) -> Self:
        """The same without images that are, or nearly are, ones to forget.

        Saved again, resized, mirrored and slightly cropped images are found too (see
        :mod:`stakes.data.duplicates`).

        Raises:
            InputError: no image is left.
        """
        unlabelled = torch.zeros(len(self), dtype=torch.int64)
        copies = near_duplicates(forget.images, ImageArray(self.pixels, unlabelled))
        distinct = torch.ones(len(self), dtype=torch.bool)
        distinct[[pair.among for pair in copies]] = False
        if not bool(distinct.any()):
            raise InputError(
                f"surrogates {self.source}: every image is a copy of one to forget; give others"
            )
        left_out = self.left_out + int((~distinct).sum())
        return replace(self, pixels=self.pixels[distinct], left_out=left_out)

    def among(self, images: Images, places: Sequence[int]) -> int:
        """How many of the images at ``places`` are here too, pixel by pixel."""
        return sum(
            digest in self._digests
            for first in range(0, len(places), CHUNK)
            for digest in pixel_digests(images.load(places[first : first + CHUNK]))
        )

    @cached_property
    def _digests(self) -> frozenset[str]:
        """Of each image."""
        batches = torch.arange(len(self)).split(CHUNK)
        return frozenset(d for batch in batches for d in pixel_digests(self.images(batch)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several as one, with the activations of the first that has any; one as it is."""
        if len(parts) == 1:
            return parts[0]
        kinds = {part.synthetic for part in parts}
        return cls(
            torch.cat([part.pixels for part in parts]),
            " and ".join(part.source for part in parts),
            sum(part.found for part in parts),
            sum(part.left_out for part in parts),
            next((p.activations for p in parts if p.activations is not None), None),
            kinds.pop() if len(kinds) == 1 else "some",
        )

    @classmethod
    def of(
        cls,
        data: Data,
        size: Size,
        *,
        read: Reader | None = None,
        seed: int = 0,
        root: str | Path | None = None,
        download: bool = False,
        most_bytes: int = IN_MEMORY,
        progress: Progress = silent,
    ) -> Self:
        """Read surrogate data, every image once.

        Args:
            data: a name in DATASETS (which goes before a folder of that name), for its training
                images; a folder with images in it or in folders below; images as
                :func:`stakes.data.adapter.as_images` takes them, without labels or with labels
                that are not looked at; or surrogates, which are returned as they are.
            size: (height, width) of the images to forget, to which these are brought.
            read: what makes pixels of an image file, such as a classifier's ``preprocessing``.
            seed: of the draw, where not all fit.
            root: where named data sets are kept; by default ~/.cache/stakes.
            download: whether a named data set may be fetched. Nothing is fetched otherwise.
            most_bytes: that they may take; of more images a random part is taken.
            progress: called with phase, steps done, steps in all and a note.

        Raises:
            InputError: no such data set or folder, no images in it, or a damaged one.
        """
        if isinstance(data, cls):
            return data
        images, source = _opened(data, size, read, root, download)
        each = 3 * size[0] * size[1]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        chosen = order[: max(1, most_bytes // each)].sort().values
        pixels = torch.empty(len(chosen), 3, *size, dtype=torch.uint8)
        for start in range(0, len(chosen), CHUNK):
            part = images.load(chosen[start : start + CHUNK])
            pixels[start : start + CHUNK] = _at(part, size)
            progress("reading surrogates", min(start + CHUNK, len(chosen)), len(chosen))
        return cls(pixels, source, len(images))


def _opened(
    data: Data, size: Size, read: Reader | None, root: str | Path | None, download: bool
) -> tuple[Images, str]:
    """The images, not yet decoded, and where they are from."""
    if isinstance(data, str | Path):
        if str(data) in DATASETS:
            named = find_data(data, root=root, download=download)
            return named.splits(read=read).train, str(data)
        folder = expanded(data)
        if not folder.is_dir():
            raise InputError(
                f"surrogates {data}: no such folder, and no data set of that name; "
                f"give a folder with images in it or one of {', '.join(DATASETS)}"
            )
        paths = [path for path in files_below(str(folder)) if is_image(path)]
        if not paths:
            raise InputError(f"surrogates {data}: no images in this folder or below; give another")
        labels = torch.zeros(len(paths), dtype=torch.int64)
        side = min(size)  # an image of another shape is brought to the size below
        files = ImageFiles(paths, labels, side, exact=read is None, root=folder, read=read)
        return files, str(data)
    if isinstance(data, tuple) and len(data) == 2:
        data = data[0]
    array = isinstance(data, torch.Tensor | np.ndarray)
    count = len(data) if array or hasattr(data, "__len__") else 0
    if not count:
        raise InputError(f"surrogates are a {type(data).__name__} without images; give a folder")
    if all(hasattr(data, name) for name in ("labels", "load", "name")):
        return as_images(data), f"{count} images given in memory"
    zeros: Sequence[int] = [0] * count
    return as_images(data, zeros, read=read), f"{count} images given in memory"


def _at(images: Tensor, size: Size) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] as 8-bit integers at a size."""
    if images.shape[2:] != size:
        images = F.interpolate(images, size, mode="bicubic", antialias=True)
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
