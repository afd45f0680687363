"""The choice of test and retained images to score."""

from typing import Any

import torch

from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.data.retain import Drawn, draw_without
from stakes.errors import InputError, check_seed, quoted, whole_number
from stakes.progress import Progress, silent


def check_samples(count: Any, name: str = "eval_samples") -> int | None:
    """How many images of a set to score at most, as a number of Python; None for all.

    Raises:
        InputError: it is no whole number from 1 on; ``name`` is what it is called.

    >>> check_samples(8), check_samples(None)
    (8, None)
    """
    found = whole_number(count)
    if count is not None and (found is None or found < 1):
        raise InputError(f"{name} {quoted(count)}: score at least 1 image, or leave it out")
    return found


def select(
    forget: ForgetSet,
    *,
    test: Images | None = None,
    retain: Images | None = None,
    eval_samples: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Drawn]:
    """Draw the images to score, none of them to be forgotten.

    Every chosen image is read once, so that a damaged one is found before any long work. If the
    forget images were not taken from ``retain`` by index, all of it is searched for them.
    Near-duplicates of forget images are left out of ``retain`` alone: ``test`` images stand for
    what the service will be shown.

    Args:
        forget: the images to forget.
        test: images of no training set.
        retain: training images, the forget images possibly among them.
        eval_samples: how many to draw from each set at most; None for all.
        seed: of the draw.
        progress: called with phase, images read, images to read and a note.

    Returns:
        For ``test`` and ``retain``, where given: the indices drawn, in random order, and what was
        left out.

    Raises:
        InputError: ``eval_samples`` that is no whole number from 1 on, a seed that is none, a
            damaged image, or images of another size than those to forget.
    """
    most = check_samples(eval_samples)
    generator = torch.Generator().manual_seed(check_seed(seed))
    if test is None:  # a method of this seed draws its retained data from the same start
        torch.rand(1, generator=generator)
    selected: dict[str, Drawn] = {}
    for name, images in (("test", test), ("retain", retain)):
        if images is None:
            continue
        wanted = len(images) if most is None else most
        selected[name] = draw_without(
            images,
            forget,
            wanted,
            generator,
            near=name == "retain",
            search_all=name == "retain" and forget.indices is None,
            phase=f"reading {name}",
            progress=progress,
        )
    return selected
