"""A small convolutional network that learns 8x8 digits in seconds on a CPU."""

from torch import Tensor, nn


class DigitsCNN(nn.Module):
    """Four 3x3 convolutions with BatchNorm, two halvings, mean over positions, linear head.

    For images (n, 3, h, w) of 8 to 32 pixels a side; 64 features.
    """

    input_size = 16

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _block(3, 32), _block(32, 32), nn.MaxPool2d(2), _block(32, 64), nn.MaxPool2d(2),
            _block(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, c) of images (n, 3, h, w)."""
        logits: Tensor = self.head(self.blocks(images))
        return logits


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def digits_cnn(num_classes: int = 10) -> nn.Module:
    """A :class:`DigitsCNN` with random initial weights.

    >>> sum(p.numel() for p in digits_cnn().parameters())
    66410
    """
    return DigitsCNN(num_classes)
