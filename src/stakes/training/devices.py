"""What PyTorch asks each kind of accelerator in another way, and its settings during a run."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

#: What cuBLAS needs to give the same bits each time; it reads this when it is first used.
WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within the block, the same computation on ``device`` gives the same bits each time.

    A processor always does so. On CUDA, sums whose order is left to chance are faster, and many a
    convolution's gradient is one: within the block, PyTorch takes other algorithms, and warns of an
    operation that has none. Settings are as before afterwards; WORKSPACE stays in the environment.

    >>> with repeatable(torch.device("cuda")):
    ...     torch.are_deterministic_algorithms_enabled()
    True
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault(*WORKSPACE)
    memory: Any = torch.utils.deterministic  # the type checker does not know what is in it
    mode, filled = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    timed = torch.backends.cudnn.benchmark
    torch.set_deterministic_debug_mode("warn")
    memory.fill_uninitialized_memory = False  # takes time; nothing here reads such memory
    torch.backends.cudnn.benchmark = False  # it would take what is fastest at that moment
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = timed


@contextmanager
def plain_settings() -> Iterator[None]:
    """Within the block, PyTorch has its own defaults, whatever the caller has set around it.

    Gradients are computed, no pass is in other precision unless it says so, and new tensors are of
    float32, on the processor. Settings are as before afterwards.

    >>> with torch.inference_mode(), plain_settings():
    ...     torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    (True, False)
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as settings:
        settings.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":  # to ask for it makes each operation slower
            settings.enter_context(torch.device("cpu"))
        kinds = [kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.is_autocast_enabled(kind)]
        if kinds:
            settings.enter_context(_no_autocast(kinds))
        settings.enter_context(torch.inference_mode(False))
        settings.enter_context(torch.enable_grad())
        yield


@contextmanager
def _no_autocast(kinds: Iterable[str]) -> Iterator[None]:
    """Within the block, there is no autocast around it on these kinds of devices.

    One within the block is then the outermost, which forgets at its end the weights that it
    converted: the next step has others.
    """
    torch.clear_autocast_cache()
    depth = torch.autocast_increment_nesting()
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    for kind in kinds:
        torch.set_autocast_enabled(kind, False)
    try:
        yield
    finally:
        for kind in kinds:
            torch.set_autocast_enabled(kind, True)
        for _ in range(depth - 1):
            torch.autocast_increment_nesting()


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Within the block, PyTorch's own generators draw from ``seed``: dropout takes no other.

    Those of the processor and of ``device`` are as before afterwards.

    >>> with seeded(torch.device("cpu"), 3):
    ...     drawn = torch.rand(2)
    >>> torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(3)))
    True
    """
    before = drawn(device)
    draw_on({kind: torch.Generator(kind).manual_seed(seed).get_state() for kind in before}, device)
    try:
        yield
    finally:
        draw_on(before, device)


def drawn(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's own generators, of the processor and of ``device``, by their kind."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        place = () if device.type == "mps" else (device,)
        states[device.type] = torch.get_device_module(device).get_rng_state(*place)
    return states


def draw_on(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on from states that :func:`drawn` gave for the same kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu":
        place = () if device.type == "mps" else (device,)
        torch.get_device_module(device).set_rng_state(states[device.type], *place)


def device_name(device: torch.device) -> str | None:
    """What an accelerator calls itself; None for the processor.

    >>> device_name(torch.device("cpu"))
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return str(torch.xpu.get_device_name(device))
    return None if device.type == "cpu" else device.type


def most_held(device: torch.device) -> int:
    """Bytes that an accelerator has held at most; 0 for the processor."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "xpu":
        return int(torch.xpu.max_memory_allocated(device))
    # mps counts what it has taken from the system, which it keeps
    return torch.mps.driver_allocated_memory() if device.type == "mps" else 0
