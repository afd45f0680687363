"""A small network without BatchNorm for 32x32 images."""

from typing import Any

from torch import nn


def cifar_convnext(num_classes: int = 10) -> nn.Module:
    """A ConvNeXt of about a million weights, 192 features; LayerNorm, no BatchNorm.

    Stages of 48, 96, 160 and 192 channels on 16x16 to 2x2 positions. It differs from the published
    ones in what learns sooner from few images: two 3x3 convolutions as its stem instead of patches,
    depthwise convolutions of 3x3 instead of 7x7, no layer scale, PyTorch's own initial weights.

    Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022, in timm's implementation.

    >>> sum(p.numel() for p in cifar_convnext().parameters())
    1132778
    """
    from timm.models.convnext import ConvNeXt  # here: its import takes longer than many a run

    stem, *_ = dims = (48, 96, 160, 192)
    network: Any = ConvNeXt(
        num_classes=num_classes, depths=(2, 2, 2, 1), dims=dims, patch_size=2, kernel_sizes=3,
        ls_init_value=None,
    )  # fmt: skip
    network.stem[0] = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, stem, 3, stride=2, padding=1)
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    network.input_size = 32
    made: nn.Module = network
    return made
