"""Time a step of each optimiser alone, on the layers that the default method trains.

    python benchmarks/optimizers.py
    python benchmarks/optimizers.py --networks timm:resnet50

Processor seconds of one thread, medians of five steps after one, random gradients. No image passes.
"""

import argparse
import statistics
import time

import torch

from stakes.models.classifier import Classifier
from stakes.training.depth import DEPTH, shallow
from stakes.training.muon import Muon

NETWORKS = ["stakes:cifar_resnet20", "timm:resnet50", "timm:convnext_tiny"]
NETWORKS += ["timm:vit_base_patch16_224"]
STEPS = 5


def seconds(optimizer: torch.optim.Optimizer) -> float:
    """Of a step."""
    optimizer.step()
    taken = []
    for _ in range(STEPS):
        start = time.process_time()
        optimizer.step()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    torch.set_num_threads(1)
    print("| network | weights trained, millions | Adam, s | Muon, s |")
    print("|---|---:|---:|---:|")
    for name in parser.parse_args().networks:
        network = Classifier.load(name, num_classes=1000, weights="random")
        with shallow(network, DEPTH):
            trained = [p for p in network.parameters() if p.requires_grad]
            for weight in trained:
                weight.grad = torch.randn_like(weight)
            adam = seconds(torch.optim.Adam(trained, lr=1e-6))
            muon = seconds(Muon(trained, network.head.parameters(), lr=1e-6))
        count = sum(p.numel() for p in trained) / 1e6
        print(f"| {name} | {count:.1f} | {adam:.3f} | {muon:.3f} |", flush=True)


if __name__ == "__main__":
    main()
