"""A ResNet that computes the same from larger or smaller weights.

    python benchmarks/rescale.py stakes:cifar_resnet20 resnet20-12fca82f.th OUT.safetensors --by 3

Every convolution of a ResNet is followed by BatchNorm, which divides by the scale of what it gets:
with all convolutions multiplied by one factor, and BatchNorm's running statistics with them, the
network answers as before (but for BatchNorm's epsilon). A step of gradient descent is another one:
the factor divides the gradients of the convolutions, so that its square divides their relative
change.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from stakes import Classifier
from training import write_weights


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("weights")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--by", type=float, required=True, help="the factor")
    asked = parser.parse_args(arguments)
    classifier = Classifier.load(asked.model, weights=asked.weights)
    rescale(classifier.body, asked.by)
    write_weights(asked.out, classifier.network_state())


@torch.no_grad()
def rescale(body: nn.Module, factor: float) -> None:
    """Multiply all convolutions in place, and the statistics of the BatchNorm behind each."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None, "a bias is not scaled by BatchNorm's statistics alone"
            module.weight *= factor
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean *= factor
            module.running_var *= factor**2


if __name__ == "__main__":
    main()
