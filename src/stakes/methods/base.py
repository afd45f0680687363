"""What every method is and returns; no method's own mathematics is here."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import torch
from torch import Tensor

from stakes.anchor_sources import resolve_anchors
from stakes.anchors import Anchors
from stakes.checkpoint import Checkpoint, surroundings
from stakes.classifier import Classifier
from stakes.data import Images
from stakes.errors import InputError
from stakes.files import tensor_digest
from stakes.forget import ForgetSet
from stakes.loop import Batches, History, Watch, minimise
from stakes.losses import deletion_ce
from stakes.pace import Pace
from stakes.probes import mixed
from stakes.progress import Report, Stopwatch, silent
from stakes.retained import retained
from stakes.structure import MapKind, place_anchors
from stakes.views import drawn

T = TypeVar("T")
WATCH_PROBES = 64
FEWEST_LAYERS = 6  # a shallow network needs all it has


def hyper(
    default: T, doc: str, source: str = "", *, low: float | None = 0, high: float | None = None
) -> T:
    """A hyper-parameter: a dataclass field with its meaning, unit, source and bounds.

    The command line, ``--help`` and the report read them from here.
    """
    metadata = {"doc": doc, "source": source, "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Unlearned:
    """What a method returns.

    Attributes:
        classifier: the deployed path, with the architecture that ``deploy`` asked for.
        history: a row per step (see :func:`stakes.loop.minimise`).
        stop_reason: why the loop ended; it starts with ``forgotten`` where it succeeded.
        seconds: wall-clock seconds by phase (``probes``, ``importance``, ``unlearn``).
        stakes: (c, d) anchors in feature space that the structure was measured with.
        other: the path that is not deployed, by its name; empty without a projector.
        chosen: what the method chose by itself, and why.
        earlier: of the seconds, those of an interrupted run that this one went on from.
    """

    classifier: Classifier
    history: History
    stop_reason: str
    seconds: dict[str, float]
    stakes: Tensor
    other: dict[str, Classifier] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    earlier: float = 0.0


class Run:
    """One call of a method: copies of the network, a generator, the stakes, the clock.

    Attributes:
        original: the classifier before unlearning, frozen, in eval mode.
        live: the copy to change, in eval mode.
        forget: the pictures, on the network's device, in an order that is theirs alone.
        retain: retained pictures, none of them to be forgotten (see :mod:`stakes.retained`).
        training_size: pictures in the training set, where the method sees any of it.
        stakes: (c, d) anchors in the feature space.
        generator: the only source of randomness.
        report: progress.
        timed: ``with run.timed(phase)`` adds the seconds of a block to a phase.
        checkpoint: keeps what changes from step to step, besides what the loop adds itself.
    """

    def __init__(
        self,
        classifier: Classifier,
        forget: ForgetSet,
        anchors: Anchors | str | None,
        seed: int,
        report: Report,
        anchor_map: MapKind,
    ) -> None:
        self.original = classifier.copy().eval().requires_grad_(False)
        self.live = classifier.copy().eval()
        self.forget = forget.in_one_order().to(classifier.device)
        self._retain: Images | None = None
        self.training_size = len(self.forget)
        self.report = report
        self.generator = torch.Generator().manual_seed(seed)
        self._stopwatch = Stopwatch()
        self.timed = self._stopwatch.timed
        self.checkpoint = Checkpoint()
        self.stakes = place_anchors(
            resolve_anchors(classifier, anchors, forget, seed).vectors.to(classifier.device),
            self.original.head.weight,
            kind=anchor_map,
            seed=seed,
        )
        self._watch_generator = torch.Generator().manual_seed(seed + 1)
        self._watch_probes = mixed(self.forget.images, WATCH_PROBES, self._watch_generator)

    @property
    def retain(self) -> Images:
        """Retained pictures, none of them to be forgotten.

        Raises:
            RuntimeError: the method does not declare that it needs them.
        """
        if self._retain is None:
            raise RuntimeError("only a method with needs_retain = True sees retained data")
        return self._retain

    def take_retained(self, images: Images, samples: int) -> None:
        """Draw what the method is to see of the training data, the forget images left out."""
        self.training_size = len(images)
        self._retain = retained(
            images,
            self.forget,
            samples,
            self.original.num_classes,
            self.generator,
            report=self.report,
        )

    def watch(
        self, projector: torch.nn.Module | None = None, views: int = 0, needed: float = 1.0
    ) -> Watch:
        """The watch over the deployed path.

        Args:
            projector: set where the deployed path goes through one.
            views: how many fixed views of each forget image are watched besides.
            needed: share of these views that has to be misclassified.
        """
        copies = [drawn(self.forget.images, self._watch_generator) for _ in range(views)]
        return Watch(
            self.original,
            self.forget,
            self.stakes,
            self._watch_probes,
            projector,
            copies,
            needed,
        )

    def go_on_from(self, path: str | Path, method: "Method", seed: int) -> None:
        """Let the loop keep its state in a file, and go on from what the same job has left there.

        The job is known by the method, the seed, all that was given, and what the bits depend on
        besides; of retained data, by the labels and some pictures.
        """
        live = self.live
        tensors = {
            "network": {**dict(live.named_parameters()), **dict(live.named_buffers())},
            "forget set": {"images": self.forget.images, "labels": self.forget.labels},
            "anchors": {"stakes": self.stakes},
        }
        if self._retain is not None:
            some = self._retain.load(range(min(len(self._retain), 64)))
            tensors["retained data"] = {"labels": self._retain.labels, "images": some}
        job = {name: tensor_digest(given) for name, given in tensors.items()}
        job |= {"method or setting": repr(method), "seed": str(seed), "kind of network": live.spec}
        job["layers to change"] = " ".join(self.trainable())
        self.checkpoint = Checkpoint(path, job | surroundings(live.device))
        self.checkpoint.keep(self, self._stopwatch)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> None:
        """Bring the generator to a state."""
        self.generator.set_state(state["generator"])

    def batches(self, size: int, batch_size: int) -> Batches:
        """Shuffled batches of indices below ``size``, which the checkpoint keeps the place in."""
        batches = Batches(size, batch_size, self.generator)
        self.checkpoint.keep(batches)
        return batches

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The live network's parameters that are not frozen, by name."""
        return {n: p for n, p in self.live.named_parameters() if p.requires_grad}

    @contextmanager
    def shallow(self, depth: float) -> Iterator[None]:
        """Let only the layers nearest the head change within the block.

        A layer is a module with a weight of two dimensions or more that is not frozen; layers
        count in the order in which the network registers them, and what lies between two of them
        goes with the first.

        Args:
            depth: their share of all layers, in (0, 1]; six layers may change at the least.
        """
        own = [
            [p for p in module.parameters(recurse=False) if p.requires_grad]
            for module in self.live.modules()
        ]
        layers = [i for i, found in enumerate(own) if any(p.ndim > 1 for p in found)]
        if not layers:
            raise InputError("every layer of the network is frozen: nothing can be unlearned")
        changing = max(FEWEST_LAYERS, math.ceil(depth * len(layers)))
        first = layers[-min(len(layers), changing)]
        early = [p for found in own[:first] for p in found]
        for parameter in early:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in early:
                parameter.requires_grad_(True)

    def descend(
        self,
        terms: Callable[[int], Mapping[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        max_steps: int,
        *,
        check_every: int = 1,
        in_full: bool = False,
        pace: Pace | None = None,
    ) -> Unlearned:
        """Minimise the terms until all is forgotten, and wrap up the live network.

        The arguments are those of :func:`stakes.loop.minimise`.
        """
        with self.timed("unlearn"):
            history, reason = minimise(
                self.live,
                terms,
                optimizer,
                self.watch(),
                max_steps=max_steps,
                check_every=check_every,
                in_full=in_full,
                pace=pace,
                checkpoint=self.checkpoint,
                report=self.report,
            )
        return self.result(history, reason)

    def result(self, history: History, stop_reason: str, **more: Any) -> Unlearned:
        """Wrap up: the live network, in eval mode, unless ``more`` names another classifier."""
        return Unlearned(
            classifier=more.pop("classifier", self.live).eval(),
            history=history,
            stop_reason=stop_reason,
            seconds=self._stopwatch.seconds,
            stakes=self.stakes,
            earlier=self._stopwatch.earlier,
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Hyper-parameters as fields, checked when they are set; calling it unlearns.

    A method is a subclass with a ``title``, its fields, and :meth:`unlearn`.

    Attributes:
        title: its name as the papers write it.
        needs_retain: whether it needs retained data; commands refuse early without it.
        presets: names of the class methods that make it with other settings.

    Raises:
        InputError: a value that is not one of the choices, or out of bounds.
    """

    title: ClassVar[str]
    needs_retain: ClassVar[bool] = False
    presets: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in fields(self):
            value, low = getattr(self, item.name), item.metadata["low"]
            high = item.metadata["high"]
            choices = get_args(hints[item.name]) if get_origin(hints[item.name]) is Literal else ()
            if choices and value not in choices:
                raise InputError(f"{item.name}={value!r}: choose one of {', '.join(choices)}")
            if isinstance(value, int | float) and low is not None and not value >= low:
                raise InputError(f"{item.name}={value}: it is at least {low}")
            if isinstance(value, int | float) and high is not None and value > high:
                raise InputError(f"{item.name}={value}: it is at most {high}")

    def __call__(
        self,
        classifier: Classifier,
        forget: ForgetSet,
        *,
        anchors: Anchors | str | None = None,
        retain: Images | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        report: Report = silent,
    ) -> Unlearned:
        """Forget ``forget``; the classifier that is passed in stays as it is.

        Args:
            classifier: the trained network.
            forget: the pictures to forget.
            anchors: of the classifier's classes (see
                :func:`stakes.anchor_sources.resolve_anchors`); a method without anchors of its
                own is only watched by them.
            retain: training data, for the methods that need retained data; the pictures of
                ``forget`` are left out, whatever they are called there.
            seed: of every random choice.
            checkpoint: a file for the state of the loop; where an interrupted call with the same
                arguments has left it, this one goes on from there, to the same bits. It is yours
                to remove once the result is safe.
            report: progress.

        Raises:
            InputError: anchors of other classes, or retained data that is missing where it is
                needed or cannot be used (see :func:`stakes.retained.retained`).
        """
        if self.needs_retain and retain is None:
            raise InputError(f"{self.title} needs retained training data")
        anchor_map: MapKind = getattr(self, "anchor_map", "auto")
        run = Run(classifier, forget, anchors, seed, report, anchor_map)
        if self.needs_retain and retain is not None:
            run.take_retained(retain, getattr(self, "retain_samples", 0))
        if checkpoint is not None:
            run.go_on_from(checkpoint, self, seed)
        return self.unlearn(run)

    @abstractmethod
    def unlearn(self, run: Run) -> Unlearned:
        """Change ``run.live`` until it has forgotten ``run.forget``."""


@dataclass(frozen=True, kw_only=True)
class ForgetSGD(Method):
    """The hyper-parameters of SGD on the forget set alone, for the methods that do just that.

    Public code of these methods trains for a fixed number of epochs. Here the one stop rule
    holds for them too: training ends as soon as every forget image is misclassified, or with
    the step budget.
    """

    lr: float = hyper(1e-3, "step size of SGD")
    momentum: float = hyper(0.9, "momentum of SGD", "public code")
    forget_batch: int = hyper(128, "forget images a step", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "mode of BatchNorm while unlearning; in eval the network is lost sooner"
    )
    max_steps: int = hyper(1000, "step budget", low=1)

    def fit(
        self,
        run: Run,
        loss: Callable[[Tensor], Mapping[str, Tensor]],
        *more: torch.nn.Parameter,
    ) -> Unlearned:
        """Descend on the terms of a batch of forget images, given by their indices.

        ``more`` parameters are trained with the network and not kept.
        """
        batches = run.batches(len(run.forget), self.forget_batch)
        parameters = [*run.trainable().values(), *more]
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)
        run.live.train(self.batch_norm == "train")
        return run.descend(lambda step: loss(next(batches)), optimizer, self.max_steps)


def ascent_terms(run: Run, batch_size: int) -> Callable[[int], dict[str, Tensor]]:
    """The term of gradient ascent, -CE on the next batch of the forget images."""
    images, labels = run.forget.images, run.forget.labels
    batches = run.batches(len(labels), batch_size)

    def terms(step: int) -> dict[str, Tensor]:
        batch = next(batches)
        return {"deletion": deletion_ce(run.live(images[batch]), labels[batch])}

    return terms
