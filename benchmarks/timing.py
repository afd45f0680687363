"""Where the time of an unlearning run goes, and how long the paper's preset takes beside it.

python benchmarks/timing.py --data CIFAR10_FOLDER --weights resnet20-12fca82f.th

Runs the default and the paper preset on the same images in pairs, one right after the other, so
that other work on the machine weighs on both alike. The paper preset is stopped after
``--patience`` times the seconds of its pair's default, if it has not forgotten everything by then.
Forward and backward passes are timed from within: hooks on the network's body, and the call of
``Tensor.backward``.
"""

import argparse
import statistics
import time
from collections import defaultdict

import torch

from stakes import Classifier, ForgetSet, StructGuard, load_data
from stakes.methods import StructGuardPaper


class Passes:
    """Seconds spent in the forward passes of classifiers' bodies and in backward passes."""

    def __init__(self):
        self.seconds = defaultdict(float)
        self._depth = 0

    def __enter__(self):
        self._features, self._backward = Classifier.features, torch.Tensor.backward
        Classifier.features = self._timed("forward", self._features)
        torch.Tensor.backward = self._timed("backward", self._backward)
        return self

    def __exit__(self, *_):
        Classifier.features, torch.Tensor.backward = self._features, self._backward

    def _timed(self, name, function):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return timed


def stopped_after(seconds):
    """A report that ends the run with an exception once so many seconds have passed."""
    start = time.perf_counter()

    def report(phase, done, total, note=""):
        if phase in ("probes", "unlearning"):
            report.last = (phase, done, note)
        if time.perf_counter() - start > seconds:
            raise TimeoutError

    return report


def default(network, forget, seed):
    """Seconds of the default, by the paper's criterion, and the share of passes, percent."""
    with Passes() as passes:
        start = time.perf_counter()
        result = StructGuard(criterion="exact")(network, forget, anchors="cifar10", seed=seed)
        took = time.perf_counter() - start
    share = 100 * sum(passes.seconds.values()) / took
    print(
        f"default, seed {seed}: {took:.1f} s, {result.history[-1]['step']:.0f} steps, "
        f"{result.stop_reason}; forward {passes.seconds['forward']:.1f} s, backward "
        f"{passes.seconds['backward']:.1f} s, together {share:.0f} %; phases "
        + ", ".join(f"{name} {value:.1f} s" for name, value in result.seconds.items()),
        flush=True,
    )
    return took, share


def paper(network, forget, seed, limit):
    """Seconds of the paper's printed sum, at most ``limit``; prints how it ended."""
    start = time.perf_counter()
    report = stopped_after(limit)
    try:
        end = StructGuardPaper(weighting="sum", max_steps=10**6)(
            network, forget, anchors="cifar10", seed=seed, progress=report
        ).stop_reason
    except TimeoutError:
        phase, done, note = report.last
        end = f"stopped by the limit in {phase}, step {done}: {note}"
    took = time.perf_counter() - start
    print(f"paper, seed {seed}: {took:.0f} s, {end}", flush=True)
    return took


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--data", required=True)
    words.add_argument("--weights", required=True)
    words.add_argument("--k", type=int, default=64)
    words.add_argument("--repeat", type=int, default=3)
    words.add_argument("--patience", type=float, default=10.0)
    asked = words.parse_args()
    data = load_data(asked.data)
    network = Classifier.load(
        "stakes:cifar_resnet20", weights=asked.weights, class_names=data.class_names,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    forget = ForgetSet.random(data.train, asked.k, seed=0)
    StructGuard(max_steps=2)(network, forget, anchors="cifar10")  # warm
    pairs = []
    for seed in range(asked.repeat):
        took, share = default(network, forget, seed)
        beside = paper(network, forget, seed, asked.patience * took)
        pairs.append((took, share, beside / took))
    took, share, ratio = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"median of {len(pairs)}: default {took:.1f} s, passes {share:.0f} %; paper at least "
        f"{ratio:.1f} times as long",
    )


if __name__ == "__main__":
    main()
