"""Checks of what a user says about a classifier; each raises ``InputError`` with one line."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stakes.errors import InputError, first_line, quoted
from stakes.models.specs import Built
from stakes.models.transforms import Transform
from stakes.preprocessing import Reader, Size, one_or_both, sides

MOST_SIDE, MOST_CLASSES = 4096, 10**6


def wanted_classes(num_classes: int | None, class_names: Sequence[str] | None) -> int | None:
    """The number of classes the user asks for by number or by names, None if neither."""
    if num_classes is not None and (
        type(num_classes) is not int or not 1 <= num_classes <= MOST_CLASSES
    ):
        raise InputError(
            f"num_classes is {quoted(num_classes)}; give a whole number from 1 to {MOST_CLASSES}"
        )
    if class_names is None:
        return num_classes
    _check_list(class_names)
    if num_classes not in (None, len(class_names)):
        raise InputError(f"{len(class_names)} class names for {num_classes} classes; give one each")
    return len(class_names)


def _check_list(class_names: object) -> None:
    """Refuse, with an InputError, names in no order, or letters in place of names."""
    if isinstance(class_names, str) or not isinstance(class_names, Sequence):
        raise InputError(f"class_names is {quoted(class_names)}; give a list of names")


def check_order(own: Sequence[str] | None, given: Sequence[str] | None, source: str) -> None:
    """Refuse the names that a network has of its own in another order.

    Other names are the user's to give; the same ones in another order are a mistake that every
    result would hide.

    Raises:
        InputError: both have the same names, not in the same order.
    """
    if own is None or given is None or sorted(own) != sorted(map(str, given)):
        return
    for place, (name, other) in enumerate(zip(own, map(str, given), strict=True)):
        if name != other:
            raise InputError(
                f"{source} says that output {place} is {name}, not {other}: the class names given "
                "are the same in another order; leave them out, and its order is used"
            )


def names_of(built: Built, given: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """One name per class: those given, else the network's own, else ``class 0``, ``class 1``, ...

    Not bare numbers: these are the names of the digits, which have anchors of their own.
    """
    if given is not None:
        _check_list(given)
    if given is not None and len(given) != num_classes:
        raise InputError(
            f"{built.spec} has {num_classes} classes, but {len(given)} class names were given; "
            "give one each"
        )
    if given is None and built.class_names is not None and len(built.class_names) == num_classes:
        given = built.class_names
    if given is None:
        return tuple(f"class {i}" for i in range(num_classes))
    return tuple(map(str, given))


def per_channel(value: Sequence[float] | float, what: str) -> Tensor:
    """Numbers for three channels, (3, 1, 1), from three or from one for all."""
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64, device="cpu").flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} is {quoted(value)}; give numbers such as 0.5") from error
    if len(numbers) not in (1, 3) or not bool(numbers.isfinite().all()):
        raise InputError(f"{what} is {value}; give one finite number or one for each of 3 channels")
    if what == "std" and bool((numbers <= 0).any()):
        raise InputError(f"std is {value}; it divides, so it must be above 0")
    if bool((numbers.abs() > 10).any()) or (what == "std" and bool((numbers < 1e-5).any())):
        raise InputError(
            f"{what} is {value}; pixels are in [0, 1], so give numbers such as 0.485 "
            "(divide those for pixels up to 255 by 255)"
        )
    return numbers.expand(3).clone().reshape(3, 1, 1)


def plain_numbers(values: Tensor) -> list[float]:
    """The shortest decimals that give the same buffer again."""
    return [float(str(value)) for value in values.flatten().cpu().numpy()]


def check_size(input_size: int | Size) -> None:
    """Refuse an input size that is no size."""
    given = input_size if isinstance(input_size, tuple | list) else (input_size,)
    good = all(type(side) is int and 1 <= side <= MOST_SIDE for side in given)
    if not good or len(given) > 2:
        raise InputError(
            f"input_size is {quoted(input_size)}; give the side of an image, or height and width, "
            f"in pixels from 1 to {MOST_SIDE}"
        )


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it."""
    try:
        made = torch.zeros(1, device=device)
        made.cpu()  # what has no data cannot be read
        return made.device
    except (RuntimeError, AssertionError, ImportError) as error:  # whatever it is built without
        raise InputError(
            f"device {str(device)!r} cannot be used: {first_line(error)}; "
            "give cpu, or one that torch has here"
        ) from error


def fitting(built: Built, channels: int) -> Reader | None:
    """The preprocessing, made sure to give what the network takes."""
    read = built.preprocessing
    if not isinstance(read, Transform):
        return read
    if read.channels != channels:
        raise InputError(
            f"{read.words} gives images of {read.channels} channels, the network takes {channels}; "
            "convert in it, such as by image.convert"
        )
    return read if read.size is not None else read.at(sides(built.input_size))


def agreed_size(
    given: Transform, input_size: int | Size | None, mean: Any, std: Any
) -> int | Size | None:
    """The input size that a transform gives, which with mean and std is for it alone to say."""
    if mean is not None or std is not None:
        raise InputError(f"{given.words} normalises by itself; leave out mean and std")
    if given.size is None:
        return input_size
    if input_size is not None and sides(input_size) != given.size:
        raise InputError(
            f"{given.words} gives {given.size[0]} x {given.size[1]} pixels; leave out input_size"
        )
    return one_or_both(given.size)
