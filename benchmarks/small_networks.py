"""Forget 16 handwritten digits with small networks, with and without BatchNorm.

    python benchmarks/small_networks.py demo --draws 0 1 2
    python benchmarks/small_networks.py vit --draws 11 12 --probes 48 --depth 1

Trains the network from scratch (``demo`` as ``stakes demo`` does; ``groupnorm`` is the same with
GroupNorm in place of BatchNorm; ``vit`` a transformer of four blocks), then forgets by the default
method on each draw, and prints the changes of accuracy on all other images, in points.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stakes import Classifier, ForgetSet, StructGuard, load_data
from stakes.data.datasets import Splits
from stakes.data.images import Images
from stakes.demo import train
from stakes.models.networks.digits import DigitsCNN

SIZE, BATCH, WARMUP = 16, 64, 50


class ViT(nn.Module):
    """Patches of 4 x 4 pixels, four blocks of 64 features, mean over patches, linear head."""

    def __init__(self, patch: int = 4, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.places = nn.Parameter(torch.randn(1, (SIZE // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(4)
            )
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT + self.places
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def groupnorm() -> nn.Module:
    network = DigitsCNN(10)
    for block in network.blocks:
        if isinstance(block, nn.Sequential):
            convolution = block[0]
            assert isinstance(convolution, nn.Conv2d)
            block[1] = nn.GroupNorm(1, convolution.out_channels)
    return network


# What makes it, epochs, learning rate and weight decay of AdamW.
OWN: dict[str, tuple[Callable[[], nn.Module], int, float, float]] = {
    "groupnorm": (groupnorm, 20, 3e-3, 0.0),
    "vit": (ViT, 40, 1e-3, 0.05),
}


def trained(name: str, data: Splits) -> Classifier:
    if name == "demo":
        return train(data.train, data.class_names)
    make, epochs, lr, decay = OWN[name]
    torch.manual_seed(0)
    classifier = Classifier.wrap(make(), class_names=data.class_names, input_size=SIZE)
    images, labels = data.train.load(range(len(data.train))), data.train.labels
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr, weight_decay=decay)
    classifier.train()
    steps = epochs * (len(labels) // BATCH)
    for step in range(steps):
        batch = torch.randint(0, len(labels), (BATCH,), generator=generator)
        down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / WARMUP) * (1 - step / steps)
        loss = F.cross_entropy(
            classifier(torch.roll(images[batch], (down, right), (2, 3))), labels[batch]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: Classifier, images: Images, places: Sequence[int]) -> float:
    right = classifier(images.load(places)).argmax(1) == images.labels[list(places)]
    return 100 * float(right.float().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=["demo", *OWN])
    parser.add_argument("--draws", type=int, nargs="+", default=[0], help="seeds of random:K")
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--criterion", default="deep", choices=["exact", "deep", "views"])
    parser.add_argument("--probes", type=int, default=0, help="probe_batch")
    parser.add_argument("--depth", type=float, default=1 / 3, help="share of the layers")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = load_data("digits", size=SIZE)
    assert data.test is not None
    classifier = trained(asked.network, data)
    method = StructGuard(criterion=asked.criterion, probe_batch=asked.probes, depth=asked.depth)
    everyone = range(len(data.test))
    for draw in asked.draws:
        forget = ForgetSet.random(data.train, asked.k, draw)
        kept = sorted(set(range(len(data.train))) - set(forget.indices or ()))
        result = method(classifier, forget, anchors="digits", seed=draw)
        before, after = (
            (accuracy(c, data.train, kept), accuracy(c, data.test, everyone))
            for c in (classifier, result.classifier.eval())
        )
        print(
            f"draw {draw}: retained {before[0]:.2f} {after[0] - before[0]:+.2f}, "
            f"test {before[1]:.2f} {after[1] - before[1]:+.2f}, "
            f"{result.history[-1]['step']:.0f} steps, {result.stop_reason}",
            flush=True,
        )


if __name__ == "__main__":
    main()
