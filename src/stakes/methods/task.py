"""One call of a method: copies of the network, a generator, the stakes, the clock."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
)

import torch
from torch import Tensor

from stakes.anchors.anchors import Anchors
from stakes.data.adapter import Data
from stakes.data.augment import mixed
from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.data.retain import retained
from stakes.data.surrogates import Surrogates
from stakes.data.views import random_view
from stakes.errors import InputError
from stakes.files import tensor_digest
from stakes.models.classifier import Classifier
from stakes.preprocessing import Reader
from stakes.progress import Progress, Stopwatch, silent
from stakes.rows import Outcome
from stakes.training import sharding
from stakes.training.batches import Batches
from stakes.training.checkpoint import Checkpoint, surroundings
from stakes.training.criteria import EXACT, Goal
from stakes.training.devices import draw_on, drawn
from stakes.training.loop import Ending, History, minimise
from stakes.training.monitor import Monitor
from stakes.training.steps import Terms
from stakes.training.structure import MapKind, place_anchors

MONITOR_PROBES = 64


@dataclass(frozen=True)
class Unlearned:
    """What a method returns.

    Attributes:
        classifier: the deployed path, of the architecture that ``deploy`` names.
        history: a row per step (see :func:`stakes.training.loop.minimise`).
        ending: how the run ended, and why.
        seconds: wall-clock seconds by phase (``probes``, ``importance``, ``unlearn``).
        stakes: (c, d) anchors in feature space that the structure was measured with.
        other: the path that is not deployed, by its name; empty without a projector.
        chosen: what the method chose during the run, and why.
        earlier: seconds, among these, of an interrupted run that this one resumed.
        checkpoint: the file with the state of the loop, if there is one.
        job: digest of everything the bits of the result depend on; empty without that file.
        surrogates: the surrogate data used in place of the absent data, if any was given.
    """

    classifier: Classifier
    history: History
    ending: Ending
    seconds: dict[str, float]
    stakes: Tensor
    other: dict[str, Classifier] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    earlier: float = 0.0
    checkpoint: Path | None = None
    job: str = ""
    surrogates: Surrogates | None = None

    @property
    def outcome(self) -> Outcome:
        """How the run ended."""
        return self.ending.outcome

    @property
    def stop_reason(self) -> str:
        """Why the run ended, in a sentence."""
        return self.ending.sentence


class Task:
    """One call of a method: copies of the network, a generator, the stakes, the clock.

    Attributes:
        original: the classifier before unlearning, frozen, in eval mode.
        live: the copy to change, in eval mode.
        forget: the images, on the network's device, in an order that is theirs alone.
        retain: retained images, none of them to be forgotten (see :mod:`stakes.data.retain`).
        surrogates: unlabelled images in place of the absent data, where some were given.
        training_size: images in the training set, where the method sees any of it.
        stakes: (c, d) anchors in the feature space.
        generator: the only source of randomness, but for the network's own dropout.
        progress: called with phase, steps done, steps in all and a note.
        timed: ``with task.timed(phase)`` adds the seconds of a block to a phase.
        checkpoint: keeps what changes from step to step, besides what the loop adds itself.
    """

    def __init__(
        self,
        classifier: Classifier,
        forget: ForgetSet,
        anchors: Anchors,
        seed: int = 0,
        progress: Progress = silent,
        anchor_map: MapKind = "auto",
    ) -> None:
        self._given, self._sharded = classifier, sharding.is_wanted()
        self.original = self._copied(classifier).requires_grad_(False)
        self.live = self._copied(classifier)
        self.forget = forget.in_one_order().to(classifier.device)
        self._retain: Images | None = None
        self.surrogates: Surrogates | None = None
        self.training_size = len(self.forget)
        self.progress = progress
        self.generator = torch.Generator().manual_seed(seed)
        self._stopwatch = Stopwatch()
        self.timed = self._stopwatch.timed
        self.checkpoint = Checkpoint()
        self.stakes = place_anchors(
            anchors.vectors.to(classifier.device),
            self.original.head.weight,
            kind=anchor_map,
            seed=seed,
        ).to(self.original.head.weight)  # networks come in double precision too
        self._monitor_generator = torch.Generator().manual_seed(seed + 1)
        self._monitor_probes = mixed(self.forget.images, MONITOR_PROBES, self._monitor_generator)
        self._monitor_held: Tensor | None = None

    def _copied(self, classifier: Classifier) -> Classifier:
        """A copy in eval mode; divided before the next one is made, where weights are."""
        made = classifier.copy().eval()
        if self._sharded:
            sharding.shard(made)
        return made

    @property
    def retain(self) -> Images:
        """Retained images, none of them to be forgotten.

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
            progress=self.progress,
        )

    def take_surrogates(self, data: Data, read: Reader | None, seed: int) -> None:
        """Read surrogate data at the size of the forget images, copies of these left out.

        The monitor then bounds the drift on mixtures of it: those of the forget images are so like
        their copies that they drift when these are forgotten.
        """
        height, width = self.forget.images.shape[2:]
        given = Surrogates.of(data, (height, width), read=read, seed=seed, progress=self.progress)
        self.surrogates = given.without(self.forget)
        if count := self.surrogates.left_out:
            self.progress("surrogates", 0, len(given), f"{count} copies of forget images left out")
        generator = self._monitor_generator
        some = torch.randperm(len(self.surrogates), generator=generator)[: 4 * MONITOR_PROBES]
        images = self.surrogates.images(some).to(self.forget.images)
        self._monitor_held = mixed(images, MONITOR_PROBES, generator)

    def monitor(
        self,
        projector: torch.nn.Module | None = None,
        views: int = 0,
        needed: float = 1.0,
        goal: Goal = EXACT,
        held: Callable[[int, torch.Generator], Tensor] | None = None,
    ) -> Monitor:
        """The monitor of the deployed path.

        Args:
            projector: set where the deployed path goes through one.
            views: how many fixed views of each forget image are watched besides.
            needed: share of these views that has to meet the criterion.
            goal: what the forget images have to reach.
            held: draws so many of the images that the method holds. Their drift is bounded instead
                where no surrogate data is given, since what resembles copies drifts with these.
        """
        copies = [random_view(self.forget.images, self._monitor_generator) for _ in range(views)]
        if self._monitor_held is None and held is not None:
            self._monitor_held = held(MONITOR_PROBES, self._monitor_generator)
        return Monitor(
            self.original,
            self.forget,
            self.stakes,
            self._monitor_probes,
            projector,
            copies,
            needed,
            goal,
            self._monitor_held,
        )

    def go_on_from(self, folder: str | Path, method: object, seed: int) -> None:
        """Save the state of the loop in a folder, and resume from what the same job left there.

        A job is identified by the method, the seed, every input, and what else the bits depend
        on; retained data by its labels and some of its images.
        """
        live, start = self.live, self._given  # as live, and whole where live is divided
        tensors = {
            "network": {**dict(start.named_parameters()), **dict(start.named_buffers())},
            "forget set": {"images": self.forget.images, "labels": self.forget.labels},
            "anchors": {"stakes": self.stakes},
        }
        if self._retain is not None:
            some = self._retain.load(range(min(len(self._retain), 64)))
            tensors["retained data"] = {"labels": self._retain.labels, "images": some}
        job = {name: tensor_digest(given) for name, given in tensors.items()}
        if self.surrogates is not None:
            job["surrogates"] = self.surrogates.digest()
        job |= {"method or setting": repr(method), "seed": str(seed), "kind of network": live.spec}
        job["layers to change"] = " ".join(self.trainable())
        self.checkpoint = Checkpoint(folder, job | surroundings(live.device))
        self.checkpoint.keep(self, self._stopwatch)

    def state_dict(self) -> dict[str, Any]:
        """The states of the generator, and of PyTorch's own, which dropout draws from."""
        return {"generator": self.generator.get_state(), "dropout": drawn(self.live.device)}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set the states of the generator and of PyTorch's own."""
        self.generator.set_state(state["generator"])
        draw_on(state["dropout"], self.live.device)

    def batches(self, size: int, batch_size: int, *, shuffle: bool = True) -> Batches:
        """Batches of indices below ``size``; the checkpoint saves the place in them."""
        batches = Batches(size, batch_size, self.generator if shuffle else None)
        self.checkpoint.keep(batches)
        return batches

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The live network's parameters that are not frozen, by name."""
        return {n: p for n, p in self.live.named_parameters() if p.requires_grad}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The live network is in eval mode within the block."""
        training = self.live.training
        self.live.eval()
        try:
            yield
        finally:
            self.live.train(training)

    def descend(
        self,
        terms: Terms,
        optimizer: torch.optim.Optimizer,
        max_steps: int,
        **more: Any,
    ) -> Unlearned:
        """Minimise the terms until everything is forgotten, and wrap up the live network.

        ``more`` is for :func:`stakes.training.loop.minimise`.
        """
        with self.timed("unlearn"):
            history, ending = minimise(
                self.live,
                terms,
                optimizer,
                self.monitor(),
                max_steps=max_steps,
                checkpoint=self.checkpoint,
                progress=self.progress,
                **more,
            )
        return self.result(history, ending)

    def result(self, history: History, ending: Ending, **more: Any) -> Unlearned:
        """Wrap up: the live network, in eval mode, unless ``more`` names another classifier.

        Raises:
            InputError: no history, or no ending.
        """
        if not history or not isinstance(ending, Ending):
            raise InputError(
                "task.result takes the history, of at least one row, and the Ending; return what "
                "task.descend gives, or both as stakes.training.loop.minimise gives them"
            )
        classifier = more.pop("classifier", self.live)
        if self._sharded:
            classifier = sharding.whole(self.live, self._given)
        return Unlearned(
            classifier=classifier.eval(),
            history=history,
            ending=ending,
            seconds=self._stopwatch.seconds,
            stakes=self.stakes,
            earlier=self._stopwatch.earlier,
            checkpoint=self.checkpoint.path,
            job=self.checkpoint.digest,
            surrogates=self.surrogates,
            **more,
        )
