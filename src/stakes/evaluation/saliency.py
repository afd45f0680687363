"""Grad-CAM: what in an image supports a class."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stakes.models.classifier import Classifier
from stakes.training import distributed


def grad_cam(network: Classifier, images: Tensor, classes: Tensor) -> Tensor | None:
    r"""Grad-CAM maps of images for given classes: (n, h, w), at least 0.

    relu(\sum_j w_j A_j) with A the network's last feature map and w_j the mean over places of the
    gradient of the class's logit by A_j (Selvaraju et al., ICCV 2017, equations 1 and 2), enlarged
    bilinearly to the image. Zero everywhere if nothing supports the class.

    Args:
        network: in eval mode; its gradients and BatchNorm statistics stay as they are.
        images: (n, 3, h, w) in [0, 1].
        classes: int64 (n,).

    Returns:
        None for a network without a feature map, such as one that works on tokens.
    """
    layer = last_map(network, images[:1])
    if layer is None:
        return None
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        # By the input, so that a frozen network has gradients too.
        with distributed.alone(), torch.enable_grad():
            logits = network(images.detach().clone().requires_grad_())
            total = logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(total, outputs[-1])
    finally:
        hook.remove()
    maps = F.relu((gradient.mean((2, 3), keepdim=True) * outputs[-1].detach()).sum(1, keepdim=True))
    return F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def last_map(network: Classifier, image: Tensor) -> nn.Module | None:
    """The module with the last feature map (1, channels, s, s), s > 1; None if tokens follow it."""
    last: list[nn.Module | None] = [None]

    def check(module: nn.Module, inputs: Any, output: Any) -> None:
        shape = output.shape if isinstance(output, Tensor) else ()
        if len(shape) == 4 and shape[2] == shape[3] > 1:
            last[0] = module
        elif len(shape) == 3 or (len(shape) == 4 and shape[2] != shape[3]):
            last[0] = None  # tokens, or channels last: which axis holds the channels is unknown

    hooks = [part.register_forward_hook(check) for part in network.body.modules()]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return last[0]


def overlay(image: Tensor, heat: Tensor) -> Tensor:
    """An image (3, h, w) in grey with a heat map (h, w) in [0, 1] over it in orange."""
    grey = 0.85 * image.mean(0, keepdim=True).expand(3, -1, -1)
    orange = torch.tensor([1.0, 0.45, 0.0]).to(image)[:, None, None]
    strength = 0.75 * heat
    return (1 - strength) * grey + strength * orange
