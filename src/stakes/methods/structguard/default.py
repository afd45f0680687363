"""STRUCTGUARD, improved: the default method, its hyper-parameters and its descent."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from stakes.methods.base import hyper
from stakes.methods.probing import ProbeFields
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task, Unlearned
from stakes.rows import Outcome
from stakes.training import sharding
from stakes.training.criteria import CRITERIA, CriterionName
from stakes.training.depth import DEPTH, shallow
from stakes.training.loop import Ending, History, minimise
from stakes.training.losses import DeletionLoss, RetentionLoss, StructuralLoss
from stakes.training.muon import Muon
from stakes.training.precision import Precision
from stakes.training.schedule import Schedule
from stakes.training.search import pull_back
from stakes.training.structure import MapKind

# Altered copies that are checked and never trained on: so many of each forget image, and of all at
# least so many times the probes of a step, since few copies would say little of others.
WATCHED_VIEWS, WATCHED_PROBES = 8, 2
CHECK_EVERY = 10  # steps; a check of the network costs about as much as one of them
WARMUP = 20  # steps over which the learning rate rises to its full value
# Settling steps at least: short runs too must recover accuracy, more where copies are forgotten.
SETTLE_LEAST, SETTLE_VIEWS, SETTLE_SURROGATES = 30, 60, 240
# Factor of the settling: with cohorts, the first have recovered while others had their turns; with
# surrogate data, what copies cost goes on recovering.
SETTLE_TURNS, SETTLE_LONGER = 0.5, 2.0
MUON_STEP = 0.6  # size of Muon's steps, in units of the learning rate; as published, 0.2
FEW_LAYERS = 6  # up to so many have steps of that size
BACKOFFS = 5  # halvings of the learning rate: one that drifts too far at 1/32 will not recover


def muon_step(layers: int) -> float:
    """Size of Muon's steps in each of so many hidden layers, in units of the learning rate.

    What such steps do to the images that are held adds up over the layers like independent errors:
    of four times as many layers, each moves half as far.

    >>> muon_step(1), muon_step(6), muon_step(24)
    (0.6, 0.6, 0.3)
    """
    return MUON_STEP * math.sqrt(FEW_LAYERS / max(FEW_LAYERS, layers))


def _watched(k: int, probes: int) -> int:
    """How many copies of each of k forget images are watched, with so many probes a step."""
    return max(WATCHED_VIEWS, -(-WATCHED_PROBES * probes // k))


@dataclass(frozen=True, kw_only=True)
class StructGuard(ProbeFields):
    """Improved STRUCTGUARD: the idea of "Stake the Points" (CVPR 2026) with better parts.

    As in the paper, surrogate images ("probes") replace the absent training data, and the
    affinities of their features to fixed semantic anchors are preserved. The paper's own method is
    :class:`~stakes.methods.structguard.paper.StructGuardPaper`, its authors' code
    :class:`~stakes.methods.structguard.reference.StructGuardReference`. What differs:

    - Probes are mixed from the forget images anew at every step, half of them within a class.
      If altered copies must be forgotten too, they are mixed from images inverted from the
      network's own statistics (:mod:`stakes.training.inversion`) and from rotated and recoloured
      mixtures of forget images, all perturbed as the copies are. Surrogate data, if given, is
      half of the probes (:mod:`stakes.methods.structguard.surrogates`); if a sidecar describes
      activations, nothing is inverted.
    - An image has to meet the criterion ``deep`` (:mod:`stakes.training.criteria`). Each one is
      pushed to a class drawn from the original's next choices; a hinge stops once it is forgotten
      by a margin.
    - The probes retain the original's soft predictions and its features, not hard labels.
    - The optimiser is Muon (:mod:`stakes.training.muon`), with shorter steps if many layers are
      trained.
    - Only the layers nearest the head are trained. An image passes the layers before them once
      for both networks (:mod:`stakes.training.shared`).
    - A large forget set is unlearned in cohorts; images of later cohorts are held as retain data
      until their turn (:mod:`stakes.methods.structguard.cohorts`).
    - Once everything is forgotten, steps continue at a decaying learning rate, so that the rest
      recovers; twice as many if copies must be forgotten too and surrogate data is given.
    - At the end, the weights move back towards the original as far as everything stays forgotten.
    - Margin, feature retention and learning rate adapt to the run
      (:mod:`stakes.training.adaptive`, :mod:`stakes.training.schedule`), so that one set of
      defaults serves every network and k.
    """

    title: ClassVar[str] = "STRUCTGUARD"
    uses_surrogates: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    criterion: CriterionName = hyper(
        "deep",
        "when an image counts as forgotten. deep: its class is not among the first two "
        "choices and no more probable than chance; exact: it is misclassified (the paper's "
        "criterion); views: deep, for its mirrored, moved, scaled, noisy, darker, brighter "
        "and compressed copies too",
    )
    views_needed: float = hyper(
        0.88,
        "share of the watched copies (eight of each image, more where the images are few) that "
        "must meet the criterion; they are altered in several ways at once, so a larger share of "
        "plainly altered copies meets it",
        high=1,
    )
    cohorts: int = hyper(
        0,
        "number of cohorts that the forget images are unlearned in, one after the other; "
        "images of later cohorts are held as retain data until their turn; 0: 8 if copies "
        "must be forgotten (with surrogate data fewer, of at least eight images) or the "
        "images do not fit into one step, else 1; always 1 for whole classes",
    )
    forget_batch: int = hyper(128, "forget images per step", low=1)
    deletion_loss: DeletionLoss = hyper("hinge", "deletion loss; ce: the paper's -CE")
    towards: Literal["auto", "strongest", "second", "drawn"] = hyper(
        "auto",
        "class that the hinge pushes an image to. strongest: whichever wrong class leads at "
        "that step; second: the original's second choice; drawn: one of the original's next "
        "choices at random, so that it is hard to predict; auto: strongest for whole classes, "
        "else drawn if criterion is deep or views, else second if the images do not fit into "
        "one step, else strongest",
    )
    margin: float = hyper(
        0.3, "lead of a wrong class, in logits, at which the hinge stops pushing; it may grow"
    )
    retention_loss: RetentionLoss = hyper("kl", "retention loss; ce: the paper's")
    retention_weight: float = hyper(4.0, "weight of retention", "paper: 1")
    temperature: float = hyper(4.0, "temperature of the kl retention loss", above=0, high=100)
    feature_weight: float = hyper(
        128.0, "weight of the squared shift of the probes' features, in units of their variance"
    )
    align_weight: float = hyper(1.0, "weight of the structural alignment", "equation 2; paper: 1")
    align_loss: StructuralLoss = hyper("cosine", "how two structures are compared", "Table 6")
    anchor_map: MapKind = hyper("auto", "how anchors of another width are mapped to the features")
    optimizer: Literal["muon", "adam"] = hyper(
        "muon",
        "optimiser. muon: orthogonalised momentum for matrices and kernels of hidden layers, "
        "Adam for the rest; adam: Adam for all",
    )
    lr: float = hyper(1e-3, "initial learning rate", above=0, high=100)
    max_steps: int = hyper(3000, "step budget", low=1)
    batch_norm: Literal["eval", "train"] = hyper("eval", "BatchNorm mode during unlearning")
    depth: float = hyper(
        DEPTH, "share of the layers, counted from the head, that are trained", high=1
    )
    precision: Precision = hyper("auto", "number format of the passes through the network's body")
    settle: float = hyper(
        1.0,
        "steps at a decaying learning rate once everything is forgotten, as a share of the "
        "steps before, and at least 30; half of that share if images without copies are unlearned "
        "in cohorts; at least 60 if copies must be forgotten too; twice the share, and at least "
        "240 for a share of 1, if surrogate data is given for copies",
    )
    max_drift: float = hyper(
        0.2,
        "structural drift on held-out probes (mixtures of surrogate data, if given; else, with "
        "views, probes like those that are held) above which the learning rate is halved and the "
        "weights of the last check with at most half that drift are restored",
    )
    patience: int = hyper(
        20,
        "steps without progress after which the margin grows (few images left) or, after twice "
        "as many, the weight of the features is halved; 0: never",
    )
    pull_back: bool = hyper(
        True, "at the end, move the weights back towards the original while all stays forgotten"
    )

    def unlearn(self, task: Task) -> Unlearned:
        """Forget the images and preserve the structure around the stakes."""
        task.live.train(self.batch_norm == "train")
        with shallow(task.live, self.depth):
            history, ending, chosen = self._descend(task, Objective(self, task))
        return task.result(history, ending, chosen=chosen)

    def _descend(self, task: Task, objective: Objective) -> tuple[History, Ending, dict[str, Any]]:
        """Minimise the objective; gives the history, how it ended, and what the run chose."""
        views = CRITERIA[self.criterion].views
        settle, least = self._settling(objective)
        optimizer = self._optimizer(task)
        monitor = task.monitor(
            views=_watched(len(task.forget), objective.settings.probe_batch) if views else 0,
            needed=self.views_needed,
            goal=objective.goal,
            held=objective.probes.some if views else None,
        )
        schedule = Schedule(
            optimizer,
            warmup=WARMUP,
            settle=settle,
            settle_least=least,
            max_drift=self.max_drift,
            backoffs=BACKOFFS,
            buffers=task.live.buffers(),
        )
        with task.timed("unlearn"):
            history, ending = minimise(
                task.live,
                objective.terms,
                optimizer,
                monitor,
                max_steps=self.max_steps,
                check_every=CHECK_EVERY,
                check_now=lambda step: not views and step.recognised == 0,
                schedule=schedule,
                recognised=lambda: objective.balance.known,
                checkpoint=task.checkpoint,
                progress=task.progress,
            )
        chosen = self._chosen(schedule, objective)
        if self.pull_back and ending.outcome is Outcome.FORGOTTEN:
            with task.timed("pull_back"):
                chosen["pulled_back_to"] = pull_back(
                    task.live, task.original, lambda: monitor.check(task.live).forgotten
                )
            history[-1] |= monitor.check(task.live).row()
        return history, ending, chosen

    def _settling(self, objective: Objective) -> tuple[float, int]:
        """The settling, as a share of the steps before it, and its fewest steps."""
        if not CRITERIA[self.criterion].views:
            in_turns = objective.cohorts.count > 1
            return self.settle * (SETTLE_TURNS if in_turns else 1), SETTLE_LEAST
        if objective.surrogates is None:
            return self.settle, SETTLE_VIEWS
        return self.settle * SETTLE_LONGER, round(self.settle * SETTLE_SURROGATES)

    def _optimizer(self, task: Task) -> torch.optim.Optimizer:
        """What takes the steps."""
        parameters = list(task.trainable().values())
        if self.optimizer == "muon":
            head = set(task.live.head.parameters())
            layers = sum(p.ndim > 1 and p not in head for p in parameters)
            return Muon(parameters, head, lr=self.lr, rms=muon_step(layers))
        # PyTorch's faster way takes no mixture of divided weights and whole ones, as in the head.
        foreach = False if sharding.is_wanted() else None
        return torch.optim.Adam(parameters, lr=self.lr, foreach=foreach)

    def _chosen(self, schedule: Schedule, objective: Objective) -> dict[str, Any]:
        """What the run chose by itself, and why, for the row."""
        balance = objective.balance
        margin, scale = float(balance.margin.max()), float(balance.feature_scale)
        halved = ", ".join(map(str, schedule.halved_at))
        return {
            **objective.kind_of_probes(),
            "probe_batch": objective.settings.probe_batch,
            "cohorts": objective.cohorts.count,
            "cohorts_why": objective.cohorts_why,
            "towards": objective.towards,
            "towards_why": objective.towards_why,
            "lr": self.lr * 0.5 ** len(schedule.halved_at),
            "lr_why": f"drift above {self.max_drift}, or no finite loss, at step {halved}"
            if halved
            else "as given",
            "margin": margin,
            "margin_why": "the greatest of an image: the last ones kept coming back"
            if margin > self.margin
            else "as given",
            "feature_scale": scale,
            "feature_scale_why": "no progress in forgetting" if scale < 1 else "as given",
            "views_scale": float(objective.views_scale.value),
            "views_scale_why": objective.views_scale.why,
        }
