"""The only gradient loop and the only stop rule; every method hands it its named loss terms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from stakes.checkpoint import Changing, Checkpoint
from stakes.classifier import Classifier
from stakes.forget import ForgetSet
from stakes.losses import margins
from stakes.pace import Pace
from stakes.progress import Report, silent
from stakes.structure import affinities, drift

FORGOTTEN = "forgotten: every forget image is misclassified"
History = list[dict[str, float]]


@dataclass(frozen=True)
class Look:
    """What one look at the network found.

    Attributes:
        margins: (k,) lead of the true class over the best other one, for each forget image.
        drift: structural drift on the watch's probes, in [0, 2]; NaN where the features are.
        view_margins: (v,) the same lead for the views that are watched; empty where none are.
        needed: share of the views that has to be misclassified.
    """

    margins: Tensor
    drift: float
    view_margins: Tensor
    needed: float

    @property
    def forgotten(self) -> bool:
        """Whether every forget image is misclassified, and the share needed of their views."""
        wrong, views = int((self.view_margins < 0).sum()), len(self.view_margins)
        return self.forget_accuracy == 0 and (views == 0 or wrong / views >= self.needed)

    @property
    def views_accuracy(self) -> float | None:
        """Percent of the views not known to be misclassified; None where none are watched."""
        if not len(self.view_margins):
            return None
        return 100.0 * float((~(self.view_margins < 0)).float().mean())

    @property
    def forget_accuracy(self) -> float:
        """Percent of the forget images not known to be misclassified; NaN logits show nothing."""
        return 100.0 * float((~(self.margins < 0)).float().mean())

    def __str__(self) -> str:
        """What is still known, for the progress."""
        copies = self.views_accuracy
        more = "" if copies is None else f" ({copies:.0f} % of copies)"
        return f"{self.forget_accuracy:.0f} % still known{more}"

    def row(self) -> dict[str, float]:
        """Its part of a history row."""
        row = {"forget_accuracy": self.forget_accuracy, "drift": self.drift}
        known = self.views_accuracy
        return row if known is None else row | {"views_accuracy": known}


class Watch:
    """What every method is watched by, whatever it trains on: the deployed path, in eval mode.

    Args:
        original: the classifier before unlearning.
        forget: the pictures to forget, on the classifier's device.
        stakes: (c, d) anchors in feature space (see :func:`stakes.structure.place_anchors`).
        probes: (n, 3, h, w) mixtures of the forget images that no method trains on.
        projector: set where the deployed path goes through one.
        views: copies of the forget images, each (k, 3, h, w), to be forgotten as well.
        needed: share of these views that has to be misclassified.
    """

    def __init__(
        self,
        original: Classifier,
        forget: ForgetSet,
        stakes: Tensor,
        probes: Tensor,
        projector: nn.Module | None = None,
        views: Sequence[Tensor] = (),
        needed: float = 1.0,
    ) -> None:
        self._k, self._needed = len(forget), needed
        self._labels = forget.labels.repeat(1 + len(views))
        self._stakes = stakes
        self._images = torch.cat([forget.images, *views, probes])
        self._projector = projector
        with torch.no_grad():
            self._structure = affinities(_features(original, probes), stakes)

    @torch.no_grad()
    def look(self, live: Classifier) -> Look:
        """Measure ``live`` without moving anything in it, BatchNorm statistics included."""
        training = live.training
        live.eval()
        features = _features(live, self._images)
        live.train(training)
        if self._projector is not None:
            features = self._projector(features)
        shown = len(self._labels)
        lead = margins(live.head(features[:shown]), self._labels)
        moved = drift(self._structure, affinities(features[shown:], self._stakes))
        return Look(lead[: self._k], moved, lead[self._k :], self._needed)


def _features(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    return torch.cat([classifier.features(batch) for batch in images.split(batch_size)])


class Batches(Changing):
    """Shuffled batches of indices below ``size``, epoch after epoch, without end.

    >>> batches = Batches(5, 2, torch.Generator().manual_seed(0))
    >>> sorted(torch.cat([next(batches) for _ in range(3)]).tolist())
    [0, 1, 2, 3, 4]
    """

    changing = ("_left",)

    def __init__(self, size: int, batch_size: int, generator: torch.Generator) -> None:
        self._size, self._batch_size, self._generator = size, batch_size, generator
        self._left = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        if not len(self._left):
            self._left = torch.randperm(self._size, generator=self._generator)
        batch, self._left = self._left[: self._batch_size], self._left[self._batch_size :]
        return batch


def minimise(
    live: Classifier,
    terms: Callable[[int], Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    watch: Watch,
    *,
    max_steps: int,
    check_every: int = 1,
    ready: Callable[[], bool] = lambda: False,
    in_full: bool = False,
    pace: Pace | None = None,
    checkpoint: Checkpoint | None = None,
    report: Report = silent,
) -> tuple[History, str]:
    """Minimise the plain sum of named loss terms until everything is forgotten.

    Args:
        live: the classifier being changed, in the mode (train or eval) it is to be trained in.
        terms: the step's number (from 1) to its named scalar loss terms.
        optimizer: over whatever is to be changed.
        watch: looks at the deployed path; it alone decides when to stop.
        max_steps: the step budget.
        check_every: steps between two looks.
        ready: whether a look is worth its time between two of these, since all may be forgotten.
        in_full: whether to do all steps, forgotten or not.
        pace: the step size over time, and what to do where it was too large; by default it stays
            as the optimiser has it.
        checkpoint: keeps whatever else ``terms`` changes; the loop adds its own, and goes on
            after the step that it was interrupted at, to the same bits.
        report: progress.

    Returns:
        A history row per step (``step``, ``loss``, ``term_<name>`` and, at each look,
        ``forget_accuracy`` in percent, ``drift`` and, where views are watched,
        ``views_accuracy``), and the reason for stopping. The terms of row t are those minimised
        in step t; accuracy and drift are those after it. A step without a finite loss has no row.
    """
    pace, checkpoint = pace or Pace(optimizer), checkpoint or Checkpoint()
    trained = nn.ParameterList(p for group in optimizer.param_groups for p in group["params"])
    checkpoint.keep(live, trained, optimizer, pace)
    done, history, said = checkpoint.restore()
    if said:
        report("interrupted run", done, max_steps, said)
    look = watch.look(live)
    history = history or [{"step": 0.0} | look.row()]
    for step in range(done + 1, max_steps + 1):
        checkpoint.save(step - 1, history)
        parts = terms(step)
        loss = torch.stack(list(parts.values())).sum()
        if not bool(loss.isfinite()):
            if pace.back_off(step):
                continue
            return history, f"diverged: the loss is not finite at step {step}"
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        pace.set(step)
        optimizer.step()
        row = {"step": float(step), "loss": float(loss.detach())}
        row |= {f"term_{name}": float(value.detach()) for name, value in parts.items()}
        history.append(row)
        due = pace.ends(step) if pace.settling else ready()
        if step % check_every and step != max_steps and not due:
            continue
        look = watch.look(live)
        row |= look.row()
        report("unlearning", step, max_steps, str(look))
        if pace.too_far(look.drift) and pace.back_off(step):
            continue
        if pace.done(step, look.forgotten) and not in_full:
            if not look.forgotten:  # the weights were put back
                row |= watch.look(live).row()
            return history, FORGOTTEN
    if max_steps in pace.halved_at:  # the last step was taken back
        look = watch.look(live)
        history[-1] |= look.row()
    if look.forgotten:
        return history, FORGOTTEN
    return history, f"step budget: {max_steps} steps done before every image was forgotten"


@torch.no_grad()
def pull_back(
    live: nn.Module, original: nn.Module, holds: Callable[[], bool], bisections: int = 8
) -> float:
    """Move ``live`` back along the line to ``original`` as far as ``holds()`` stays true.

    Bisection over the share of the way; the last share known to hold is kept.

    Returns:
        The share in (0, 1] of the distance from ``original`` that was needed.
    """
    origin = dict(original.named_parameters())
    end = {name: p.detach().clone() for name, p in live.named_parameters()}

    def move(share: float) -> None:
        for name, parameter in live.named_parameters():
            parameter.copy_(torch.lerp(origin[name], end[name], share))

    low, high = 0.0, 1.0
    for _ in range(bisections):
        middle = (low + high) / 2
        move(middle)
        low, high = (low, middle) if holds() else (middle, high)
    if high == 1.0:
        for name, parameter in live.named_parameters():
            parameter.copy_(end[name])
    else:
        move(high)
    return high
