"""STRUCTGUARD as it measures best: forget, and keep the structure around semantic anchors."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stakes.data.views import random_view
from stakes.methods.base import hyper
from stakes.methods.probing import ProbeBatch, ProbeFields, ProbeSource, joined
from stakes.methods.structguard.surrogates import SurrogateProbes
from stakes.methods.task import Task, Unlearned
from stakes.rows import Outcome
from stakes.training.adaptive import AdaptiveMargin, ViewsScale
from stakes.training.criteria import CRITERIA, CriterionName, Goal
from stakes.training.loop import History, StopReason, minimise
from stakes.training.losses import (
    DELETION,
    RETENTION,
    STRUCTURAL,
    Answers,
    DeletionLoss,
    Push,
    RetentionLoss,
    StructuralLoss,
    alignment,
    feature_shift,
    margins,
)
from stakes.training.precision import Precision, autocast
from stakes.training.schedule import Schedule
from stakes.training.search import pull_back
from stakes.training.structure import MapKind, affinities
from stakes.training.targets import next_choices, second_choices

WATCHED_VIEWS = 8  # of each forget image: drawn once, looked at and never trained on
VIEWS_PER_IMAGE = 3  # fresh ones in every step
VIEWS_WEIGHT = 1.0  # of their deletion to begin with; the run changes it (see ViewsScale)
COHORTS = 8  # where copies are to be forgotten too, or a step cannot take all images
COHORT_STEPS = 30  # from one cohort's turn to the next; all have theirs in half of max_steps
WARMUP = 20  # steps over which the learning rate grows to its full value
SETTLE_LEAST, SETTLE_VIEWS = 30, 60  # steps: a run that was quick needs as many to recover in
CHECK_EVERY = 10  # steps: a look takes about as long as one
BACKOFFS = 5  # halvings of the learning rate: what drifts too far at 1/32 of it is a bad start
NEXT_CHOICES = 4  # that a destination is drawn from: one guess in four is right
MANY, ALL = "more images than a step takes", "a step takes all images"


@dataclass(frozen=True, kw_only=True)
class StructGuard(ProbeFields):
    """Structure-faithful unlearning after "Stake the Points" (CVPR 2026), with what measures best.

    The paper's method is :class:`~stakes.methods.structguard.paper.StructGuardPaper`, its authors'
    code :class:`~stakes.methods.structguard.reference.StructGuardReference`. This one keeps their
    idea (a structure around fixed anchors, held on surrogate data) and changes the parts: probes
    mixed afresh at every step, half of them within a class (where copies are to be forgotten too,
    from images made of the network's own statistics, :mod:`stakes.training.inversion`, and from the
    images turned, all altered as copies are); a hinge that stops pushing once an image is
    forgotten; retention of the original's soft answers and features; only the layers nearest the
    head change. A large forget set is unlearned in cohorts, and images of later cohorts are held
    as retain data until then; each image is then sent to the class that the original finds
    likeliest after its own, since else many follow the first to one class, and kept images with
    them. Margin, hold and learning rate adapt to the run (:mod:`stakes.training.adaptive`,
    :mod:`stakes.training.schedule`), so that one set of defaults serves every network and k.
    """

    title: ClassVar[str] = "STRUCTGUARD"
    uses_surrogates: ClassVar[bool] = True
    divisible: ClassVar[bool] = True

    criterion: CriterionName = hyper(
        "exact",
        "when an image counts as forgotten: it is misclassified (the paper's); deep: its class is "
        "not among the first two and no likelier than a blind guess; views: deep for its mirrored, "
        "moved, scaled, noisy, darker, brighter and compressed copies too",
    )
    views_needed: float = hyper(
        0.82,
        "share of eight watched views an image that has to meet the criterion; each is altered in "
        "several ways at once, so that more of plainer copies meet it",
        high=1,
    )
    cohorts: int = hyper(
        0,
        "parts of the forget images that are asked to go one after the other; until its turn a "
        "part is held as retained data is; 0: 8 where copies are to be forgotten without surrogate "
        "data or a step cannot take all images, else 1",
    )
    forget_batch: int = hyper(128, "forget images a step", low=1)
    deletion_loss: DeletionLoss = hyper("hinge", "deletion loss; ce is the paper's -CE")
    towards: Literal["auto", "strongest", "second", "drawn"] = hyper(
        "auto",
        "class that the hinge pushes an image to: the wrong one that is strongest by then; the "
        "second choice of the original; one drawn from its next choices, which cannot be foretold; "
        "auto: drawn where criterion is deep or views, else second where a step cannot take all "
        "images, else strongest",
    )
    margin: float = hyper(
        0.3, "lead of a wrong class, in logits, that the hinge asks for to begin with"
    )
    retention_loss: RetentionLoss = hyper("kl", "retention loss; ce is the paper's")
    retention_weight: float = hyper(4.0, "weight of retention", "paper: 1")
    temperature: float = hyper(4.0, "temperature of the kl retention", above=0, high=100)
    feature_weight: float = hyper(
        128.0, "weight of the features' squared shift on the probes, in variances of the features"
    )
    align_weight: float = hyper(1.0, "weight of the structural alignment", "equation 2; paper: 1")
    align_loss: StructuralLoss = hyper("cosine", "how two structures are compared", "Table 6")
    anchor_map: MapKind = hyper("auto", "how anchors are carried to the feature space")
    lr: float = hyper(1e-3, "learning rate to begin with", above=0, high=100)
    max_steps: int = hyper(3000, "step budget", low=1)
    batch_norm: Literal["eval", "train"] = hyper("eval", "mode of BatchNorm while unlearning")
    depth: float = hyper(
        1 / 3, "share of the layers, counted from the head, that may change", high=1
    )
    precision: Precision = hyper("auto", "arithmetic of the passes through the network's body")
    settle: float = hyper(
        1.0,
        "once all is forgotten, share of the steps done that follow at a decaying learning rate",
    )
    max_drift: float = hyper(
        0.2,
        "structural drift on held-out probes at which the learning rate is halved, and the run "
        "returns to where the drift was half of that",
    )
    patience: int = hyper(
        20,
        "steps without progress after which the margin grows (few images left) or, after twice "
        "as many, the hold on the features is halved; 0: never",
    )
    pull_back: bool = hyper(True, "at the end, go back towards the original while all is forgotten")

    def unlearn(self, task: Task) -> Unlearned:
        """Forget, holding the structure around the stakes."""
        with task.shallow(self.depth):
            history, reason, chosen = self._descend(task, Objective(self, task))
        return task.result(history, reason, chosen=chosen)

    def _descend(
        self, task: Task, objective: "Objective"
    ) -> tuple[History, StopReason, dict[str, Any]]:
        """Minimise the objective; the history, why it ended, and what was chosen on the way."""
        parameters = task.trainable().values()
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        task.live.train(self.batch_norm == "train")
        monitor = task.monitor(
            views=WATCHED_VIEWS if CRITERIA[self.criterion].views else 0,
            needed=self.views_needed,
            goal=objective.goal,
        )
        schedule = Schedule(
            optimizer,
            warmup=WARMUP,
            settle=self.settle,
            settle_least=SETTLE_VIEWS if CRITERIA[self.criterion].views else SETTLE_LEAST,
            max_drift=self.max_drift,
            backoffs=BACKOFFS,
            buffers=task.live.buffers(),
        )
        balance = objective.balance
        with task.timed("unlearn"):
            history, reason = minimise(
                task.live,
                objective.terms,
                optimizer,
                monitor,
                max_steps=self.max_steps,
                check_every=CHECK_EVERY,
                check_now=lambda step: not CRITERIA[self.criterion].views and balance.known == 0,
                schedule=schedule,
                checkpoint=task.checkpoint,
                progress=task.progress,
            )
        chosen = self._chosen(schedule, objective)
        if self.pull_back and reason.outcome is Outcome.FORGOTTEN:
            with task.timed("pull_back"):
                chosen["pulled_back_to"] = pull_back(
                    task.live, task.original, lambda: monitor.check(task.live).forgotten
                )
            history[-1] |= monitor.check(task.live).row()
        return history, reason, chosen

    def _chosen(self, schedule: Schedule, objective: "Objective") -> dict[str, Any]:
        """What the run chose by itself, and why, for the row."""
        balance = objective.balance
        halved = ", ".join(map(str, schedule.halved_at))
        return {
            **objective.kind_of_probes(),
            "probe_batch": objective.settings.probe_batch,
            "cohorts": objective.cohorts,
            "cohorts_why": objective.cohorts_why,
            "towards": objective.towards,
            "towards_why": objective.towards_why,
            "lr": self.lr * 0.5 ** len(schedule.halved_at),
            "lr_why": f"drift above {self.max_drift}, or no finite loss, at step {halved}"
            if halved
            else "as given",
            "margin": balance.margin,
            "margin_why": "the last images kept coming back"
            if balance.margin > self.margin
            else "as given",
            "feature_scale": balance.feature_scale,
            "feature_scale_why": "no progress in forgetting"
            if balance.feature_scale < 1
            else "as given",
            "views_scale": objective.views_scale.value,
            "views_scale_why": objective.views_scale.why,
        }


class Objective:
    """The named loss terms of one run."""

    def __init__(self, settings: StructGuard, task: Task) -> None:
        settings = replace(settings, probe_batch=settings.probes_a_step(task.original))
        self.settings = settings
        self._task = task
        device = task.stakes.device
        self.balance = AdaptiveMargin(
            len(task.forget), settings.margin, patience=settings.patience, device=device
        )
        self.views_scale = ViewsScale(1 - settings.views_needed, patience=settings.patience)
        self._autocast = autocast(settings.precision, device)
        self._copies = VIEWS_PER_IMAGE if CRITERIA[settings.criterion].views else 0
        self.probes, self.surrogates = self._sources()
        self._many = len(task.forget) > settings.forget_batch
        self.cohorts, self.cohorts_why = self._parts()
        self.towards, self.towards_why = self._destination()
        self.sent_to = self._sent_to()
        lead = CRITERIA[settings.criterion].lead
        self.goal = Goal(lead, self.sent_to if self.towards == "drawn" else None)
        self._batches = task.batches(len(task.forget), settings.forget_batch)
        task.checkpoint.keep(self.balance, self.views_scale)

    def terms(self, step: int) -> dict[str, Tensor]:
        """Every term of this step, already weighted; their plain sum is minimised."""
        task = self._task
        probes = self._held()
        batch = next(self._batches)
        asked = batch < self._asked(step)
        pick, waiting = batch[asked], batch[~asked]
        if len(waiting):
            probes = joined([probes, self.probes.answers(self._shown(waiting))])
        labels = task.forget.labels[pick]
        shown = self._shown(pick) if len(pick) else probes.images[:0]
        with self._autocast:
            features = task.live.features(torch.cat([shown, probes.images]))
        count = len(shown) - len(pick)
        shown, views, kept = features.float().split([len(pick), count, len(probes.images)])
        terms: dict[str, Tensor] = {}
        if len(pick):
            logits = task.live.head(shown)
            terms["deletion"] = self._deletion(logits, labels, pick, self.goal)
            self.balance.see(pick, self.goal.of(logits.detach(), labels, pick))
        if count:
            seen = labels.repeat(self._copies)
            logits = task.live.head(views)
            weight = self.views_scale.value * VIEWS_WEIGHT
            copies = pick.repeat(self._copies)
            terms["views"] = weight * self._deletion(logits, seen, copies, Goal(self.goal.lead))
            self.views_scale.see(self.goal.lead(logits.detach(), seen))
        return terms | self._retention(kept, probes)

    def _sources(self) -> tuple[ProbeSource, SurrogateProbes | None]:
        """Where probes come from: the forget images or the network, and surrogates if given."""
        settings, task = self.settings, self._task
        given, alone = task.surrogates, not self._copies
        if given is not None:  # they are the probes: none are to be made from the network
            settings = replace(settings, probes="mixed", pool=0)
        probes = ProbeSource(settings, task, self._autocast, hold_copies=alone)
        if given is None:
            return probes, None
        return probes, SurrogateProbes(given, task, probes.answers, alter=not alone)

    def kind_of_probes(self) -> dict[str, str]:
        """Which probes a step holds, and why, for the row."""
        if self.surrogates is not None:
            return {"probes": "surrogates", "probes_why": "as given"}
        return {"probes": self.probes.kind, "probes_why": self.probes.why}

    def _held(self) -> ProbeBatch:
        """What is held in a step."""
        if self.surrogates is None:
            return self.probes.draw()
        return self.surrogates.draw(self.settings.probe_batch // 2)

    def _asked(self, step: int) -> int:
        """How many forget images have had their turn in this step."""
        half = self.settings.max_steps // (2 * self.cohorts)
        turns = min(self.cohorts, 1 + (step - 1) // max(1, min(COHORT_STEPS, half)))
        return -(-turns * len(self._task.forget) // self.cohorts)

    def _shown(self, pick: Tensor) -> Tensor:
        """Forget images, and fresh copies of them where these are to be forgotten too."""
        images = self._task.forget.images[pick]
        copies = [random_view(images, self._task.generator) for _ in range(self._copies)]
        return torch.cat([images, *copies])

    def _deletion(self, logits: Tensor, labels: Tensor, pick: Tensor, goal: Goal) -> Tensor:
        """Of the logits of the forget images at ``pick``."""
        towards = None
        if self.sent_to is not None and self.goal.lead is margins and self.goal.towards is None:
            towards = self.sent_to[pick.to(labels.device)]
        lead = goal.of(logits, labels, pick)
        push = Push(logits, labels, lead, self.balance.margin, towards)
        return DELETION[self.settings.deletion_loss](push)

    def _retention(self, features: Tensor, probes: ProbeBatch) -> dict[str, Tensor]:
        settings, stakes = self.settings, self._task.stakes
        logits = self._task.live.head(features)
        answers = Answers(probes.labels, probes.logits, settings.temperature)
        kept = RETENTION[settings.retention_loss](logits, answers)
        terms = {"retention": settings.retention_weight * kept}
        if settings.feature_weight:
            shift = feature_shift(probes.features, features)
            terms["features"] = self.balance.feature_scale * settings.feature_weight * shift
        if settings.align_weight:
            before, after = affinities(probes.features, stakes), affinities(features, stakes)
            terms["alignment"] = settings.align_weight * self._misalignment(before, after)
        return terms

    def _misalignment(self, before: Tensor, after: Tensor) -> Tensor:
        """How far two structures (n, c) differ; by the cosine, probe by probe."""
        if self.settings.align_loss == "cosine":
            return alignment(before, after, over="probes")
        return STRUCTURAL[self.settings.align_loss](before, after)

    def _parts(self) -> tuple[int, str]:
        """How many parts the forget images are asked to go in, and why."""
        settings, k = self.settings, len(self._task.forget)
        if settings.cohorts:
            return min(k, settings.cohorts), "as given"
        if self._copies and self.surrogates is None:
            return min(k, COHORTS), "copies are to be forgotten too"
        return (min(k, COHORTS), MANY) if self._many else (1, ALL)

    def _destination(self) -> tuple[str, str]:
        """Which class the images are pushed to, and why.

        Where each goes to whatever is strongest by then, those of the second part find the way that
        those of the first have made, and what is kept goes with them.
        """
        if self.settings.towards != "auto":
            return self.settings.towards, "as given"
        if CRITERIA[self.settings.criterion].lead is not margins:
            return "drawn", "new answers are not to be foretold"
        return ("second", MANY) if self._many else ("strongest", ALL)

    def _sent_to(self) -> Tensor | None:
        """The class that each forget image is pushed to, where it is pushed to one."""
        task = self._task
        if self.towards == "strongest":
            return None
        before = self.probes.answers(task.forget.images).logits
        if self.towards == "second":
            return second_choices(before, task.forget.labels)
        return next_choices(before, task.forget.labels, NEXT_CHOICES, task.generator)
