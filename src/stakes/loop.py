"""The only gradient loop and the only stop rule; every method hands it its named loss terms."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stakes.classifier import Classifier
from stakes.forget import ForgetSet
from stakes.losses import margins
from stakes.progress import Report, silent
from stakes.structure import affinities, drift

FORGOTTEN = "forgotten: every forget image is misclassified"
History = list[dict[str, float]]


@dataclass(frozen=True)
class Look:
    """What one look at the network found.

    Attributes:
        margins: (k,) lead of the true class over the best other one, for each forget image.
        drift: structural drift on the watch's probes, in [0, 2]; NaN without anchors.
    """

    margins: Tensor
    drift: float

    @property
    def forget_accuracy(self) -> float:
        """Percent of the forget images not known to be misclassified; NaN logits show nothing."""
        return 100.0 * float((~(self.margins < 0)).float().mean())

    def row(self) -> dict[str, float]:
        """Its part of a history row."""
        return {"forget_accuracy": self.forget_accuracy, "drift": self.drift}


class Watch:
    """What every method is watched by, whatever it trains on: the deployed path, in eval mode.

    Args:
        original: the classifier before unlearning.
        forget: the pictures to forget, on the classifier's device.
        stakes: (c, d) anchors in feature space (see :func:`stakes.structure.place_anchors`).
        probes: (n, 3, h, w) mixtures of the forget images that no method trains on.
        projector: set where the deployed path goes through one.
    """

    def __init__(
        self,
        original: Classifier,
        forget: ForgetSet,
        stakes: Tensor,
        probes: Tensor,
        projector: nn.Module | None = None,
    ) -> None:
        self._forget = forget
        self._stakes = stakes
        self._images = torch.cat([forget.images, probes])
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
        k = len(self._forget)
        lead = margins(live.head(features[:k]), self._forget.labels)
        return Look(lead, drift(self._structure, affinities(features[k:], self._stakes)))


def _features(classifier: Classifier, images: Tensor, batch_size: int = 256) -> Tensor:
    return torch.cat([classifier.features(batch) for batch in images.split(batch_size)])


def cycle(size: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled batches of indices below ``size``, epoch after epoch, without end.

    >>> batches = cycle(5, 2, torch.Generator().manual_seed(0))
    >>> sorted(torch.cat([next(batches) for _ in range(3)]).tolist())
    [0, 1, 2, 3, 4]
    """
    while True:
        yield from torch.randperm(size, generator=generator).split(batch_size)


def minimise(
    live: Classifier,
    terms: Callable[[int], Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    watch: Watch,
    *,
    max_steps: int,
    check_every: int = 1,
    warmup: int = 0,
    settle: float = 0.0,
    report: Report = silent,
) -> tuple[History, str]:
    """Minimise the plain sum of named loss terms until every forget image is misclassified.

    Args:
        live: the classifier being changed, in the mode (train or eval) it is to be trained in.
        terms: the step's number (from 1) to its named scalar loss terms.
        optimizer: over whatever is to be changed.
        watch: looks at the deployed path; it alone decides when to stop.
        max_steps: the step budget.
        check_every: steps between two looks.
        warmup: steps over which the step size grows to its full value.
        settle: once all is forgotten, go on for this share of the steps done while the step size
            falls to nothing, so that what is kept recovers; stop if all is still forgotten then.
        report: progress.

    Returns:
        A history row per step (``step``, ``loss``, ``term_<name>`` and, at each look,
        ``forget_accuracy`` in percent and ``drift``), and the reason for stopping. The terms of
        row t are those minimised in step t; accuracy and drift are those after it.
    """
    history: History = [{"step": 0.0} | watch.look(live).row()]
    pace = _Pace(optimizer, warmup, settle)
    for step in range(1, max_steps + 1):
        parts = terms(step)
        loss = torch.stack(list(parts.values())).sum()
        if not bool(loss.isfinite()):
            return history, f"diverged: the loss is not finite at step {step}"
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        pace.set(step)
        optimizer.step()
        row = {"step": float(step), "loss": float(loss.detach())}
        row |= {f"term_{name}": float(value.detach()) for name, value in parts.items()}
        history.append(row)
        if step % check_every and step != max_steps:
            continue
        look = watch.look(live)
        row |= look.row()
        report("unlearning", step, max_steps, f"{look.forget_accuracy:.0f} % still known")
        if pace.done(step, forgotten=bool((look.margins < 0).all())):
            return history, FORGOTTEN
    if history[-1]["forget_accuracy"] == 0:
        return history, FORGOTTEN
    return history, f"step budget: {max_steps} steps done before every image was forgotten"


class _Pace:
    """The step size: it grows over the warm-up, and falls while what was kept settles."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup: int, settle: float) -> None:
        self._groups = [(group, group["lr"]) for group in optimizer.param_groups]
        self._warmup, self._settle = warmup, settle
        self._start: int | None = None
        self._end = 0

    def set(self, step: int) -> None:
        factor = min(1.0, step / self._warmup) if self._warmup else 1.0
        if self._start is not None:
            factor *= max(0.0, (self._end - step + 1) / (self._end - self._start + 1))
        for group, base in self._groups:
            group["lr"] = base * factor

    def done(self, step: int, forgotten: bool) -> bool:
        """Whether to stop after this look; begins, or breaks off, the settling."""
        if self._start is None:
            if forgotten and self._settle:
                self._start, self._end = step, step + math.ceil(self._settle * step)
            return forgotten and not self._settle
        if step < self._end:
            return False
        self._start = None
        return forgotten


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
