"""A network as it is before any training."""

from typing import Any

import torch
from torch import nn

from stakes.errors import InputError, some


@torch.no_grad()
def fresh(network: nn.Module, generator: torch.Generator) -> None:
    """Give every layer the weights it starts with, but for frozen parameters.

    Raises:
        InputError: a parameter that is not frozen belongs to a layer that cannot be reset.
    """
    stuck = [
        f"{name}.{own}" if name else own
        for name, module in network.named_modules()
        if not callable(getattr(module, "reset_parameters", None))
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad
    ]
    if stuck:
        raise InputError(
            f"cannot reinitialise {some(stuck)}: this layer has no reset_parameters(); freeze "
            "it, or take another network"
        )
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    with torch.random.fork_rng():  # layers draw from the global generator
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for module in network.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    parameters = dict(network.named_parameters())
    for name, value in frozen.items():
        parameters[name].copy_(value)
