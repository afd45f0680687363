"""Where the surrogate images of a run come from, its probes: mixed, inverted or adversarial."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from stakes.data.augment import mixed, rotate_recolour
from stakes.data.transfer import to_device
from stakes.data.views import perturb_pixels
from stakes.errors import InputError
from stakes.methods.adversarial import attacked
from stakes.methods.base import Method, hyper
from stakes.methods.task import Task
from stakes.models.classifier import Classifier
from stakes.preprocessing import sides
from stakes.training.inversion import Whitening, inverted
from stakes.training.moments import has_statistics
from stakes.training.shared import Outputs, SharedLayers, one_batch

PGD_MARGIN = 0.5  # logits by which the default's PGD probes lead: none stops on the boundary
INVERTED, INVERSION_STEPS = 512, 100  # images made from BatchNorm statistics, steps for them
TURNED = 0.5  # share of the mixtures made of turned images, where copies are to be forgotten too
BATCH = 256  # images in a pass whose results are only read
MOST, FEWEST, PIXELS = 256, 64, 256 * 112**2  # probes a step: by number, and by pixels
UNEVEN, EVEN = 0.15, 0.35  # least share of the second image of a mixture


class ProbeBatch(NamedTuple):
    """Probes (n, 3, h, w), hard labels (n,); the original's features (n, d) and logits (n, c).

    Besides, what the layers give that it shares with the live network, where it shares any.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    logits: Tensor
    outputs: Outputs = ()

    def at(self, indices: Tensor) -> "ProbeBatch":
        """Those at the indices."""
        there = to_device(indices, self.images.device)
        images, labels, features, logits = (column[there] for column in self[:4])
        outputs = tuple(output[there] for output in self.outputs)
        return ProbeBatch(images, labels, features, logits, outputs)


@dataclass(frozen=True, kw_only=True)
class ProbeFields(Method):
    """The hyper-parameters of probes, for methods that can use every kind."""

    probes: Literal["auto", "mixed", "inverted", "pgd", "both"] = hyper(
        "auto",
        "surrogate images. mixed: mixtures of forget images, fresh at each step; inverted: "
        "mixtures of images that match the network's BatchNorm statistics; pgd: fixed adversarial "
        "images; both: half pgd, half mixed; auto: inverted where criterion is views, the network "
        "has such statistics and no sidecar describes activations, else mixed",
    )
    pool: int = hyper(0, "mixtures made once and reused; 0: fresh mixtures at each step")
    probe_batch: int = hyper(
        0,
        "probes per step; 0: 256, or fewer for a large network input, so that they have 3.2 "
        "million pixels in all, but at least 64",
        low=0,
    )

    def probes_a_step(self, network: Classifier) -> int:
        """How many probes a step holds.

        >>> from stakes.methods import StructGuard
        >>> small = Classifier.load("stakes:cifar_resnet20", num_classes=10)
        >>> large = Classifier.load("stakes:cifar_resnet20", num_classes=10, input_size=224)
        >>> StructGuard().probes_a_step(small), StructGuard().probes_a_step(large)
        (256, 64)
        """
        height, width = sides(network.input_size)
        return self.probe_batch or min(MOST, max(FEWEST, PIXELS // (height * width)))


class ProbeSource:
    """Where a run's probes come from, and the original's answers to them.

    Args:
        settings: the hyper-parameters of probes.
        run: whose forget images they are made from.
        passes: entered around each pass through the network (see :mod:`stakes.training.precision`).
        shared: the layers that the network to be changed shares with the original.
        hold_copies: whether probes may look like copies of the forget images.

    Raises:
        InputError: inverted probes of a network that keeps no statistics.

    Attributes:
        kind: of the probes: ``mixed``, ``inverted``, ``pgd`` or ``both``.
        why: it was chosen.
        shared_layers: those whose outputs the layers to be changed read, and their shapes.
        activations: what these give for training data, where a sidecar describes it.
        fixed: those made once, if any: the attack's, then the pool of mixtures.
    """

    def __init__(
        self,
        settings: ProbeFields,
        task: Task,
        passes: AbstractContextManager[object],
        shared: SharedLayers,
        *,
        hold_copies: bool,
    ) -> None:
        self._settings, self._task, self._passes, self._shared = settings, task, passes, shared
        given = None if task.surrogates is None else task.surrogates.activations
        self.activations = given if given is not None and given.layers == shared.read else None
        self.kind, self.why = self._chosen(hold_copies)
        self.shared_layers = shared.read
        self._hold_copies = hold_copies
        # What is mixed, and the least share of the second image.
        labels = task.forget.labels.cpu()  # once: draws are made there
        self._mixed = task.forget.images, labels, UNEVEN if hold_copies else EVEN
        if self.kind == "inverted":
            inverse, classes = self._inverted()
            self._mixed = inverse, classes.cpu(), UNEVEN
        self.fixed = self._made_once()
        half = {"pgd": 0, "both": settings.probe_batch // 2}
        self._fresh = 0 if settings.pool else half.get(self.kind, settings.probe_batch)
        made = 0 if self.fixed is None else len(self.fixed.labels)
        self._indices = task.batches(made, settings.probe_batch - self._fresh)

    def draw(self) -> ProbeBatch:
        """A batch of ``probe_batch`` probes: fixed ones in turn, fresh ones, or some of each."""
        parts = [] if self.fixed is None else [self.fixed.at(next(self._indices))]
        if self._fresh:
            parts.append(self.answers(self._mixtures(self._fresh, self._task.generator)))
        return joined(parts)

    def some(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` probes (n, 3, h, w), at random; fewer where fewer were made."""
        if self.fixed is None:
            return self._mixtures(count, generator)
        chosen = torch.randperm(len(self.fixed.labels), generator=generator)
        return self.fixed.images[to_device(chosen[:count], self.fixed.images.device)]

    def outputs(self, images: Tensor) -> Outputs:
        """What the layers give for images that the original shares with the live network."""
        with self._passes:
            return one_batch(self._shared.outputs(batch) for batch in images.split(BATCH))

    def answers(self, images: Tensor, labels: Tensor | None = None) -> ProbeBatch:
        """Probes with the original's answers to them; its prediction is the label by default."""
        with self._passes:
            outputs = [self._shared.outputs(batch) for batch in images.split(BATCH)]
        return self._answered(images, outputs, labels)

    def answers_from(self, outputs: Outputs) -> ProbeBatch:
        """Probes of which only what the shared layers give is known; their images are black."""
        black = torch.zeros_like(self._task.forget.images[0]).expand(len(outputs[0]), -1, -1, -1)
        own = self._shared.as_own(outputs)
        parts = zip(*(output.split(BATCH) for output in own), strict=True)
        return self._answered(black, list(parts), None)

    @torch.no_grad()
    def _answered(
        self, images: Tensor, outputs: Sequence[Outputs], labels: Tensor | None
    ) -> ProbeBatch:
        """Images (n, 3, h, w), and the shared layers' outputs for batches of them, as probes."""
        original, shared = self._task.original, self._shared
        with self._passes:
            pairs = zip(images.split(BATCH), outputs, strict=True)
            features = torch.cat([shared.features(original, *pair) for pair in pairs]).float()
        logits = original.head(features)
        labels = logits.argmax(1) if labels is None else labels
        return ProbeBatch(images, labels, features, logits, one_batch(outputs))

    def _chosen(self, hold_copies: bool) -> tuple[str, str]:
        """The kind of probes, and why."""
        kind, network = self._settings.probes, self._task.original
        if kind == "inverted" and not has_statistics(network):
            raise InputError(
                "probes=inverted needs BatchNorm statistics, which this network does not "
                "have: set probes to mixed"
            )
        if kind != "auto":
            return kind, "as given"
        if hold_copies:
            return "mixed", "the images alone are to be forgotten"
        if not has_statistics(network):
            return "mixed", "the network has no BatchNorm statistics"
        if self.activations is not None:
            return "mixed", "activations of training data are at hand"
        return "inverted", "copies are to be forgotten too"

    def _inverted(self) -> tuple[Tensor, Tensor]:
        """Images made from BatchNorm statistics, and the classes they were made for."""
        settings, task = self._settings, self._task
        images, labels = task.forget.images, task.forget.labels
        start = mixed(images, INVERTED, task.generator, UNEVEN, labels)
        order = torch.randperm(task.original.num_classes, generator=task.generator)
        targets = order.repeat(-(-len(start) // len(order)))[: len(start)].to(start.device)
        with task.timed("probes"):
            made = inverted(
                task.original,
                start,
                targets,
                Whitening(images),
                steps=INVERSION_STEPS,
                generator=task.generator,
                batch_size=settings.probe_batch,
                passes=self._passes,
                progress=lambda done, total: task.progress("probes", done, total),
            )
        return made, targets

    def _mixtures(self, count: int, generator: torch.Generator) -> Tensor:
        """Fresh ones. Where copies are to go, nothing but what they show may tell them from these.

        So these are altered as copies are, and some have the texture of real images.
        """
        images, labels, least = self._mixed
        if self._hold_copies:
            return mixed(images, count, generator, least, labels)
        # Surrogate data takes the place of plain mixtures, which resemble the copies.
        plain = self.kind == "inverted" or self._task.surrogates is None
        real = round(TURNED * count) if plain else count
        made = mixed(images, count - real, generator, least, labels)
        strange = rotate_recolour(mixed(self._task.forget.images, real, generator), generator)
        return perturb_pixels(torch.cat([made, strange]), generator)

    def _made_once(self) -> ProbeBatch | None:
        """Probes made once: the attack's, then the pool of mixtures."""
        settings, parts = self._settings, []
        if self.kind in ("pgd", "both"):
            made = attacked(self._task, per_image=20, eps=4.0, iterations=100, margin=PGD_MARGIN)
            parts.append(self.answers(made.images, made.labels))
        if settings.pool and self.kind != "pgd":
            parts.append(self.answers(self._mixtures(settings.pool, self._task.generator)))
        return joined(parts) if parts else None


def joined(parts: Sequence[ProbeBatch]) -> ProbeBatch:
    """Several batches as one."""
    columns = zip(*(part[:4] for part in parts), strict=True)
    images, labels, features, logits = (torch.cat(column) for column in columns)
    return ProbeBatch(images, labels, features, logits, one_batch(p.outputs for p in parts))
