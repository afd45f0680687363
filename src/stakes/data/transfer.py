"""Copies between the processor's memory and an accelerator, without waiting for other work."""

from typing import cast

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


class Fetched:
    """Values on their way from an accelerator to the processor.

    ``tensor.tolist()`` waits until all that was queued has been computed. This copy is queued at
    once, and read later: what was queued behind it, such as a backward pass, goes on meanwhile.

    >>> Fetched(torch.tensor([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._copied = values, None
        if values.device.type in ("cuda", "xpu"):
            self._values = values.to("cpu", non_blocking=True)  # to pinned memory
            self._copied = torch.Event(values.device)
            self._copied.record(torch.accelerator.current_stream(values.device))

    def tolist(self) -> list[float]:
        """The values, once they are here."""
        if self._copied is not None:
            self._copied.synchronize()
        return cast("list[float]", self._values.tolist())
