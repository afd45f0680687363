"""The memory layout in which a network runs."""

import torch
from torch import Tensor, nn


def to_channels_last(network: nn.Module, images: Tensor) -> bool:
    """Put a network into the ``channels_last`` layout, if it gains by it and can work in it.

    Returns whether it was; else the network has the usual layout.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if len(convolutions) < 2:  # transformers have one, and lose by it
        return False
    if any(_corrupts(convolution) for convolution in convolutions):
        return False
    try:
        network.to(memory_format=torch.channels_last)  # fails on the weights of a Conv3d
        with torch.no_grad():
            network(images.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # code that calls .view() on feature maps needs the usual layout
        network.to(memory_format=torch.contiguous_format)
        return False
    return True


def _corrupts(convolution: nn.Conv2d) -> bool:
    """Whether PyTorch's backward pass on a CPU may write beyond its memory in ``channels_last``.

    Seen with PyTorch 2.15 where fewer than 16 channels meet a kernel of one pixel and a stride:
    the first layers of RepVGG and FastViT. The process dies of it now and then.
    """
    alone, strided = convolution.kernel_size == (1, 1), max(convolution.stride) > 1
    return alone and strided and convolution.in_channels < 16
