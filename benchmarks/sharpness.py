"""Whether what a run held looks to the network like what it did not see.

    python benchmarks/sharpness.py RUN --model stakes:cifar_resnet56 --weights FILE --data FOLDER \
        --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225

RUN is the folder of a run on that network. Training images are shown to the network before and
after, as they are and altered: how many it answers otherwise, by how much the logit of its first
answer falls, and how far its features move, in units of their variance. The forget images are not
left out; the more training images there are, the less they matter.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes import Classifier
from stakes.data.augment import jitter, mixed, rotate_recolour, whole_pixels
from stakes.data.datasets import load_data

Alter = Callable[[Tensor, torch.Generator], Tensor]
ALTERED: dict[str, Alter] = {
    "as they are": lambda images, _: images,
    "moved by whole pixels": whole_pixels,
    "moved and scaled, interpolated": lambda images, draw: jitter(
        images, torch.arange(len(images)), draw
    ),
    "mixtures (probes)": lambda images, draw: mixed(images, len(images), draw),
    "rotated, colours permuted": rotate_recolour,
    "blurred (means of 3 x 3)": lambda images, _: F.avg_pool2d(
        F.pad(images, (1,) * 4, mode="reflect"), 3, 1
    ),
}


@torch.no_grad()
def answers(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits."""
    features = torch.cat([network.features(batch) for batch in images.split(250)])
    return features, network.head(features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    for option in ("model", "weights", "data"):
        parser.add_argument(f"--{option}", required=True)
    for option in ("mean", "std"):
        parser.add_argument(f"--{option}", type=float, nargs=3)
    parser.add_argument("--count", type=int, default=1500)
    given = parser.parse_args()
    before = Classifier.load(
        given.model, weights=given.weights, mean=given.mean, std=given.std
    ).eval()
    after = Classifier.load(given.run / "model.safetensors").eval()
    train = load_data(given.data).train
    draw = torch.Generator().manual_seed(0)
    some = torch.randperm(len(train.labels), generator=draw)[: given.count]
    images = train.load(some.tolist())
    print("| training images | answered otherwise | logit of the first answer | features moved |")
    print("|---|---:|---:|---:|")
    for name, alter in ALTERED.items():
        shown = alter(images, draw)
        (old, was), (new, now) = answers(before, shown), answers(after, shown)
        first = was.argmax(1)
        changed = 100 * float((first != now.argmax(1)).float().mean())
        fell = float((now - was).gather(1, first[:, None]).mean())
        moved = (new - old).square().sum(1).mean() / old.var(0, correction=0).sum()
        print(f"| {name} | {changed:.1f} % | {fell:+.2f} | {float(moved):.3f} |", flush=True)


if __name__ == "__main__":
    main()
