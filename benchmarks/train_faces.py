"""Train a small face recogniser from scratch, for the recipe ``faces``.

    python benchmarks/train_faces.py ORL_FOLDER OUT

ORL_FOLDER holds one folder of images for each identity, such as the AT&T / ORL faces (Olivetti
Research Laboratory; 40 identities, 10 images of each). Of every identity, TEST images are
drawn for testing. OUT gets ``data/train/ID``, ``data/test/ID`` and ``weights.safetensors``:

    stakes bench faces --out RUNS --set data=OUT/data --set weights=OUT/weights.safetensors

With these there, networks to compare with: trained afresh, from another seed, without the images
that ``stakes unlearn --forget random:12 --seed 0`` forgets. OUT gets the folder
``without-random-12-draw-0-seed-1``, for ``--reference``:

    python benchmarks/train_faces.py ORL_FOLDER OUT --seed 1 --forget random:12 --draw 0
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.data.datasets import load_data
from stakes.data.folders import class_files
from stakes.data.forget_words import parse_forget
from stakes.data.images import ImageArray, Images
from stakes.models.classifier import Classifier
from stakes.training.schedule import OneCycle
from training import Draws, accuracy, fit, without, write_weights

MODEL, SIZE, TEST = "timm:resnet10t", 64, 2
BATCH, RATE, MOMENTUM, DECAY = 32, 0.05, 0.9, 5e-4
# What one identity's images differ in: the head leans, comes nearer, is off centre, is lit.
LEAN, SCALE, SHIFT, LIGHT = 0.2, 0.12, 0.12, 0.25


def split(source: Path, out: Path, seed: int) -> None:
    """Copy the images to ``out/train/ID`` and, ``TEST`` of each identity, ``out/test/ID``."""
    generator = torch.Generator().manual_seed(seed)
    for identity, files in class_files(str(source), source).items():
        order = torch.randperm(len(files), generator=generator).tolist()
        for place, index in enumerate(order):
            folder = out / ("test" if place < TEST else "train") / identity
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[index], folder / Path(files[index]).name)


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (n, 3, h, w) mirrored or not, leaning, nearer or farther, shifted, relit."""
    n = len(images)

    def drawn(width: float, *shape: int) -> Tensor:
        return (2 * torch.rand(n, *shape, generator=generator) - 1) * width

    angle, scale, shift = drawn(LEAN), 1 + drawn(SCALE), drawn(SHIFT, 2)
    mirror = torch.randint(2, (n,), generator=generator) * 2 - 1
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = [cosine * mirror, -sine, shift[:, 0], sine * mirror, cosine, shift[:, 1]]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(images.shape), False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return (moved * (1 + drawn(LIGHT, 1, 1, 1))).clamp(0, 1)


def train(classifier: Classifier, images: Images, epochs: int, seed: int) -> None:
    """SGD with a one-cycle learning rate, in place."""
    draws, steps = Draws(seed), -(-len(images) // BATCH)
    optimizer = torch.optim.SGD(
        classifier.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    fit(
        classifier,
        images.load(range(len(images))),
        images.labels,
        optimizer,
        OneCycle(optimizer, RATE, epochs * steps),
        draws,
        lambda batch, epoch: varied(batch, draws.generator),
        epochs=epochs,
        batch_size=BATCH,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="ORL_FOLDER")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the weights, order and variations")
    parser.add_argument("--forget", help="train without these images, such as random:12")
    parser.add_argument("--draw", type=int, default=0, help="seed of random:K (--seed of unlearn)")
    asked = parser.parse_args(arguments)
    data, weights = asked.out / "data", asked.out / "weights.safetensors"
    if asked.forget is None and data.exists():
        parser.error(f"{data} exists: name another folder")
    if asked.forget is not None and not data.exists():
        parser.error(f"{data} is not there: run this without --forget first")
    if asked.forget is None:
        split(asked.source, data, asked.seed)
    splits = load_data(data, size=SIZE)
    assert splits.test is not None
    classifier = Classifier.load(
        MODEL, weights="random", class_names=splits.class_names, input_size=SIZE, seed=asked.seed
    )
    shown: dict[str, Images] = {"train": splits.train, "test": splits.test}
    if asked.forget is not None:
        forget = parse_forget(asked.forget, splits.train, splits.class_names, asked.draw)
        places = without(splits.train, forget)
        shown["train"] = ImageArray(
            (splits.train.load(places) * 255).round().byte(), splits.train.labels[places]
        )
        shown["left out"] = ImageArray((forget.images * 255).round().byte(), forget.labels)
    start = time.perf_counter()
    train(classifier, shown["train"], asked.epochs, asked.seed)
    if asked.forget is None:
        write_weights(weights, classifier.network_state())
    else:
        name = asked.forget.replace(":", "-")
        weights = asked.out / f"without-{name}-draw-{asked.draw}-seed-{asked.seed}"
        classifier.save(weights)
    for name, images in shown.items():
        print(f"{name}: {accuracy(classifier, images):.2f} % of {len(images)} images")
    print(f"{time.perf_counter() - start:.0f} s: {weights}")


if __name__ == "__main__":
    main()
