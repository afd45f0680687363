"""Number format, memory layout and compilation in pairs: a step, and a whole run with its result.

    python benchmarks/settings.py                                        # a ResNet-20, 32 pixels
    python benchmarks/settings.py --network timm:resnet50 --side 224
    python benchmarks/settings.py --data CIFAR10_FOLDER --weights resnet20-12fca82f.th

Steps of all settings take turns in one process, so that other work weighs on all alike; seconds are
the processor's, compilers included. With --data, the default method then forgets 16 images with
each setting, and its answers on test images are compared with those of the default's network.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch

from costs import hardware, network, noise
from stakes import Classifier, ForgetSet, StructGuard, load_data
from stakes.anchors.anchors import Anchors
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task
from stakes.runs.allocation import keep_freed_memory
from stakes.training.depth import shallow
from stakes.training.steps import take_steps

K = 16


def compiled(copy: Classifier) -> None:
    copy.body.compile()


def channels_first(copy: Classifier) -> None:
    copy.body.to(memory_format=torch.contiguous_format)
    copy._channels_last = False


def as_it_is(copy: Classifier) -> None:
    pass


#: The precision, and what is done to the two copies of the network.
SETTINGS: dict[str, tuple[str, Callable[[Classifier], None]]] = {
    "bfloat16 (the default here)": ("bfloat16", as_it_is),
    "float32": ("float32", as_it_is),
    "bfloat16, channels first": ("bfloat16", channels_first),
    "bfloat16, compiled": ("bfloat16", compiled),
}


class Altered:
    """Within the block, the copies of a network that methods make are altered."""

    def __init__(self, alter: Callable[[Classifier], None]) -> None:
        self._alter, self._plain = alter, Task._copied

    def __enter__(self) -> None:
        def copied(task: Task, classifier: Classifier) -> Classifier:
            made = self._plain(task, classifier)
            self._alter(made)
            return made

        Task._copied = copied

    def __exit__(self, *_: object) -> None:
        Task._copied = self._plain


def seconds() -> float:
    """Of the processor, all threads and ended processes."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def steps(made: Classifier, forget: ForgetSet, name: str) -> Iterator[Any]:
    """The steps of a setting, one for each item; the learning rate keeps the weights in place."""
    precision, alter = SETTINGS[name]
    settings = StructGuard(precision=precision, lr=1e-30)
    with Altered(alter):
        task = Task(made, forget, Anchors.from_head(made.head.weight, made.class_names))
    with shallow(task.live, settings.depth):
        objective = Objective(settings, task)
        optimizer = torch.optim.Adam(task.trainable().values(), lr=settings.lr)
        yield from take_steps(objective.terms, optimizer, range(1, settings.max_steps))


def pairs(made: Classifier, names: list[str], rounds: int) -> None:
    """Print the seconds of the first step and of those after it."""
    forget = noise(made, K)
    running = {name: steps(made, forget, name) for name in names}
    spent: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    for _ in range(1 + rounds):
        for name, stepping in running.items():
            start = seconds()
            loss = next(stepping).loss
            spent[name].append(seconds() - start)
            losses.setdefault(name, loss)
    print(f"\n{made.spec}, {made.input_size} pixels, k = {K}. {hardware('cpu')}\n")
    print("| setting | first step, s | a step, s | of the default's | loss |")
    print("|---|---:|---:|---:|---:|")
    usual = median(spent[names[0]][1:])
    for name, (first, *later) in spent.items():
        took = f"{median(later):.2f} ({min(later):.2f} to {max(later):.2f})"
        share = f"{median(later) / usual:.2f}"
        print(f"| {name} | {first:.1f} | {took} | {share} | {losses[name]:.5g} |", flush=True)


def outcomes(asked: argparse.Namespace) -> None:
    """Print what the default method comes to with each setting."""
    data = load_data(asked.data)
    made = Classifier.load(
        "stakes:cifar_resnet20", weights=asked.weights, class_names=data.class_names,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    forget = ForgetSet.random(data.train, K, seed=0)
    some = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:2000]
    images, labels = data.test.load(some), data.test.labels[some]
    print(f"\nk = {K}, {len(some):,} test images\n")
    print("| setting | seconds in all | steps | forgotten | test accuracy | other answers |")
    print("|---|---:|---:|---:|---:|---:|")
    usual = None
    for name in asked.settings:
        precision, alter = SETTINGS[name]
        start = seconds()
        with Altered(alter):
            result = StructGuard(criterion="exact", precision=precision)(
                made, forget, anchors="cifar10", seed=0
            )
        took = seconds() - start
        with torch.no_grad():
            given = torch.cat([result.classifier(part) for part in images.split(256)]).argmax(1)
        usual = given if usual is None else usual
        right, other = 100 * float((given == labels).float().mean()), int((given != usual).sum())
        gone = 100 - result.history[-1]["forget_accuracy"]
        count = result.history[-1]["step"]
        print(f"| {name} | {took:.0f} | {count:.0f} | {gone:.0f} % | {right:.2f} | {other} |",
              flush=True)  # fmt: skip


def main() -> None:
    keep_freed_memory()  # as commands do
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="stakes:cifar_resnet20")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--data")
    parser.add_argument("--weights")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.data:
        outcomes(asked)
    else:
        pairs(network(asked.network, asked.side, 10, "cpu"), asked.settings, asked.rounds)


if __name__ == "__main__":
    main()
