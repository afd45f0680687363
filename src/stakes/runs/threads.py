"""How many threads the work on a processor gets, and how they wait for each other."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stakes.models.classifier import Classifier
from stakes.preprocessing import sides

#: Multiplications for an image below which a second thread costs more than it computes. The
#: digits network has 4 million, a ResNet-20 at 32 pixels 41 million.
SMALL = 10_000_000
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Processor cores that this process may use: by affinity, and by the quota of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    found = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        most, period = QUOTA.read_text(encoding="ascii").split()
        return max(1, min(found, math.ceil(int(most) / int(period))))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return found


def fit_threads(network: Classifier) -> None:
    """Let a small network have one thread, unless the environment says how many there are to be.

    Threads wait for each other after each layer. Where layers take microseconds and other
    processes want the cores too, they do little else: on two busy cores, steps of the digits
    network took 26 times as long with two threads as with one.
    """
    if "OMP_NUM_THREADS" in os.environ or network.device.type != "cpu":
        return
    torch.set_num_threads(1 if multiplications(network) < SMALL else cores())


@torch.no_grad()
def multiplications(network: Classifier) -> int:
    """Of the linear layers and convolutions, for one image.

    >>> multiplications(Classifier.load("stakes:digits_cnn", class_names=("cat", "dog"), seed=0))
    4350080
    """
    counts: list[int] = []

    def count(layer: Any, inputs: object, output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [part for part in network.modules() if isinstance(part, kinds)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        shown = torch.zeros(1, 3, *sides(network.input_size), device=network.device)
        network(shown.to(network.mean.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)
