"""Retained data: a bounded sample of a training set without a single forget image in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stakes.data.duplicates import Finder, Pair
from stakes.data.forget import ForgetSet
from stakes.data.images import ImageArray, Images, batches
from stakes.errors import InputError
from stakes.progress import Progress, silent

IN_MEMORY = 2**29  # bytes; a larger sample is read again each time it is used


class Subset:
    """The images at some places of a set, read when asked for."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images, self.indices = images, torch.tensor(indices, dtype=torch.int64)
        self.labels = images.labels[self.indices]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images at ``indices`` of the subset: float32 in [0, 1], (len(indices), 3, h, w)."""
        return self.images.load(self.indices[torch.as_tensor(indices, dtype=torch.int64)])

    def name(self, i: int) -> str:
        """What the whole set calls image i of the subset."""
        return self.images.name(int(self.indices[i]))


def retained(
    images: Images,
    forget: ForgetSet,
    samples: int,
    classes: int,
    generator: torch.Generator,
    *,
    progress: Progress = silent,
) -> Images:
    """Draw images of a training set that are not to be forgotten.

    A forget image is recognised by its pixels, so its place in the set is left out, and so are
    copies and near-duplicates of it (see :mod:`stakes.data.duplicates`) under other names or
    labels; an index that belongs to another set does no harm.

    Args:
        images: the training set, forget images among it.
        forget: the images to forget, in the size of the set's.
        samples: how many to draw at most; 0 for all.
        classes: number of classes of the network.
        generator: of the draw; the order of the sample is random.
        progress: called with phase, steps done, steps in all and a note.

    Returns:
        The sample, held in memory at 8 bits a channel where it takes at most ``IN_MEMORY`` bytes.

    Raises:
        InputError: no image is left, a label is outside the classes, an image is damaged, or
            they have another size than those to forget.
    """
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"retained data with labels {low} to {high}: there are {classes} classes; "
            "give data of the network's classes"
        )
    wanted = samples or len(images)
    chosen = draw_without(
        images, forget, wanted, generator, phase="reading retained data", progress=progress
    ).places
    if not chosen:
        raise InputError(
            "no retained data: every image of the training set is to be forgotten; give more data"
        )
    subset = Subset(images, chosen)
    if len(chosen) * images.load(chosen[:1]).numel() > IN_MEMORY:
        return subset
    parts = [(pixels * 255).round().to(torch.uint8) for pixels, _ in batches(subset)]
    return ImageArray(torch.cat(parts), subset.labels, prefix="retained")


CHUNK = 1024  # images read between two reports


@dataclass(frozen=True)
class Drawn:
    """Images of a set, drawn at random.

    Attributes:
        places: of the images.
        searched: how many images were compared with those to forget.
        left_out: of these, the ones to forget and their duplicates.
    """

    places: list[int]
    searched: int
    left_out: list[Pair]


def found_again(
    images: Images, finder: Finder, indices: Sequence[int] | Tensor, shape: torch.Size
) -> list[Pair]:
    """The places, of those at ``indices``, where a set holds an image to forget.

    Every image at ``indices`` is decoded once, a batch at a time.

    Raises:
        InputError: the set's images have another shape (3, h, w) than those to forget, so that
            none could be recognised.
    """
    found, places = list[Pair](), [int(i) for i in indices]
    for shown, _ in batches(images, places):
        if shown.shape[1:] != shape:
            raise InputError(
                f"forget images are {tuple(shape[1:])} pixels, those to compare "
                f"{tuple(shown.shape[2:])}; load both at one size"
            )
        found += finder.search(shown, places[: len(shown)])
        places = places[len(shown) :]
    return found


def draw_without(
    images: Images,
    forget: ForgetSet,
    count: int,
    generator: torch.Generator,
    *,
    near: bool = True,
    search_all: bool = False,
    phase: str = "reading",
    progress: Progress = silent,
) -> Drawn:
    """Draw ``count`` places of a set at random, or all there are, that hold no forget image.

    Every image that is drawn is read once, so that a damaged one is found before long work.

    Args:
        images: the set, in the size of the forget images.
        forget: the images to forget.
        count: how many to draw.
        generator: of the draw.
        near: whether near-duplicates of forget images are left out too.
        search_all: whether to read on when enough are drawn, so that every forget image that is
            in the set is found.
        phase: what the progress calls this.
        progress: called with phase, images read, images to read and a note.

    Raises:
        InputError: as :func:`found_again`, or a damaged image.
    """
    wanted, finder = min(count, len(images)), Finder(forget.images, near=near)
    chosen, left_out, searched = list[int](), list[Pair](), 0
    order = torch.randperm(len(images), generator=generator)
    end = len(images) if search_all else wanted
    for part in order.split(min(CHUNK, wanted + len(forget))):
        found = found_again(images, finder, part, forget.images.shape[1:])
        copies = {pair.among for pair in found}
        chosen += [place for place in part.tolist() if place not in copies]
        left_out += found
        searched += len(part)
        progress(phase, min(searched, end), end)
        if len(chosen) >= wanted and not search_all:
            break
    return Drawn(chosen[:wanted], searched, left_out)
