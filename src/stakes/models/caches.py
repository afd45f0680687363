"""Networks that keep what they computed from their weights."""

from typing import Any

from torch import nn

#: Where the LeViTs of timm and transformers, and networks built like them, keep it in eval mode.
CACHE = "attention_bias_cache"


def without_caches(network: nn.Module) -> None:
    """Let a network compute from its weights, at each pass, what it would keep in eval mode.

    What is kept is wrong once the weights change, and has either no gradient or the graph of an
    earlier step. The state dict stays as it is.
    """
    for module in network.modules():
        if isinstance(getattr(module, CACHE, None), dict):
            _empty(module)
            module.register_forward_hook(_empty, always_call=True)


def _empty(module: nn.Module, *_: Any) -> None:
    """Put an empty cache in place: moving a network may have put another there since."""
    setattr(module, CACHE, {})
