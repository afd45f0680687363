"""What earlier runs made a network forget, known by the digests of its pixels.

The images themselves may be gone, and none is kept: a digest shows nothing, but whoever has the
image can tell that it was forgotten.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from stakes.data.digests import pixel_digests
from stakes.data.forget import ForgetSet
from stakes.data.images import Images, batches
from stakes.data.retain import Subset
from stakes.errors import InputError
from stakes.evaluation.forgetting import FORGOTTEN, NEVER
from stakes.evaluation.scores import correct, score
from stakes.files import write_text
from stakes.models.cards import saved_file, takes_card
from stakes.models.classifier import Classifier
from stakes.models.hf import read_json
from stakes.progress import Progress, silent
from stakes.texts import expanded

FILE, FORMAT = "forgotten.json", 1
EARLIER = "n_earlier"  # begins the keys of the row
Row = dict[str, Any]


@dataclass(frozen=True)
class Past:
    """One run of a chain: the network's digests before and after it, and those of its images."""

    weights_digest: str
    unlearned_digest: str
    pixels: tuple[str, ...]


@dataclass(frozen=True)
class Forgotten:
    """The requests that made a network what it is, the first one first.

    >>> Forgotten().images
    frozenset()
    """

    requests: tuple[Past, ...] = ()

    @property
    def images(self) -> frozenset[str]:
        """The digests of all images."""
        return frozenset(pixel for request in self.requests for pixel in request.pixels)

    @property
    def networks(self) -> tuple[str, ...]:
        """The digests of the networks that it was made from, the first one first."""
        return tuple(request.weights_digest for request in self.requests)

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    def among(self, forget: ForgetSet) -> list[bool]:
        """Which images of a set were to be forgotten before."""
        known = self.images
        return [digest in known for digest in forget.pixel_digests()]

    def after(self, forget: ForgetSet, weights: str, unlearned: str) -> Self:
        """These and one more request, which made the network ``unlearned`` of ``weights``."""
        digests = tuple(sorted(forget.pixel_digests()))
        return type(self)((*self.requests, Past(weights, unlearned, digests)))

    def apart(
        self, images: Images, forget: ForgetSet, progress: Progress = silent
    ) -> tuple[Images | None, Images | None]:
        """The images of a set that are among these, and all others; None for none.

        Every image is read once; what is in ``forget`` is among the others.
        """
        known = self.images.difference(forget.pixel_digests())
        there, others, done = list[int](), list[int](), 0
        for pixels, _ in batches(images):
            for place, digest in enumerate(pixel_digests(pixels), done):
                (there if digest in known else others).append(place)
            done += len(pixels)
            progress("searching for earlier requests", done, len(images))
        return _part(images, there), _part(images, others)

    def divided(
        self, retain: Images | None, forget: ForgetSet, progress: Progress = silent
    ) -> tuple[Images | None, Images | None, ForgetSet]:
        """Retained images apart (see :meth:`apart`), and the forget set to score beside the others.

        It then has no places in the set, which are those in the whole. Nothing is read where all of
        these images are in ``forget``.
        """
        if retain is None or not self.images.difference(forget.pixel_digests()):
            return None, retain, forget
        return *self.apart(retain, forget, progress), replace(forget, indices=None)

    def write(self, folder: Path) -> None:
        """Write them beside the network that they made."""
        requests = [vars(request) for request in self.requests]
        text = json.dumps({"format": FORMAT, "requests": requests}, indent=1)
        write_text(folder / FILE, text + "\n")

    @classmethod
    def of(cls, model: str, weights: Path | None) -> Self:
        """Those that lie beside a network as the command line names it.

        Raises:
            InputError: a damaged file, or of another network.
        """
        file = saved_file(model)
        if file is None and weights is not None and takes_card(model, weights):
            file = expanded(weights)
        return cls() if file is None else cls.beside(file)

    @classmethod
    def beside(cls, network: Path) -> Self:
        """Those of a saved network: its folder, or its weights.

        Raises:
            InputError: a damaged file, or of another network.
        """
        folder = network if network.is_dir() else network.parent
        path = folder / FILE
        if not path.is_file():
            return cls()
        found = read_json(path)
        try:
            if found["format"] != FORMAT:
                raise ValueError
            requests = tuple(
                Past(one["weights_digest"], one["unlearned_digest"], tuple(one["pixels"]))
                for one in found["requests"]
            )
            last = requests[-1].unlearned_digest
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: restore the folder from a copy") from error
        if read_json(folder / "model.json").get("digest") != last:
            raise InputError(
                f"{path} belongs to another network than model.json beside it: take both "
                "from one run"
            )
        return cls(requests)


NOTHING = Forgotten()


def _part(images: Images, places: Sequence[int]) -> Images | None:
    return Subset(images, places) if places else None


def count_again(again: Sequence[bool], row: Mapping[str, Any], evidence: Sequence[Any]) -> Row:
    """Count images that an earlier run made the network forget as forgotten, where they still are.

    Args:
        again: whether each image of the forget set was asked for before.
        row: with the counts of this run, for which they were not recognised before.
        evidence: a record for each image, whose state is changed likewise.

    Returns:
        The counts to put in their place; empty where no image was asked for before.
    """
    if not any(again):
        return {}
    there = [record for record, known in zip(evidence, again, strict=True) if known]
    still = [record for record in there if record["state"] == NEVER]
    for record in still:
        record["state"] = FORGOTTEN
    return {
        f"{EARLIER}_again": len(there),
        "n_forgotten": row["n_forgotten"] + len(still),
        "n_never_recognised": row["n_never_recognised"] - len(still),
    }


@torch.no_grad()
def recognised(network: Classifier, images: Images | None) -> int | None:
    """How many of the images get their class; None without images."""
    if images is None:
        return None
    network = network.copy().eval()
    hits = 0
    for pixels, labels in batches(images):
        answers = score(network, pixels.to(network.device), labels.to(network.device))
        hits += int(correct(answers.logits, answers.labels).sum())
    return hits


def earlier_row(count: int, found: Images | None, before: Classifier, after: Classifier) -> Row:
    """What became of the images of earlier requests, for the row; empty where there were none.

    Args:
        count: images of earlier requests.
        found: those of their images that are in the training data.
        before: the network as it came.
        after: the network as it goes.

    Returns:
        ``n_earlier``, the images on record; ``n_earlier_found``, those found and not asked for
        again; ``n_earlier_recognised_before`` and ``n_earlier_recognised``, of these; None where
        none was found.
    """
    if not count:
        return {}
    return {
        EARLIER: count,
        f"{EARLIER}_found": 0 if found is None else len(found),
        f"{EARLIER}_recognised_before": recognised(before, found),
        f"{EARLIER}_recognised": recognised(after, found),
    }
