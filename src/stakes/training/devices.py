"""What PyTorch asks each kind of accelerator in another way."""

import torch


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
