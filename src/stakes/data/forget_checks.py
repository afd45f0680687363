"""What a forget set must be: shapes, values, labels, and a size that fits in memory."""

from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from stakes.errors import InputError
from stakes.preprocessing import Size, sides


def check_set(
    images: Tensor, labels: Tensor, names: Sequence[str], indices: Sequence[int] | None
) -> None:
    """Refuse, with an InputError, parts that make no :class:`stakes.data.forget.ForgetSet`."""
    k = len(names)
    if k == 0:
        raise InputError("the forget set is empty: give at least one image")
    if images.ndim != 4 or images.shape[:2] != (k, 3):
        raise InputError(f"forget images of shape {tuple(images.shape)}: expected ({k}, 3, h, w)")
    if images.dtype != torch.float32 or labels.dtype != torch.int64:
        raise InputError(
            f"forget images are {images.dtype} and labels {labels.dtype}: "
            "expected torch.float32 and torch.int64"
        )
    if labels.shape != (k,) or (indices is not None and len(indices) != k):
        raise InputError(
            f"{k} forget images with another number of labels or indices; give one each"
        )
    flat = images.flatten(1)
    fine = (flat >= 0).logical_and(flat <= 1).all(1)  # false for NaN as well
    for i in (~fine).nonzero()[:1, 0].tolist():
        raise InputError(
            f"{names[i]}: pixels are NaN or outside [0, 1]; divide 8-bit values by 255"
        )
    for i in (labels < 0).nonzero()[:1, 0].tolist():
        raise InputError(f"{names[i]}: label {int(labels[i])} is negative; count classes from 0")


def check_labels(labels: Tensor, names: Sequence[str], num_classes: int) -> None:
    """Refuse, with an InputError, a label that is not among the classes."""
    for name, label in zip(names, labels.tolist(), strict=True):
        if label >= num_classes:
            raise InputError(f"{name}: label {label}, but the classes are 0 to {num_classes - 1}")


def first_of_each(digests: Sequence[str], labels: Tensor, names: Sequence[str]) -> list[int]:
    """The places where each image occurs first, ascending.

    Raises:
        InputError: the same image with two labels.

    >>> first_of_each(["a", "b", "a"], torch.tensor([1, 2, 1]), ["x", "y", "z"])
    [0, 1]
    """
    first: dict[str, int] = {}
    for i, digest in enumerate(digests):
        other = first.setdefault(digest, i)
        if labels[other] != labels[i]:
            raise InputError(
                f"{names[other]} and {names[i]} are the same image with the labels "
                f"{int(labels[other])} and {int(labels[i])}; remove one of them"
            )
    return sorted(first.values())


def check_memory(k: int, shape: int | Size, max_bytes: int | None = None) -> None:
    """Refuse, with an InputError, more images than fit.

    Args:
        k: Number of images; each takes 3 x height x width x 4 bytes.
        shape: Their (height, width) in pixels, or one side for both.
        max_bytes: The budget; default is half of the memory now free, since the original and the
            unlearned network, probes and gradients need room as well.
    """
    budget = psutil.virtual_memory().available // 2 if max_bytes is None else max_bytes
    height, width = sides(shape)
    needed = k * 3 * height * width * 4
    if needed > budget:
        raise InputError(
            f"{k} forget images of {height}x{width} need {needed / 2**20:,.2f} MiB, the budget is "
            f"{budget / 2**20:,.2f} MiB; take fewer images or a smaller size"
        )
