"""L-CODEC: a Newton step on the few filters that an image's loss depends on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log, sqrt
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stakes.methods.base import hyper
from stakes.methods.retaining import RetainFields, retained_in_order
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.training.checkpoint import State
from stakes.training.dependence import foci
from stakes.training.loop import FORGOTTEN, Ending, History, complete

NEARBY = 1e-3  # step of SGD to the second point at which a gradient is taken

Gradients = dict[str, Tensor]


class Tally(State):
    """What the steps add up to: accuracy on retained data, steps undone, filters moved."""

    saved = ("known", "undone", "filters")

    def __init__(self, known: float) -> None:
        self.known, self.undone, self.filters = known, 0, 0


@dataclass(frozen=True, kw_only=True)
class LCODEC(RetainFields):
    """``theta_S <- theta_S + (H + lambda I)^-1 g / (n - 1) + noise``, for one image after another.

    Mehta et al., "Deep Unlearning via Randomized Conditionally Independent Hessians", CVPR 2022. S
    are the filters and units whose mean activation the image's loss depends on, found by FOCI over
    noisy copies of it; g is the gradient of its loss, n the size of the training set and
    ``H = (n H_D - H_x) / (n - 1)``. Each Hessian has rank one, ``dg dg' / |dtheta|_1``, from
    gradients at two points near each other. The noise is that of Sekhari et al. (NeurIPS 2021),
    for epsilon and delta. BatchNorm is in eval mode. A step that costs too much accuracy is undone.

    For large n the step is almost zero: it approximates the network trained without the image,
    which usually still recognises it.

    Differences from the authors' code: H_D is of a sample of the retained data at the network and
    a step of SGD from it, where theirs keeps gradients of the last two epochs of training (with the
    PyTorch of its time, a multiple of each one's last batch); H_x is of gradients at two points, as
    in theirs for faces, where that for CIFAR-10 reads the first one again (with that PyTorch,
    zeroed by then) and the same point; each layer has its own gradient, where theirs confuses
    layers that are printed alike; a step is judged on the sample, where theirs has validation data.
    lambda is that of its script for CIFAR-10: with its default of .001, the noise has a standard
    deviation of 6.
    """

    title: ClassVar[str] = "L-CODEC"

    retain_samples: int = hyper(1000, "retained images that H_D is estimated from; 0: all")
    perturbations: int = hyper(1000, "noisy copies of each image", "public code", low=3)
    noise: float = hyper(
        0.1, "standard deviation of their noise, in normalised pixels", "public code"
    )
    damping: float = hyper(0.01, "lambda, added to the Hessian", "public code, CIFAR-10", above=0)
    epsilon: float = hyper(0.1, "epsilon of the noise on the weights", "public code", above=0)
    delta: float = hyper(0.01, "delta of the noise on the weights", "public code", above=0, high=1)
    max_drop: float = hyper(
        5.0,
        "largest loss of accuracy in one step, in points; a step that costs more is undone",
        "public code",
    )
    max_steps: int = hyper(0, "most forget images processed; 0: all")

    def unlearn(self, task: Task) -> Unlearned:
        """Take a step for one forget image after another."""
        live = task.live
        with task.timed("importance"):
            whole = two_gradients(live, lambda: gradients(live, retained_in_order(task)))
            tally = Tally(accuracy(live, retained_in_order(task)))
        count = min(len(task.forget), self.max_steps or len(task.forget))
        with task.timed("unlearn"):
            history, ending = self._images(task, whole, tally, count)
        return task.result(
            history,
            ending,
            chosen={"filters_an_image": tally.filters / count, "steps_taken_back": tally.undone},
        )

    def _images(
        self, task: Task, whole: tuple[Gradients, Gradients], tally: Tally, count: int
    ) -> tuple[History, Ending]:
        """The steps of the first ``count`` forget images, from the one a checkpoint reached."""
        monitor, saved = task.monitor(), task.checkpoint
        saved.keep(task.live, tally)
        done, history, note = saved.restore(count)
        task.progress("interrupted run" if note else "unlearning", done, count, note)
        if saved.ending:
            return history, Ending.of(saved.ending)
        history = history or [{"step": 0.0} | monitor.check(task.live).row()]
        for place in range(done, count):
            self._image(task, place, whole, tally)
            history.append({"step": place + 1.0} | monitor.check(task.live).row())
            task.progress("unlearning", place + 1, count)
            if place + 1 < count:
                saved.save(place + 1, history)
        still = history[-1]["forget_accuracy"]
        ending = complete(f"a step for each of {count} images", still) if still else FORGOTTEN
        saved.end(history, ending.words())
        return history, ending

    def _image(
        self, task: Task, place: int, whole: tuple[Gradients, Gradients], tally: Tally
    ) -> None:
        """The step of one forget image, undone if it costs too much."""
        image, label = task.forget.images[[place]], task.forget.labels[[place]]
        slices = self._slices(task, image, label)
        before = {n: p.detach().clone() for n, p in task.trainable().items()}
        self._step(task, image, label, slices, whole)
        left = accuracy(task.live, retained_in_order(task))
        if tally.known - left > self.max_drop:
            put_back(task.live, before)
            tally.undone += 1
        else:
            tally.known = left
        tally.filters += sum(len(rows) for rows in slices.values())

    def _slices(self, task: Task, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The filters that the loss depends on, by the name of their layer."""
        layers = {
            name: module
            for name, module in task.live.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.requires_grad
        }
        shape = (self.perturbations, *image.shape[1:])
        noise = torch.randn(shape, generator=task.generator).to(image)
        copies = image + self.noise * task.live.std * noise
        activations, losses = mean_activations(task.live, layers, copies, label)
        places = [(name, i) for name, found in activations.items() for i in range(found.shape[1])]
        chosen: dict[str, list[int]] = {}
        for column in foci(torch.cat([*activations.values()], dim=1), losses):
            name, place = places[column]
            chosen.setdefault(name, []).append(place)
        return {
            name: torch.tensor(filters, device=image.device) for name, filters in chosen.items()
        }

    def _step(
        self,
        task: Task,
        image: Tensor,
        label: Tensor,
        slices: Mapping[str, Tensor],
        retained: tuple[Gradients, Gradients],
    ) -> None:
        """Move the chosen filters up the loss of the image."""
        n = task.training_size
        single = two_gradients(task.live, lambda: gradients(task.live, [(image, label)]))
        whole_root, single_root = (
            root_of_hessian(*(vector(part, slices) for part in pair)) for pair in (retained, single)
        )
        g = vector(single[0], slices)
        step = solve(
            g, sqrt(n / (n - 1)) * whole_root, sqrt(1 / (n - 1)) * single_root, self.damping
        )
        noise = torch.randn(len(g), generator=task.generator).to(g)
        scale = noise_scale(n, self.damping, self.epsilon, self.delta)
        add(task.live, slices, step / (n - 1) + scale * noise)


def noise_scale(n: int, damping: float, epsilon: float, delta: float) -> float:
    """Standard deviation of the noise on the weights (Sekhari et al., NeurIPS 2021).

    ``2 M / (n^2 lambda^3 epsilon) sqrt(2 ln(1.25 / delta))`` for one image, with M = 1/4, as public
    code takes for the cross-entropy, of Lipschitz constant 1.

    >>> round(noise_scale(50_000, 0.001, 0.1, 0.01), 1)
    6.2
    """
    return 0.5 / (n**2 * damping**3 * epsilon) * sqrt(2 * log(1.25 / delta))


def solve(g: Tensor, plus: Tensor, minus: Tensor, damping: float) -> Tensor:
    """``(damping I + plus plus' - minus minus')^-1 g`` for vectors (p,), by Woodbury's identity.

    >>> solve(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5]), 1.0)
    tensor([1., 4.])
    """
    both = torch.stack([plus, minus], dim=1).double()
    inner = damping * torch.diag(both.new_tensor([1.0, -1.0])) + both.T @ both
    right: Tensor = torch.linalg.solve(inner, both.T @ g.double())
    return (g.double() - both @ right).div(damping).to(g)


def root_of_hessian(gradient: Tensor, change: Tensor) -> Tensor:
    """The vector r (p,) of the Hessian ``r r'``, from how a step along the gradient changes it."""
    moved = NEARBY * gradient.abs().sum()
    return change / moved.sqrt() if moved > 0 else torch.zeros_like(change)


def gradients(network: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> Gradients:
    """The gradient of the mean CE over all images of the batches, by the parameter's name."""
    parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
    total, count = {name: torch.zeros_like(p) for name, p in parameters.items()}, 0
    for images, labels in batches:
        loss = F.cross_entropy(network(images), labels, reduction="sum")
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for value, gradient in zip(total.values(), found, strict=True):
            value += 0 if gradient is None else gradient
        count += len(labels)
    return {name: value / count for name, value in total.items()}


def two_gradients(
    network: Classifier, gradient: Callable[[], Gradients]
) -> tuple[Gradients, Gradients]:
    """The gradient here, and that minus the one a step of SGD from here; nothing has moved."""
    here = gradient()
    parameters = {name: network.get_parameter(name) for name in here}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.sub_(NEARBY * here[name])
    there = gradient()
    put_back(network, before)
    return here, {name: here[name] - there[name] for name in here}


@torch.no_grad()
def put_back(network: Classifier, before: Mapping[str, Tensor]) -> None:
    """Give the network's parameters these values."""
    for name, value in before.items():
        network.get_parameter(name).copy_(value)


def vector(tensors: Mapping[str, Tensor], slices: Mapping[str, Tensor]) -> Tensor:
    """The chosen rows of weights and biases, layer by layer, in one vector (p,)."""
    parts = [tensors[name][rows].flatten() for name, rows in _rows(tensors, slices)]
    return torch.cat(parts)


@torch.no_grad()
def add(network: Classifier, slices: Mapping[str, Tensor], step: Tensor) -> None:
    """Add a vector (p,) to the chosen rows, in the order of :func:`vector`."""
    parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
    for name, rows in _rows(parameters, slices):
        size = parameters[name][rows].numel()
        parameters[name][rows] += step[:size].view_as(parameters[name][rows])
        step = step[size:]


def _rows(names: Iterable[str], slices: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    known = set(names)
    pairs = [(f"{name}.{own}", rows) for name, rows in slices.items() for own in ("weight", "bias")]
    return [(name, rows) for name, rows in pairs if name in known]


def mean_activations(
    network: Classifier, layers: Mapping[str, nn.Module], images: Tensor, label: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Mean activation of each filter (n, filters) by the layer's name, and the losses (n,)."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, layer: nn.Module, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            output = output.mean((2, 3))
        elif output.ndim > 2:  # of every token
            output = output.flatten(1, -2).mean(1)
        seen[name].append(output)

    hooks = [
        layer.register_forward_hook(lambda module, _, output, name=name: keep(name, module, output))
        for name, layer in layers.items()
    ]
    losses = []
    with torch.no_grad():
        for part in images.split(100):
            losses.append(F.cross_entropy(network(part), label.expand(len(part)), reduction="none"))
    for hook in hooks:
        hook.remove()
    found = {name: torch.cat(parts) for name, parts in seen.items() if parts}
    return found, torch.cat(losses)


@torch.no_grad()
def accuracy(network: Classifier, shown: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Percent of the images of all batches that the network gives their class."""
    hits = [network(images).argmax(1) == labels for images, labels in shown]
    return 100 * float(torch.cat(hits).float().mean())
