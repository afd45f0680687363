"""The layers before the first that changes: two networks have them, so one pass serves both."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stakes.data.activations import Layers
from stakes.models.classifier import Classifier
from stakes.training import sharding

Outputs = tuple[Tensor, ...]  # each (n, ...): what later layers read of the shared ones


def one_batch(parts: Iterable[Outputs]) -> Outputs:
    """The outputs of several batches of images as those of one."""
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


class SharedLayers:
    """Passes images once through the layers that an original and its trained copy share.

    Where only the layers nearest the head are trained, every module called before the first of
    these has the same weights and the same input in both networks. Its output is computed once,
    and both passes continue from there. That needs no graph of the network: during such a pass
    the shared modules return their known outputs instead of computing them.

    Where passes are divided (:attr:`stakes.models.classifier.Classifier.across`), images and
    outputs are divided alike. Nothing is shared, and images pass as ever, where a trial on three
    images gives other features in a single bit, or where weights are divided. The shared layers
    end at the latest with a module that returns anything but one tensor with a row for each image.

    Args:
        original: the network before training.
        live: its copy, no weight changed yet; what is to be trained requires a gradient.
        image: (3, h, w), for the trial.
    """

    def __init__(self, original: Classifier, live: Classifier, image: Tensor) -> None:
        self._original = original
        self._calls: list[_Call] = []
        if live.training or sharding.is_wanted():
            return
        self._layers = _Layers.of(live.body)
        trial = torch.stack([image, image / 2, image / 4])
        self._calls = self._found(trial)
        if not (any(call.read for call in self._calls) and self._agree(live, trial)):
            self._calls = []

    @property
    def works(self) -> bool:
        """Whether anything is shared."""
        return bool(self._calls)

    @property
    def read(self) -> Layers:
        """The shared layers whose outputs others read: their names, and the shapes of these."""
        return tuple((call.name, tuple(call.row.shape)) for call in self._calls if call.read)

    def as_own(self, outputs: Outputs) -> Outputs:
        """Outputs from elsewhere, on the device and in the number format of its own."""
        rows = (call.row for call in self._calls if call.read)
        return tuple(output.to(row) for output, row in zip(outputs, rows, strict=True))

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Outputs:
        """What the shared layers give for images (n, 3, h, w); () where nothing is shared."""
        if not self.works:
            return ()
        across = Classifier.across
        if across is None:
            return self._outputs(images)

        def passed(rows: Tensor) -> Tensor:
            return torch.cat([output.flatten(1) for output in self._outputs(images[rows])], dim=1)

        shapes = [torch.Size(shape) for _, shape in self.read]
        found = across(self._original, passed, _indices(images))
        parts = found.split([shape.numel() for shape in shapes], dim=1)
        return self.as_own(tuple(p.unflatten(1, s) for p, s in zip(parts, shapes, strict=True)))

    def features(self, network: Classifier, images: Tensor, outputs: Outputs) -> Tensor:
        """Features (n, d) of images (n, 3, h, w) by either network, from their outputs on."""
        if not self.works:
            return network.features(images)
        across = Classifier.across
        if across is None:
            return self._continued(network, images, outputs)

        def passed(rows: Tensor) -> Tensor:
            own = tuple(output[rows] for output in outputs)
            return self._continued(network, images[rows], own)

        return across(network, passed, _indices(images))

    def _outputs(self, images: Tensor) -> Outputs:
        """The outputs of images that pass at once."""
        outputs: list[Tensor] = []
        calls = iter(self._calls)

        def keep(name: str, output: Tensor) -> None:
            call = next(calls, None)
            if call is None:
                raise _Enough
            if call.read:
                outputs.append(output.clone())

        self._pass(images, keep)
        return tuple(outputs)

    def _continued(self, network: Classifier, images: Tensor, outputs: Outputs) -> Tensor:
        """The features of images that pass at once."""
        known = iter(outputs)
        returns: dict[str, deque[Callable[[], Tensor]]] = defaultdict(deque)
        for call in self._calls:
            blank = partial(call.row.new_zeros, (len(images), *call.row.shape))
            # A copy, since what follows may change it in place, and the outputs are used again.
            returns[call.name].append(next(known).clone if call.read else blank)
        with ExitStack() as replaced:
            for name, queue in returns.items():
                replaced.enter_context(_returning(network.body.get_submodule(name), queue))
            return network.passed(images)

    def _found(self, images: Tensor) -> list["_Call"]:
        """The calls of shared modules, up to the first that does not fit, and who reads them."""
        found: list[tuple[str, Tensor]] = []

        def keep(name: str, output: Any) -> None:
            if not _has_rows(output, len(images)):
                raise _Enough
            found.append((name, output))

        with torch.no_grad():
            self._pass(images, keep)
        if not found:
            return []
        self._calls = [_Call(name, output[0], read=True) for name, output in found]
        leaves = tuple(output.detach().clone().requires_grad_() for _, output in found)
        return [
            _Call(name, output[0].clone(), read)
            for (name, output), read in zip(found, self._are_read(images, leaves), strict=True)
        ]

    @torch.enable_grad()
    def _are_read(self, images: Tensor, outputs: Outputs) -> list[bool]:
        """Whether a layer that is not shared reads each of the outputs of all calls."""
        try:
            total = self._continued(self._original, images, outputs).sum()
            gradients = torch.autograd.grad(total, outputs, allow_unused=True)
        except RuntimeError:  # the network changes in place what a gradient needs: keep all
            return [True] * len(outputs)
        return [gradient is not None for gradient in gradients]

    @torch.no_grad()
    def _agree(self, live: Classifier, images: Tensor) -> bool:
        """Whether both networks give the same bits with the calls as without."""
        plain, outputs = self._original.passed(images), self._outputs(images)
        both = (self._continued(network, images, outputs) for network in (self._original, live))
        return all(torch.equal(plain, features) for features in both)

    def _pass(self, images: Tensor, keep: Callable[[str, Any], None]) -> None:
        """Pass images through the original up to the first module that changes.

        ``keep`` gets name and output of every shared module, as they are called.
        """
        modules = dict(self._original.body.named_modules())
        with ExitStack() as hooks, suppress(_Enough):
            for name in self._layers.shared:
                hook = partial(_passed_on, keep, name)
                hooks.enter_context(modules[name].register_forward_hook(hook))
            for name in self._layers.entered:
                hooks.enter_context(modules[name].register_forward_pre_hook(_stop))
            for name in self._layers.left:
                hooks.enter_context(modules[name].register_forward_hook(_stop))
            self._original.passed(images)


@dataclass(frozen=True)
class _Call:
    """A call of a shared module.

    Attributes:
        name: of the module within the body.
        row: its output (...) for some image: the shape of what it returns where nothing reads it.
        read: whether a layer that is not shared reads the output.
    """

    name: str
    row: Tensor
    read: bool


@dataclass(frozen=True)
class _Layers:
    """The modules of a network, by name, in which something is trained or nothing is.

    Attributes:
        shared: the largest in which nothing is trained.
        entered: those with weights of their own that are: what they call may depend on these.
        left: those with any that are, such as an attention that reads a weight of its part.
    """

    shared: list[str]
    entered: list[str]
    left: list[str]

    @classmethod
    def of(cls, body: nn.Module) -> "_Layers":
        """Those of a network, each once."""
        layers, seen = cls([], [], []), set[nn.Module]()

        def walk(name: str, module: nn.Module) -> None:
            if module in seen:
                return
            seen.add(module)
            if not any(p.requires_grad for p in module.parameters()):
                layers.shared.append(name)
                return
            layers.left.append(name)
            if any(p.requires_grad for p in module.parameters(recurse=False)):
                layers.entered.append(name)
            for child, part in module.named_children():
                walk(f"{name}.{child}" if name else child, part)

        walk("", body)
        return layers


class _Enough(Exception):
    """The pass has come to the end of what is shared."""


def _indices(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device)


def _stop(*args: Any) -> None:
    raise _Enough


def _passed_on(
    keep: Callable[[str, Any], None], name: str, module: nn.Module, given: Any, output: Any
) -> None:
    keep(name, output)


def _has_rows(output: Any, count: int) -> bool:
    """Whether a module's output is one tensor of numbers with a row for each of the images."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    return output.ndim > 0 and len(output) == count


@contextmanager
def _returning(module: nn.Module, outputs: deque[Callable[[], Tensor]]) -> Iterator[None]:
    """Within the block, the module's next calls return these, and compute nothing."""
    compute = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return outputs.popleft()() if outputs else compute(*args, **kwargs)

    own = "forward" in vars(module)
    module.forward = forward
    try:
        yield
    finally:
        if own:
            module.forward = compute
        else:
            del module.forward
