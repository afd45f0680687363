"""Small networks that no library carries: ``MODELS[name](num_classes)``.

Each network has an attribute ``input_size``, the side in pixels of the square images it is made
for; a network in a file of your own may have one as well, and ``mean`` and ``std``.
"""

from collections.abc import Callable

from torch import nn

from stakes.models.networks.convnext import cifar_convnext
from stakes.models.networks.digits import digits_cnn
from stakes.models.networks.resnets import (
    cifar_resnet18,
    cifar_resnet18_half,
    cifar_resnet18_pooled,
    cifar_resnet20,
    cifar_resnet50,
    cifar_resnet56,
)

#: Name -> the network with random initial weights and so many classes.
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "cifar_convnext": cifar_convnext,
    "cifar_resnet18": cifar_resnet18,
    "cifar_resnet18_half": cifar_resnet18_half,
    "cifar_resnet18_pooled": cifar_resnet18_pooled,
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet50": cifar_resnet50,
    "cifar_resnet56": cifar_resnet56,
    "digits_cnn": digits_cnn,
}
