"""Which test and retained images are scored."""

import torch

from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.data.retain import Drawn, draw_without
from stakes.errors import InputError
from stakes.progress import Progress, silent


def select(
    forget: ForgetSet,
    *,
    test: Images | None = None,
    retain: Images | None = None,
    eval_samples: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Drawn]:
    """Choose what to score: indices of ``test`` and ``retain`` images that are not to be forgotten.

    Every image that is chosen is read once, so that a damaged one is found before long work. Where
    the forget images were not taken from ``retain`` by their places, all of it is searched for
    them. Near-duplicates of them are left out of ``retain`` alone: ``test`` images stand for what
    the service will be shown.

    Raises:
        InputError: ``eval_samples`` below 1, a damaged image, or images of another size than
            those to forget.
    """
    if eval_samples is not None and eval_samples < 1:
        raise InputError(f"eval_samples={eval_samples}: score at least 1 image, or leave it out")
    generator = torch.Generator().manual_seed(seed)
    selected: dict[str, Drawn] = {}
    for name, images in (("test", test), ("retain", retain)):
        if images is None:
            continue
        wanted = len(images) if eval_samples is None else eval_samples
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
