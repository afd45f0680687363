"""Retained data: a bounded sample of a training set without a single forget image in it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stakes.data.digests import pixel_digests
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
    copies of it under other names or labels; an index that belongs to another set does no harm.

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
        raise InputError(f"retained data with labels {low} to {high}: there are {classes} classes")
    wanted = samples or len(images)
    chosen = draw_without(
        images, forget, wanted, generator, phase="reading retained data", progress=progress
    )
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


def without(
    images: Images,
    forget: ForgetSet,
    indices: Sequence[int] | Tensor | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Leave out the places where a set holds a forget image, under whatever file name.

    Every image at ``indices`` (default: all) is decoded once, ``batch_size`` at a time.

    Returns:
        The other indices, int64, in their order.

    Raises:
        InputError: the set's images have another size, so that none could be recognised.
    """
    chosen = torch.as_tensor(range(len(images)) if indices is None else indices, dtype=torch.int64)
    gone = set(forget.pixel_digests())
    kept = []
    for shown, _ in batches(images, chosen, batch_size):
        if shown.shape[1:] != forget.images.shape[1:]:
            raise InputError(
                f"forget images are {tuple(forget.images.shape[2:])} pixels, those to compare "
                f"{tuple(shown.shape[2:])}; load both at one size"
            )
        kept += [digest not in gone for digest in pixel_digests(shown)]
    return chosen[torch.tensor(kept, dtype=torch.bool)]


def draw_without(
    images: Images,
    forget: ForgetSet,
    count: int,
    generator: torch.Generator,
    *,
    phase: str = "reading",
    progress: Progress = silent,
) -> list[int]:
    """Draw ``count`` places of a set at random, or all there are, that hold no forget image.

    Every image that is drawn is read once, so that a damaged one is found before long work.

    Raises:
        InputError: as :func:`without`, or a damaged image.
    """
    wanted = min(count, len(images))
    chosen: list[int] = []
    order = torch.randperm(len(images), generator=generator)
    for number, part in enumerate(order.split(size := min(CHUNK, wanted + len(forget))), 1):
        chosen += without(images, forget, part).tolist()
        progress(phase, min(number * size, wanted), wanted)
        if len(chosen) >= wanted:
            break
    return chosen[:wanted]
