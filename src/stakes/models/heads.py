"""Find the linear layer a network ends in, by running the network, and take it off.

A convolution with a kernel of one pixel, whose output over all pixels is averaged, is one as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stakes.errors import InputError, first_line
from stakes.models.caches import without_caches
from stakes.models.layout import to_channels_last
from stakes.preprocessing import Size, sides


@dataclass(frozen=True)
class Split:
    """A network in two parts: ``head(logits_of(body(images))) == logits_of(network(images))``."""

    body: nn.Module  #: the network with ``nn.Identity`` in place of its head
    head: nn.Linear
    kernel: tuple[int, ...]  #: of the head in the network: (1, 1) for a convolution, else ()
    head_name: str
    channels: int  #: what the network takes: 3, or 1 for grey images
    channels_last: bool  #: whether the body was put into that memory layout


@dataclass
class _Trace:
    """What one run of a network showed: every innermost layer that ran, in order."""

    logits: Tensor
    images: Tensor
    layers: list[tuple[str, nn.Module, Tensor | None, Any]] = field(default_factory=list)


def logits_of(output: Any, name: str = "the network") -> Tensor:
    """The logits in what a network returns: a tensor, ``.logits``, ``["logits"]`` or the first.

    Raises:
        InputError: there are none.

    >>> logits_of((torch.zeros(2, 3), torch.zeros(1))).shape
    torch.Size([2, 3])
    """
    found = output
    if not isinstance(found, Tensor):
        if isinstance(output, Mapping):
            found = output.get("logits")
        else:
            found = getattr(output, "logits", None)
        if found is None and isinstance(output, tuple | list) and output:
            found = output[0]
    if not isinstance(found, Tensor):
        raise InputError(
            f"{name} returns a {type(output).__name__} without logits; "
            "it must return a tensor (n, classes)"
        )
    return found


def find_head(network: nn.Module, *, input_size: int | Size, name: str) -> str:
    """Name of the layer whose output is the output of the network: an ``nn.Linear`` or 1x1 conv.

    Found by running two images of noise through the network in eval mode, in which it stays.

    Raises:
        InputError: the network cannot take such images; it does not end in one linear layer
            (the message names what it ends in).

    >>> find_head(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), input_size=4, name="tiny")
    '1'
    """
    return _head_in(_run(network, input_size, name), name)


def split(network: nn.Module, *, input_size: int | Size, name: str) -> Split:
    """Take the head off a network (which is changed and left in eval mode).

    The network is brought to float32. One with several convolutions is put into the
    ``channels_last`` memory layout, which convolutions on a CPU prefer, unless its code cannot
    work in it.

    Raises:
        InputError: as :func:`find_head`; or the network needs its head for more than the logits.
    """
    network.float()  # half precision has no backward pass on a CPU, and double serves nothing
    without_caches(network)
    trace = _run(network, input_size, name)
    head_name = _head_in(trace, name)
    found = network.get_submodule(head_name)
    head, kernel = as_linear(found)
    _check_no_chance(network, trace, name)
    replace(network, head_name, nn.Identity())
    try:
        with torch.no_grad():
            features = logits_of(network(trace.images))
            same = torch.allclose(head(features), trace.logits, rtol=1e-3, atol=1e-5)
    except Exception as error:  # whatever a network's own code raises
        replace(network, head_name, found)
        raise InputError(
            f"{name} cannot run without its linear layer {head_name!r}: {first_line(error)}; "
            "let it only call that layer, and return what it gives"
        ) from error
    if not same:
        replace(network, head_name, found)
        raise InputError(
            f"{name} uses its linear layer {head_name!r} for more than its output; let the logits "
            "be what this layer gives"
        )
    _check_each_alone(network, features, trace, name)
    channels_last = to_channels_last(network, trace.images)
    return Split(network, head, kernel, head_name, trace.images.shape[1], channels_last)


def as_linear(layer: nn.Module) -> tuple[nn.Linear, tuple[int, ...]]:
    """A head as a linear layer that shares its weights, and the kernel that it had.

    >>> head, kernel = as_linear(nn.Conv2d(8, 5, 1))
    >>> head, kernel
    (Linear(in_features=8, out_features=5, bias=True), (1, 1))
    """
    if isinstance(layer, nn.Linear):
        return layer, ()
    assert isinstance(layer, nn.Conv2d)
    head = nn.utils.skip_init(
        nn.Linear, layer.in_channels, layer.out_channels, bias=layer.bias is not None
    )
    head.weight = _shared(layer.weight, layer.weight.flatten(1))
    if layer.bias is not None:
        head.bias = layer.bias
    return head, layer.kernel_size


def as_found(head: nn.Linear, kernel: tuple[int, ...]) -> nn.Module:
    """The layer that :func:`as_linear` was given, with the weights that ``head`` has now.

    >>> as_found(nn.Linear(8, 5), (1, 1))
    Conv2d(8, 5, kernel_size=(1, 1), stride=(1, 1))
    """
    if not kernel:
        return head
    has_bias = head.bias is not None
    layer: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d, head.in_features, head.out_features, kernel, bias=has_bias
    )
    layer.weight = _shared(head.weight, head.weight[:, :, None, None])
    layer.bias = head.bias
    layer.train(head.training)
    return layer


def _shared(weight: Tensor, view: Tensor) -> nn.Parameter:
    """A view of a weight as a parameter, frozen if the weight is."""
    return nn.Parameter(view.detach(), requires_grad=weight.requires_grad)


def _check_no_chance(network: nn.Module, trace: _Trace, name: str) -> None:
    """Refuse a network that answers at random."""
    with torch.no_grad():
        again = logits_of(network(trace.images), name)
    slack = 1e-3 * float(trace.logits.abs().max()) + 1e-6
    if not torch.allclose(again, trace.logits, rtol=1e-3, atol=slack):
        raise InputError(
            f"{name} gives the same image a different answer each time; switch off random "
            "operations in eval mode, such as functional.dropout without "
            "training=self.training"
        )


def _check_each_alone(body: nn.Module, features: Tensor, trace: _Trace, name: str) -> None:
    """Refuse a network whose answer depends on its company, or which keeps no gradient."""
    try:
        with torch.enable_grad():
            alone = logits_of(body(trace.images[:1]))
    except Exception as error:  # such as BatchNorm of one value
        raise InputError(
            f"{name} cannot take one image alone ({first_line(error)}); BatchNorm without running "
            "statistics needs several: train it with track_running_stats=True"
        ) from error
    slack = 1e-3 * float(features.abs().max()) + 1e-6
    if not alone.requires_grad and any(p.requires_grad for p in body.parameters()):
        raise InputError(
            f"{name} passes no gradient, so it cannot be trained; take .detach(), .data and "
            "torch.no_grad() out of its forward()"
        )
    if not torch.allclose(alone.detach(), features[:1], rtol=1e-3, atol=slack):
        raise InputError(
            f"{name} gives an image a different answer in a different batch, because of "
            "BatchNorm without running statistics or code that mixes a batch; each answer "
            "must depend on its image alone"
        )


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where the submodule called ``name`` was."""
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def _run(network: nn.Module, input_size: int | Size, name: str) -> _Trace:
    """Run noise through the network, of one channel where it does not take three."""
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError(
            f"{name} is a TorchScript program, which cannot be changed; give the Python network "
            "that it was made from, with its state dict"
        )
    weight = next((p for p in network.parameters() if p.is_floating_point()), None)
    if weight is None:
        raise InputError(f"{name} has no floating-point parameters; give a trained network")
    if any(p.is_meta for p in network.parameters()):
        raise InputError(f"{name} has parameters without values (device meta); make it on the CPU")
    network.eval()
    generator = torch.Generator().manual_seed(0)
    height, width = sides(input_size)
    noise = torch.randn(2, 3, height, width, generator=generator, device="cpu").to(weight)
    try:
        return _traced(network, noise, name)
    except InputError:
        raise
    except Exception as error:  # whatever a network's own code raises
        try:
            return _traced(network, noise[:, :1].contiguous(), name)
        except Exception:
            raise InputError(
                f"{name} cannot take images of {height}x{width} pixels "
                f"({first_line(error)}); give the input size it was made for"
            ) from error


def _traced(network: nn.Module, images: Tensor, name: str) -> _Trace:
    trace = _Trace(torch.empty(0), images)

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        first = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        trace.layers.append((names[module], module, first, output))

    names = {module: n for n, module in network.named_modules() if not any(module.children())}
    hooks = [module.register_forward_hook(record) for module in names]
    try:
        with torch.no_grad():
            trace.logits = logits_of(network(images), name)
    finally:
        for hook in hooks:
            hook.remove()
    return trace


def _head_in(trace: _Trace, name: str) -> str:
    """The name of the head in a traced run; see :func:`find_head`."""
    logits = trace.logits
    if logits.ndim != 2 or len(logits) != len(trace.images):
        raise InputError(
            f"{name} returns a tensor of shape {tuple(logits.shape)} for {len(trace.images)} "
            "images; a classifier returns (n, classes), as a tensor, .logits or the first of "
            "several outputs"
        )
    if not bool(logits.isfinite().all()):
        raise InputError(
            f"{name} answers with values that are not finite: its weights (or the variances that "
            "its BatchNorm layers keep) are damaged; give others"
        )
    linear = [
        n
        for n, module, _, y in trace.layers
        if isinstance(module, nn.Linear) and isinstance(y, Tensor) and y.shape == logits.shape
    ]
    heads = [n for n, module, x, y in trace.layers if n and _gives(module, x, y, logits)]
    if heads:
        return heads[-1]
    last, module = next(((n, m) for n, m, _, _ in reversed(trace.layers)), ("", None))
    taken = f"what it returns first, {tuple(logits.shape)}, was taken for the logits"
    ends = f"the last layer that runs is {type(module).__name__} {last!r}"
    computed, _, weight = last.partition(".parametrizations.")
    if weight:
        raise InputError(
            f"the weights of {computed!r}, where {name} ends, are computed by a parametrization; "
            "make them plain before you give the network, with "
            f"torch.nn.utils.parametrize.remove_parametrizations(network.{computed}, "
            f"{weight.partition('.')[0]!r})"
        )
    if not linear:
        raise InputError(
            f"{name} has no linear head: {taken}, but {_last_weights(trace)}; return the output of "
            "one torch.nn.Linear, first or as .logits"
        )
    several = _side_by_side(trace)
    if len(several) > 1:
        raise InputError(
            f"{name} has several heads ({', '.join(several)}) and mixes what they give; "
            "give a network with one linear head, such as a factory that returns one of them"
        )
    where = "in forward()" if last == linear[-1] else ends
    raise InputError(
        f"something follows the linear layer {linear[-1]!r} of {name} ({where}); "
        "let the network return plain logits"
    )


@torch.no_grad()
def _gives(layer: nn.Module, given: Tensor | None, output: Any, logits: Tensor) -> bool:
    """Whether a layer is linear and the logits are its output, or its mean over the pixels."""
    if given is None or not isinstance(output, Tensor):
        return False
    if isinstance(layer, nn.Linear):
        return given.ndim == 2 and torch.equal(output, logits)
    if not isinstance(layer, nn.Conv2d) or output.shape[:2] != logits.shape:
        return False
    alone = layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1
    if not alone or layer.padding not in ((0, 0), "valid", "same"):
        return False
    own = layer(given)  # what follows may have changed the output in place, as activations do
    slack = 1e-4 * float(logits.abs().max())
    return torch.allclose(own.mean(dim=(2, 3)), logits, rtol=1e-4, atol=slack)


def _last_weights(trace: _Trace) -> str:
    """Where a network without a linear head ends, in words."""
    weighted = [(n, m, y) for n, m, _, y in trace.layers if any(True for _ in m.parameters())]
    if not weighted:
        return "no layer with weights runs"
    last, module, output = weighted[-1]
    gives = f", which gives {tuple(output.shape)}" if isinstance(output, Tensor) else ""
    return f"the last layer with weights that runs is {type(module).__name__} {last!r}{gives}"


def _side_by_side(trace: _Trace) -> list[str]:
    """The linear layers, as wide as the logits, that run last and do not feed one another."""
    names: list[str] = []
    reads: list[int] = []
    for name, module, read, output in reversed(trace.layers):
        if isinstance(module, nn.Dropout | nn.Identity):
            continue
        if names and isinstance(module, nn.BatchNorm1d | nn.LayerNorm):  # each may have its own
            reads += [] if read is None else [read.data_ptr()]
            continue
        if not isinstance(module, nn.Linear) or output.shape != trace.logits.shape:
            break
        if output.data_ptr() in reads:
            break
        names.insert(0, name)
        reads += [] if read is None else [read.data_ptr()]
    return names
