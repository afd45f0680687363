"""What a step of the default method costs: seconds, memory, and the share of the passes.

Shared by gpu.py and scaling.py. Networks have random weights and images are noise, which cost the
same as others; the learning rate is so small that nothing is ever forgotten.
"""

import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from stakes import Classifier, ForgetSet
from stakes.methods import StructGuard
from stakes.methods.structguard import default
from stakes.preprocessing import sides
from stakes.runs.environment import environment, peak_memory_mb


class Passes:
    """Seconds of the steps, and how many of them go to passes through networks and back.

    Attributes:
        whole: seconds from the first step to the last, checks of all images included.
        seconds: of these, forward and backward passes.
    """

    def __init__(
        self, device: torch.device, within: AbstractContextManager[object] | None = None
    ) -> None:
        self.whole, self.seconds, self._device = 0.0, 0.0, device
        self._within = within or nullcontext()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the times within the block."""
        forward, backward, minimise = Classifier.passed, torch.Tensor.backward, default.minimise

        def steps(*arguments: Any, **options: Any) -> Any:
            with self._within:
                self.seconds, begun = 0.0, now(self._device)
                try:
                    return minimise(*arguments, **options)
                finally:
                    self.whole = now(self._device) - begun

        Classifier.passed, torch.Tensor.backward = self._timed(forward), self._timed(backward)
        default.minimise = steps
        try:
            yield
        finally:
            Classifier.passed, torch.Tensor.backward = forward, backward
            default.minimise = minimise

    def _timed(self, call: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = now(self._device)
            try:
                return call(*arguments, **options)
            finally:
                self.seconds += now(self._device) - begun

        return timed


def now(device: torch.device) -> float:
    """Seconds: on an accelerator of the clock, with its work done; else of the processor.

    The latter count all threads, and other work on the machine hardly weighs on them.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def network(spec: str, side: int, classes: int, device: str) -> Classifier:
    names = tuple(f"class {i}" for i in range(classes))
    return Classifier.load(
        spec,
        weights="random",
        class_names=names,
        num_classes=classes,
        input_size=side,
        device=device,
        seed=0,
    )


@torch.no_grad()
def noise(made: Classifier, k: int) -> ForgetSet:
    """Images of noise with the classes that the network gives them, so that none is forgotten."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(k, 3, *sides(made.input_size), generator=generator)
    parts = [made(part.to(made.device)).argmax(1).cpu() for part in images.split(64)]
    return ForgetSet.from_images(images, torch.cat(parts))


def cost(
    spec: str,
    *,
    k: int,
    side: int,
    classes: int = 10,
    steps: int,
    device: str = "cpu",
    within: AbstractContextManager[object] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Seconds a step (checks of all images included), peak memory, and the share of the passes.

    The steps are taken ``within`` a context, such as a profiler.
    """
    made = network(spec, side, classes, device)
    forget, place = noise(made, k), made.device
    method = StructGuard(max_steps=steps, settle=0, pull_back=False, lr=1e-30, **fields)
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    passes = Passes(place, within)
    with passes.watching():
        result = method(made, forget, anchors="head", seed=0)
    return {
        "network": spec,
        "k": k,
        "side": side,
        "classes": classes,
        "seconds_step": passes.whole / (len(result.history) - 1),
        "peak_memory_mb": peak_memory_mb(place),
        "share_passes": 100 * passes.seconds / passes.whole,
        "steps": len(result.history) - 1,
    }


def hardware(device: str) -> str:
    """The machine in words, for the head of a table."""
    machine = environment(torch.device(device))
    name = machine["accelerator"] or machine["cpu"] or platform.machine()
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"{name}, {threads}, torch {machine['version_torch']}, {machine['date'][:10]}"
