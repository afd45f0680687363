"""Copies from the processor's memory to an accelerator, for which the processor does not wait."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``; itself if it is there.

    A plain ``tensor.to("cuda")`` waits until all that was queued before it has been computed, such
    as the last step's backward pass. From pinned memory the copy is queued behind it. PyTorch
    keeps that memory until it is copied, so the tensor may change at once.

    >>> x = torch.arange(3)
    >>> to_device(x, torch.device("cpu")) is x
    True
    """
    if tensor.device.type == "cpu" and device.type in ("cuda", "xpu"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
