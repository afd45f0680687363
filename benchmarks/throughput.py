"""What a step costs on networks that are too large to be run here: seconds of one core.

python benchmarks/throughput.py

Times passes of random networks in processor seconds, and steps of the default with 16 images to
forget. A step of the paper's preset is added up from its passes: 128 probes through the original,
these and 128 images through the copy that changes.
"""

import argparse
import time

import torch

from costs import cost
from stakes import Classifier, ForgetSet, StructGuard
from stakes.anchors.anchors import Anchors
from stakes.methods import StructGuardPaper
from stakes.methods.task import Task
from stakes.training.depth import shallow
from stakes.training.precision import autocast

NETWORKS = [
    ("stakes:cifar_resnet20", 10, 64),
    ("stakes:cifar_resnet56", 10, 64),
    ("stakes:cifar_resnet18", 10, 32),
    ("torchvision:resnet50", 1000, 8),
]


def seconds_an_image(classifier, images, backward, repeat):
    """Least processor seconds of a pass, an image."""
    found = []
    for _ in range(repeat):
        start = time.process_time()
        with torch.set_grad_enabled(backward), autocast("auto", classifier.device):
            logits = classifier(images)
        if backward:
            logits.float().logsumexp(1).mean().backward()
        found.append(time.process_time() - start)
    return min(found) / len(images)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    default, paper = StructGuard(), StructGuardPaper()
    print("| network | side | forward | with backward | last third | a step | paper's step |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for spec, classes, batch in NETWORKS:
        classifier = Classifier.load(spec, weights="random", num_classes=classes)
        side = classifier.input_size
        images = torch.rand(batch, 3, side, side)
        forget = ForgetSet(images, torch.zeros(batch, dtype=torch.int64), ("",) * batch)
        run = Task(
            classifier, forget, Anchors.from_head(classifier.head.weight, classifier.class_names)
        )
        forward = seconds_an_image(run.live, images, False, arguments.repeat)
        whole = seconds_an_image(run.live, images, True, arguments.repeat)
        with shallow(run.live, default.depth):
            part = seconds_an_image(run.live, images, True, arguments.repeat)
        step = cost(spec, k=16, side=side, classes=classes, steps=arguments.steps)["seconds_step"]
        papers = paper.probe_batch * (forward + whole) + paper.forget_batch * whole
        times = " | ".join(f"{1000 * seconds:.1f} ms" for seconds in (forward, whole, part))
        print(f"| {spec} | {side} | {times} | {step:.1f} s | {papers:.1f} s |", flush=True)


if __name__ == "__main__":
    main()
