"""STRUCTGUARD as it measures best: forget, and keep the structure around semantic anchors."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from stakes.methods.base import hyper
from stakes.methods.probing import ProbeFields
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task, Unlearned
from stakes.rows import Outcome
from stakes.training.criteria import CRITERIA, CriterionName
from stakes.training.loop import Ending, History, minimise
from stakes.training.losses import DeletionLoss, RetentionLoss, StructuralLoss
from stakes.training.precision import Precision
from stakes.training.schedule import Schedule
from stakes.training.search import pull_back
from stakes.training.structure import MapKind

WATCHED_VIEWS = 8  # of each forget image: drawn once, looked at and never trained on
WARMUP = 20  # steps over which the learning rate grows to its full value
SETTLE_LEAST, SETTLE_VIEWS = 30, 60  # steps: a run that was quick needs as many to recover in
CHECK_EVERY = 10  # steps: a look takes about as long as one
BACKOFFS = 5  # halvings of the learning rate: what drifts too far at 1/32 of it is a bad start


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
            history, ending, chosen = self._descend(task, Objective(self, task))
        return task.result(history, ending, chosen=chosen)

    def _descend(self, task: Task, objective: Objective) -> tuple[History, Ending, dict[str, Any]]:
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
            history, ending = minimise(
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
        if self.pull_back and ending.outcome is Outcome.FORGOTTEN:
            with task.timed("pull_back"):
                chosen["pulled_back_to"] = pull_back(
                    task.live, task.original, lambda: monitor.check(task.live).forgotten
                )
            history[-1] |= monitor.check(task.live).row()
        return history, ending, chosen

    def _chosen(self, schedule: Schedule, objective: Objective) -> dict[str, Any]:
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
