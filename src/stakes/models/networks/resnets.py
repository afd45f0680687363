"""Residual networks for 32x32 images.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section
4.2 (ResNet-20 and ResNet-56, shortcuts of option A) and table 1 (ResNet-18 and ResNet-50).
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A).

    Where the block halves the image, the shortcut takes every second pixel and fills the new
    channels with zeros, half of them before and half after the old ones.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0) + (self.padding,) * 2)
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels, ``blocks`` blocks each: 6 * blocks + 2 layers.

    The names of its parameters (``conv1``, ``layer1.0.conv1``, ..., ``linear``) are those of the
    trained weights most often passed around for these networks.
    """

    input_size = 32

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, c) of normalised images (n, 3, h, w)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(inputs, outputs, stride), *rest)


def cifar_resnet20(num_classes: int = 10) -> nn.Module:
    """The 20-layer network, 64 features.

    >>> sum(p.numel() for p in cifar_resnet20().parameters())
    269722
    """
    return CifarResNet(3, num_classes)


def cifar_resnet56(num_classes: int = 10) -> nn.Module:
    """The 56-layer network, 64 features."""
    return CifarResNet(9, num_classes)


def cifar_resnet18(num_classes: int = 10, width: float = 1.0) -> nn.Module:
    """Torchvision's ResNet-18 with a stem for small images, ``512 * width`` features.

    >>> sum(p.numel() for p in cifar_resnet18(width=0.5).parameters())
    2797610
    """
    from torchvision import models  # here: its import takes longer than many a run

    network = models.resnet18(weights=None, num_classes=num_classes)
    if width != 1:
        _narrow(network, max(1, round(64 * width)), num_classes)
    return _small_stem(network)


def cifar_resnet18_half(num_classes: int = 10) -> nn.Module:
    """The same with half as many channels everywhere: a quarter of the work, 256 features."""
    return cifar_resnet18(num_classes, width=0.5)


def cifar_resnet18_pooled(num_classes: int = 10) -> nn.Module:
    """The same at full width with torchvision's max-pool behind its 3x3 stem: first stage at 16x16.

    Source: the CIFAR-10 network in the public code of "Stake the Points" (Kiseong0753/StructGuard,
    resnet.py, commit 90a305f) and of L2UL. A quarter of the work of :func:`cifar_resnet18`.
    """
    from torchvision import models

    return _small_stem(models.resnet18(weights=None, num_classes=num_classes), pool=True)


def cifar_resnet50(num_classes: int = 10) -> nn.Module:
    """Torchvision's ResNet-50 with a stem for small images, 2048 features."""
    from torchvision import models

    return _small_stem(models.resnet50(weights=None, num_classes=num_classes))


def _small_stem(network: Any, *, pool: bool = False) -> nn.Module:
    """A 3x3 convolution of stride 1 and no max-pool: 32x32 images would be lost in the usual stem.

    With ``pool`` the max-pool stays.

    Parameter names stay torchvision's.
    """
    channels = network.bn1.num_features
    network.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if not pool:
        network.maxpool = nn.Identity()
    network.__dict__["input_size"] = 32
    small: nn.Module = network
    return small


def _narrow(network: Any, channels: int, num_classes: int) -> None:
    """Make a torchvision ResNet-18 anew behind its stem, with ``channels`` in its first stage."""
    from torchvision.models.resnet import BasicBlock

    network.bn1, network.inplanes = nn.BatchNorm2d(channels), channels
    for stage in range(4):
        blocks = network._make_layer(BasicBlock, channels << stage, 2, 2 if stage else 1)
        setattr(network, f"layer{stage + 1}", blocks)
    network.fc = nn.Linear(network.inplanes, num_classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
