"""What every method is and returns; no method's own mathematics is here."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast, get_type_hints

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from stakes.anchors.anchors import Anchors
from stakes.anchors.sources import resolve_anchors
from stakes.data.adapter import Data, as_images
from stakes.data.forget import ForgetSet
from stakes.errors import InputError, check_seed, quoted, some
from stakes.methods.fields import check, check_names, hyper
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.training import distributed, sharding
from stakes.training.devices import plain_settings, repeatable, seeded
from stakes.training.losses import deletion_ce
from stakes.training.structure import MapKind

__all__ = ["ForgetSGD", "Method", "ascent_terms", "hyper", "variant"]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Hyper-parameters as fields, checked when they are set; calling it unlearns.

    A method is a subclass with a ``title``, its fields, and :meth:`unlearn`.

    Attributes:
        title: its name as the papers write it.
        needs_retain: whether it needs retained data; commands refuse early without it.
        uses_surrogates: whether it can hold surrogate data; other methods refuse any.
        divisible: whether its steps can be divided among processes: their gradients by weights are
            all taken by the loop (see :mod:`stakes.training.distributed`).
        shardable: whether its weights can be divided too (see :mod:`stakes.training.sharding`).

    Raises:
        InputError: no such hyper-parameter, a value of another type, out of bounds or not one of
            the choices.
    """

    title: ClassVar[str]
    needs_retain: ClassVar[bool] = False
    uses_surrogates: ClassVar[bool] = False
    divisible: ClassVar[bool] = False
    shardable: ClassVar[bool] = False

    def __new__(cls, *unnamed: Any, **given: Any) -> Self:
        """Refuse unknown names before the dataclass does, which knows no nearest one."""
        if unnamed:
            raise InputError(
                f"{cls.__name__}({quoted(unnamed[0])}): give hyper-parameters by their names, such "
                "as lr=0.1"
            )
        check_names(cls, given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, value in check(type(self), values).items():
            object.__setattr__(self, name, value)  # the class is frozen

    @plain_settings()
    def __call__(
        self,
        classifier: Classifier,
        forget: ForgetSet,
        *,
        anchors: Anchors | str | None = None,
        retain: Data | None = None,
        surrogates: Data | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: Progress = silent,
    ) -> Unlearned:
        """Forget ``forget``; the classifier that is passed in stays as it is.

        Args:
            classifier: the trained network.
            forget: the images to forget.
            anchors: of the classifier's classes (see
                :func:`stakes.anchors.sources.resolve_anchors`); a method without anchors of its
                own is only watched by them.
            retain: training data, for the methods that need retained data, as
                :func:`stakes.data.adapter.as_images` takes it; the images of ``forget`` are left
                out, whatever they are called there.
            surrogates: unlabelled images that stand in for the absent training data, for the
                methods that hold such, as :meth:`stakes.data.surrogates.Surrogates.of` takes them;
                copies of images of ``forget`` are left out.
            seed: of every random choice, that of the network's dropout included.
            checkpoint: a folder for the state of the loop, one file for each job. If an
                interrupted call with the same arguments left its file there, this call resumes from
                it, to the same bits. Remove the file, ``result.checkpoint``, once the result is
                safe.
            progress: called with phase, steps done, steps in all and a note.

        Raises:
            InputError: no classifier, no forget set, labels outside the classes, anchors of other
                classes, retained data that is missing where it is needed or cannot be used
                (see :func:`stakes.data.retain.retained`), surrogate data that cannot be used or
                that the method has no use for, or a batch of one image where BatchNorm normalises
                by batches.
        """
        classifier, forget = Classifier.require(classifier), ForgetSet.require(forget)
        forget.check(classifier.num_classes)
        seed = check_seed(seed)
        self.check_processes(classifier)
        if not any(parameter.requires_grad for parameter in classifier.parameters()):
            raise InputError("all weights of the network are frozen; unfreeze some (requires_grad)")
        if self.needs_retain and retain is None:
            raise InputError(
                f"{self.title} needs retained training data: give retain=, such as data.train"
            )
        if surrogates is not None:
            self.check_surrogates()
        anchor_map: MapKind = getattr(self, "anchor_map", "auto")
        found = resolve_anchors(classifier, anchors, forget, seed)
        task = Task(classifier, forget, found, seed, progress, anchor_map)
        if self.needs_retain and retain is not None:
            task.take_retained(as_images(retain), getattr(self, "retain_samples", 0))
        if surrogates is not None:
            task.take_surrogates(surrogates, classifier.preprocessing, seed)
        if checkpoint is not None:
            task.go_on_from(checkpoint, self, seed)
        device = classifier.device
        with repeatable(device), seeded(device, seed), self._single_images_refused():
            result: object = self.unlearn(task)
        if not isinstance(result, Unlearned):  # of a method that is not ours
            raise InputError(
                f"{self.title}: unlearn returned a {type(result).__name__}; return an Unlearned, "
                "such as task.result(...) gives"
            )
        self._check_architecture(classifier, result.classifier)
        return result

    @contextmanager
    def _single_images_refused(self) -> Iterator[None]:
        """Refuse, with an InputError, a batch of one image that BatchNorm cannot normalise by."""
        try:
            yield
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch says so, and no more
                raise
            trained = getattr(self, "batch_norm", "eval") == "train"
            raise InputError(
                f"{self.title}: BatchNorm cannot normalise by the statistics of a batch of one "
                f"image: {'add --batch-norm eval, ' if trained else ''}forget more images at once, "
                "or choose a batch size that leaves no single image over"
            ) from error

    def _check_architecture(self, before: Classifier, after: Classifier) -> None:
        """Refuse, with an InputError, a network that code for the original could not load."""
        was, now = (
            {name: tensor.shape for name, tensor in network.network_state().items()}
            for network in (before, after)
        )
        if changed := sorted(
            name for name in was.keys() | now.keys() if was.get(name) != now.get(name)
        ):
            raise InputError(
                f"{self.title}: the result has other tensors than the network "
                f"({some(changed)}); change their values, but not their names or shapes"
            )

    def check_surrogates(self) -> None:
        """Refuse surrogate data, with an InputError, where the method has no use for them."""
        if not self.uses_surrogates:
            raise InputError(f"{self.title} uses no surrogate data: leave them out")

    def check_processes(self, classifier: Classifier) -> None:
        """Refuse, with an InputError, several processes where steps cannot be divided."""
        if sharding.is_wanted():
            self.check_shard()
        if distributed.count() == 1:
            return
        if not self.divisible:
            raise InputError(
                f"{self.title} cannot run on several processes: start it without torchrun"
            )
        trained = getattr(self, "batch_norm", "eval") == "train"
        if trained and any(isinstance(part, _BatchNorm) for part in classifier.modules()):
            raise InputError(
                f"{self.title} normalises by the statistics of whole batches (batch_norm "
                "train), which does not work on several processes: add --batch-norm eval, or "
                "start it without torchrun"
            )

    def check_shard(self) -> None:
        """Refuse, with an InputError, to divide weights where that cannot be."""
        if not self.shardable:
            raise InputError(f"{self.title} cannot divide its weights: leave out --shard")
        if distributed.count() == 1:
            raise InputError(
                "--shard divides the weights among processes: start the command with torchrun"
            )

    @abstractmethod
    def unlearn(self, task: Task) -> Unlearned:
        """Change ``task.live`` until it has forgotten ``task.forget``."""


Some = TypeVar("Some", bound=Method)


def variant(kind: type[Some], title: str, **defaults: object) -> type[Some]:
    """A method with other defaults, for a preset.

    >>> from stakes.methods.neggrad import NegGrad
    >>> quick = variant(NegGrad, "NegGrad (quick)", lr=0.1)()
    >>> quick.title, quick.lr, quick.momentum
    ('NegGrad (quick)', 0.1, 0.9)
    """
    check_names(kind, defaults)
    hints, items = get_type_hints(kind), kind.__dataclass_fields__
    made = make_dataclass(
        kind.__name__ + "Variant",
        [(n, hints[n], field(default=v, metadata=items[n].metadata)) for n, v in defaults.items()],
        bases=(kind,),
        namespace={"title": title, "__doc__": kind.__doc__, "__module__": kind.__module__},
        frozen=True,
        kw_only=True,
    )
    return cast("type[Some]", made)


@dataclass(frozen=True, kw_only=True)
class ForgetSGD(Method):
    """The hyper-parameters of SGD on the forget set alone, for the methods that do just that.

    Public code of these methods trains for a fixed number of epochs. Here the one stop rule
    holds for them too: training ends as soon as every forget image is misclassified, or with
    ``epochs`` or the step budget, whichever is first.
    """

    lr: float = hyper(1e-3, "learning rate of SGD", above=0, high=100)
    momentum: float = hyper(0.9, "momentum of SGD", "public code", high=1)
    forget_batch: int = hyper(128, "forget images per step", low=1)
    batch_norm: Literal["eval", "train"] = hyper(
        "train", "BatchNorm mode during unlearning; in eval mode the network collapses sooner"
    )
    epochs: int = hyper(0, "most passes over the forget set; 0: as many as max_steps allows")
    max_steps: int = hyper(1000, "step budget", low=1)

    def budget(self, images: int) -> int:
        """Steps at most, for that many forget images.

        >>> from stakes.methods import Delete
        >>> Delete(epochs=10, forget_batch=64).budget(65), Delete(epochs=0).budget(65)
        (20, 1000)
        """
        return min(self.max_steps, self._passes(images) or self.max_steps)

    def is_prescribed(self, images: int) -> bool:
        """Whether that budget has room for all ``epochs``."""
        return 0 < self._passes(images) <= self.max_steps

    def _passes(self, images: int) -> int:
        """Steps of all ``epochs`` over that many forget images."""
        return self.epochs * -(-images // self.forget_batch)

    def fit(
        self,
        task: Task,
        loss: Callable[[Tensor], Mapping[str, Tensor]],
        *more: torch.nn.Parameter,
    ) -> Unlearned:
        """Descend on the terms of a batch of forget images, given by their indices.

        ``more`` parameters are trained with the network and not kept.
        """
        batches = task.batches(len(task.forget), self.forget_batch)
        parameters = [*task.trainable().values(), *more]
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)
        task.live.train(self.batch_norm == "train")
        k = len(task.forget)
        return task.descend(
            lambda step: loss(next(batches)),
            optimizer,
            self.budget(k),
            prescribed=self.is_prescribed(k),
        )


def ascent_terms(
    task: Task, batch_size: int, *, shuffle: bool = True
) -> Callable[[int], dict[str, Tensor]]:
    """The term of gradient ascent, -CE on the next batch of the forget images."""
    images, labels = task.forget.images, task.forget.labels
    batches = task.batches(len(labels), batch_size, shuffle=shuffle)

    def terms(step: int) -> dict[str, Tensor]:
        batch = next(batches)
        return {"deletion": deletion_ce(task.live(images[batch]), labels[batch])}

    return terms
