"""Means and variances of what normalising layers are given: what a network makes of its data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stakes.models.classifier import Classifier

Moments = Mapping[str, Tensor]
"""Name of a layer -> mean and variance of its input over data, channel by channel (2, channels)."""
Layers = Mapping[nn.Module, tuple[Tensor, Tensor, float]]
"""A layer -> mean and variance of its input, and the constant that is added to the variance."""
NORMALISING = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
EPS = 1e-5


def has_statistics(network: nn.Module) -> bool:
    """Whether any layer keeps running statistics of the data that the network was trained on."""
    return bool(running(network))


def running(network: nn.Module) -> Layers:
    """What the BatchNorm layers of a network keep of its training data."""
    return {
        layer: (layer.running_mean, layer.running_var, layer.eps)
        for layer in network.modules()
        if isinstance(layer, _BatchNorm)
        and layer.running_mean is not None
        and layer.running_var is not None
    }


def placed(network: nn.Module, moments: Moments) -> Layers:
    """The layers of a network by whose names moments are stored."""
    layers = dict(network.named_modules())
    device = next(network.parameters()).device
    return {layers[n]: (m[0].to(device), m[1].to(device), EPS) for n, m in moments.items()}


@torch.no_grad()
def observed(
    network: Classifier, batches: Iterable[Tensor], each: Callable[[Tensor], None]
) -> dict[str, Tensor]:
    """The moments of the inputs of all normalising layers over data.

    Args:
        network: in eval mode.
        batches: of images (n, 3, h, w) in [0, 1].
        each: called with the features (n, d) of every batch.
    """
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def note(name: str, layer: nn.Module, x: Tensor) -> None:
        rows = channels(layer, x).double()
        count, total, squares = sums.get(name, (0, torch.zeros(()), torch.zeros(())))
        squares = squares + rows.square().sum(0).cpu()
        sums[name] = count + len(rows), total + rows.sum(0).cpu(), squares

    modules = network.named_modules()
    names: dict[nn.Module, str] = {m: name for name, m in modules if isinstance(m, NORMALISING)}
    with watched(names, lambda layer, x: note(names[layer], layer, x)):
        for images in batches:
            each(network.features(images))
    return {
        name: torch.stack([total / n, (squares / n - (total / n).square()).clamp_min(0)]).float()
        for name, (n, total, squares) in sums.items()
    }


@contextmanager
def watched(
    layers: Iterable[nn.Module], see: Callable[[nn.Module, Tensor], None]
) -> Iterator[None]:
    """Show ``see`` each of the layers and its input, in passes of the block."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(layer, inputs[0])

    hooks = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def mismatch(layer: nn.Module, x: Tensor, stored: tuple[Tensor, Tensor, float]) -> Tensor:
    """How far the moments of a layer's input are from those stored, in variances; a mean."""
    aim, spread, eps = stored
    rows = channels(layer, x).float()
    mean = rows.mean(0)
    variance = (rows.square().mean(0) - mean.square()).clamp_min(0) + eps
    spread = spread + eps
    far = (mean - aim).square() + (variance.sqrt() - spread.sqrt()).square()
    return (far / spread).mean()


def channels(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's input with channels in columns: sums over rows are the fastest there are.

    >>> channels(nn.LayerNorm(3), torch.zeros(2, 5, 3)).shape
    torch.Size([10, 3])
    >>> channels(nn.BatchNorm2d(3), torch.zeros(2, 3, 4, 4)).shape
    torch.Size([32, 3])
    """
    last = isinstance(layer, nn.LayerNorm) and layer.normalized_shape[-1] == x.shape[-1]
    return (x if last else x.movedim(1, -1)).flatten(0, -2)
