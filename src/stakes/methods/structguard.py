"""STRUCTGUARD: forget, and keep the structure of features around semantic anchors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from stakes.data.views import random_view
from stakes.errors import InputError
from stakes.methods.base import hyper
from stakes.methods.probing import ProbeBatch, ProbeFields, ProbeSource, joined
from stakes.methods.task import Task, Unlearned
from stakes.models.classifier import Classifier
from stakes.models.projector import Projector
from stakes.training.adaptive import AdaptiveMargin, ViewsScale
from stakes.training.checkpoint import State
from stakes.training.importance import mean_gradient_magnitude
from stakes.training.loop import FORGOTTEN, History, minimise
from stakes.training.losses import (
    STRUCTURAL,
    AlignOver,
    StructuralLoss,
    alignment,
    deletion_ce,
    deletion_hinge,
    elastic_net,
    feature_shift,
    margins,
    quadratic,
    retention_ce,
    retention_kl,
)
from stakes.training.precision import Precision, autocast
from stakes.training.schedule import Schedule
from stakes.training.search import pull_back
from stakes.training.structure import MapKind, affinities
from stakes.training.targets import second_choices

WATCHED_VIEWS = 8  # of each forget image, drawn once
COHORTS = 8
MANY, ALL = "more images than a step takes", "a step takes all images"


Draw = tuple[Tensor, ProbeBatch, float, float]
"""Indices of forget images, probes, and the weights of the deletion's and the probes' terms."""


@dataclass(frozen=True, kw_only=True)
class StructGuard(ProbeFields):
    """Structure-faithful unlearning ("Stake the Points", CVPR 2026), with what measures best.

    ``StructGuard.paper()`` is the method of the paper (equations 1-4)::

        L = -CE(h(g(x_f)), y_f) + CE(h(p(g(x_s))), y_s)                deletion, retention
            - 1/b sum_i cos(S_ori_i, S_unl_i)                          alignment, eq. 2
            + 1/2 sum_i I_i (psi_i - psi_i_ori)^2                      regularisation, eq. 3-4
            + elastic net of the head

    with features g, head h, projector p, PGD probes x_s. ``StructGuard.reference()`` has the
    settings of the authors' public code. The default keeps the idea (a structure around fixed
    anchors, held on stand-ins for the absent data) and changes the parts: probes mixed afresh at
    every step, half of them within a class (where copies are to be forgotten too, from images made
    of the network's own statistics, :mod:`stakes.training.inversion`, and from the images turned,
    all altered as copies are); a hinge that stops pushing once an image is forgotten; retention of
    the original's soft answers and features; only the layers nearest the head change. Where much
    is to be forgotten, it is asked for part by part, and the images whose turn is still to
    come, being real training data, are held as such; each image is then sent to the class that
    the original finds likeliest after its own, since else many follow the first to one class, and
    kept images with them. Margin, hold and step size adapt to the run
    (:mod:`stakes.training.adaptive`, :mod:`stakes.training.schedule`), so that one set of defaults
    serves every network and k.

    Differences from the authors' code: the path that is deployed is the one that is measured;
    probes attack the original network and never ask for the true class; importance is taken per
    sample in eval mode; anchors of any width are carried to the features by one fixed map; p has
    no BatchNorm and starts at the identity.
    """

    title: ClassVar[str] = "STRUCTGUARD"
    presets: ClassVar[tuple[str, ...]] = ("paper", "reference")

    criterion: Literal["exact", "views"] = hyper(
        "exact",
        "what is to be misclassified: the images (the paper's), or mirrored, moved, "
        "scaled, noisy, darker, brighter and compressed copies of them too",
    )
    views_per_image: int = hyper(3, "fresh views of each forget image a step", low=1)
    views_weight: float = hyper(0.5, "weight of the deletion of views to begin with")
    views_needed: float = hyper(
        0.92, "share of eight watched views an image that has to be wrong", high=1
    )
    cohorts: int = hyper(
        0,
        "parts of the forget images that are asked to go one after the other; until its turn a "
        "part is held as retained data is; 0: 8 where copies are to be forgotten too or a step "
        "cannot take all images, else 1",
    )
    cohort_steps: int = hyper(
        30, "steps from one part's turn to the next; all have theirs in half of max_steps", low=1
    )
    forget_batch: int = hyper(128, "forget images a step", low=1)
    batches: Literal["paired", "union"] = hyper(
        "paired",
        "each step takes a forget and a probe batch, or probe_batch images of their shuffled "
        "union, its terms weighted by their share",
        "union: authors' code",
    )
    deletion: Literal["hinge", "ce"] = hyper("hinge", "deletion loss; ce is the paper's -CE")
    towards: Literal["auto", "strongest", "second"] = hyper(
        "auto",
        "class that the hinge pushes an image to: the wrong one that is strongest by then; the "
        "second choice of the original; auto: second where a step cannot take all images, else "
        "strongest",
    )
    margin: float = hyper(
        0.3, "lead of a wrong class, in logits, that the hinge asks for to begin with"
    )
    retention: Literal["kl", "ce"] = hyper("kl", "retention loss; ce is the paper's")
    retention_weight: float = hyper(4.0, "weight of retention", "paper: 1")
    temperature: float = hyper(4.0, "temperature of the kl retention")
    feature_weight: float = hyper(
        128.0, "weight of the features' squared shift on the probes, in variances of the features"
    )
    align_weight: float = hyper(1.0, "weight of the structural alignment", "equation 2; paper: 1")
    align_loss: StructuralLoss = hyper("cosine", "how two structures are compared", "Table 6")
    align_over: AlignOver = hyper(
        "probes",
        "cosine alone: cosines of the structure's rows (probes) or columns (anchors)",
        "equation 2",
    )
    anchor_map: MapKind = hyper("auto", "how anchors are carried to the feature space")
    reg_weight: float = hyper(0.0, "weight of the structural regularisation", "equation 3")
    importance_every: int = hyper(50, "steps between two estimates of the importance", low=1)
    importance_probes: int = hyper(128, "probes an importance estimate uses", "equation 4", low=1)
    elastic_weight: float = hyper(0.0, "weight of the head's elastic net", "authors' code: 1e-3")
    elastic_phi: float = hyper(0.99, "share of L1 in the elastic net", "authors' code")
    projector: bool = hyper(False, "put the projector p before the head in retention")
    projector_lr: float = hyper(0.009, "step size of the projector", "authors' code, CIFAR-10")
    deploy: Literal["direct", "projected"] = hyper(
        "direct", "path that is measured and saved: h(g(x)), or h(p(g(x)))"
    )
    optimizer: Literal["adam", "sgd"] = hyper("adam", "optimiser; sgd has no momentum")
    lr: float = hyper(1e-3, "step size to begin with")
    max_steps: int = hyper(3000, "step budget", low=1)
    check_every: int = hyper(10, "steps between two looks at forgetting and drift", low=1)
    batch_norm: Literal["eval", "train"] = hyper("eval", "mode of BatchNorm while unlearning")
    depth: float = hyper(
        1 / 3, "share of the layers, counted from the head, that may change", high=1
    )
    precision: Precision = hyper("auto", "arithmetic of the passes through the network's body")
    warmup: int = hyper(20, "steps over which the step size grows to its full value")
    settle: float = hyper(
        1.0, "once all is forgotten, share of the steps done that follow with a falling step size"
    )
    settle_least: int = hyper(30, "the fewest steps that settling takes")
    max_drift: float = hyper(
        0.2,
        "structural drift on held-out probes at which the step size is halved, and the run "
        "goes back to where the drift was half of that",
    )
    backoffs: int = hyper(5, "how many times the step size may be halved")
    patience: int = hyper(
        20,
        "steps without progress after which the margin grows (few images left) or, after twice "
        "as many, the hold on the features is halved; 0: never",
    )
    pull_back: bool = hyper(True, "at the end, go back towards the original while all is forgotten")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batches == "union" and not self.pool and self.probes not in ("pgd", "both"):
            raise InputError(
                "batches=union needs fixed probes: set probes to pgd or both, or a pool"
            )
        if self.batches == "union" and self.cohorts > 1:
            raise InputError("batches=union takes all images at once: set cohorts to 1")
        if self.deploy == "projected" and not self.projector:
            raise InputError("deploy=projected needs a projector: set projector")

    @classmethod
    def paper(cls, **changes: object) -> Self:
        """The method of the paper; what it leaves open is as in the authors' code.

        The projector's step size is 1e-3 and not their .009, which belongs to a projector with
        BatchNorm and a random start: from the identity it takes steps as large as the squared
        norm of the features, and .009 broke the structure within ten. BatchNorm is in train mode:
        without its batch statistics nothing bounds -CE, and the network ends at chance.
        """
        settings: dict[str, object] = {
            "probes": "pgd", "eps": 3.0, "probe_batch": 128, "deletion": "ce", "retention": "ce",
            "retention_weight": 1.0, "feature_weight": 0.0, "align_weight": 1.0,
            "align_over": "anchors", "cohorts": 1, "reg_weight": 1.0, "elastic_weight": 1e-3,
            "projector": True, "projector_lr": 1e-3, "batches": "union", "optimizer": "sgd",
            "lr": 0.005, "warmup": 0, "settle": 0.0, "pull_back": False, "batch_norm": "train",
            "depth": 1.0, "backoffs": 0, "patience": 0, "check_every": 1,
        }  # fmt: skip
        return cls(**(settings | changes))  # type: ignore[arg-type]

    @classmethod
    def reference(cls, **changes: object) -> Self:
        """The paper with what the authors' code does otherwise: rows of S, their projector lr."""
        settings: dict[str, object] = {"align_over": "probes", "projector_lr": 0.009}
        return cls.paper(**(settings | changes))

    def unlearn(self, task: Task) -> Unlearned:
        """Forget, holding the structure around the stakes."""
        with task.shallow(self.depth):
            objective = Objective(self, task)
            history, reason, chosen = self._descend(task, objective)
        if objective.projector is None:
            return task.result(history, reason, chosen=chosen)
        paths: dict[str, Classifier] = {
            "direct": task.live.eval(),
            "projected": task.live.copy().eval(),
        }
        paths["projected"].projector = objective.projector
        deployed = paths.pop(self.deploy)
        return task.result(history, reason, chosen=chosen, classifier=deployed, other=paths)

    def _descend(self, task: Task, objective: "Objective") -> tuple[History, str, dict[str, Any]]:
        """Minimise the objective; the history, why it ended, and what was chosen on the way."""
        parameters = task.trainable().values()
        if self.optimizer == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, lr=self.lr)
        else:
            optimizer = torch.optim.SGD(parameters, lr=self.lr)
        if objective.projector is not None:
            optimizer.add_param_group(
                {"params": objective.projector.parameters(), "lr": self.projector_lr}
            )
        task.live.train(self.batch_norm == "train")
        monitor = task.monitor(
            objective.projector if self.deploy == "projected" else None,
            views=WATCHED_VIEWS if self.criterion == "views" else 0,
            needed=self.views_needed,
        )
        schedule = Schedule(
            optimizer,
            warmup=self.warmup,
            settle=self.settle,
            settle_least=self.settle_least,
            max_drift=self.max_drift,
            backoffs=self.backoffs,
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
                check_every=self.check_every,
                check_now=lambda: self.criterion == "exact" and balance.known == 0,
                schedule=schedule,
                checkpoint=task.checkpoint,
                progress=task.progress,
            )
        chosen = self._chosen(schedule, objective)
        if self.pull_back and reason == FORGOTTEN:
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
            "probes": objective.probes.kind,
            "probes_why": objective.probes.why,
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
            "hold": balance.hold,
            "hold_why": "no progress in forgetting" if balance.hold < 1 else "as given",
            "push": objective.push.value,
            "push_why": objective.push.why,
        }


class Objective(State):
    """The named loss terms of one run."""

    saved = ("_importance",)

    def __init__(self, settings: StructGuard, task: Task) -> None:
        self.settings = settings
        self._task = task
        width = task.original.feature_width
        device = task.stakes.device
        self.projector = Projector(width).to(device) if settings.projector else None
        self.balance = AdaptiveMargin(
            len(task.forget), settings.margin, patience=settings.patience, device=device
        )
        self.push = ViewsScale(1 - settings.views_needed, patience=settings.patience)
        self._autocast = autocast(settings.precision, device)
        self._parameters = task.trainable()
        self._origin = {n: p.detach().clone() for n, p in self._parameters.items()}
        self._importance: dict[str, Tensor] = {}
        self._copies = settings.views_per_image if settings.criterion == "views" else 0
        self.probes = ProbeSource(settings, task, self._autocast, hold_copies=not self._copies)
        self._many = settings.batches == "paired" and len(task.forget) > settings.forget_batch
        self.cohorts, self.cohorts_why = self._parts()
        self.towards, self.towards_why = self._destination()
        self._second: Tensor | None = None
        if self.towards == "second":
            before = self.probes.answers(task.forget.images).logits
            self._second = second_choices(before, task.forget.labels)
        self._draw = self._union() if settings.batches == "union" else self._paired()
        task.checkpoint.keep(self, self.balance, self.push)

    def terms(self, step: int) -> dict[str, Tensor]:
        """Every term of this step, already weighted; their plain sum is minimised."""
        settings, task = self.settings, self._task
        batch, probes, share, rest = self._draw()
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
            terms["deletion"] = share * self._deletion(logits, labels, pick)
            self.balance.see(pick, margins(logits.detach(), labels))
        if count:
            seen = labels.repeat(self._copies)
            logits = task.live.head(views)
            weight = self.push.value * settings.views_weight * share
            terms["views"] = weight * self._deletion(logits, seen, pick.repeat(self._copies))
            self.push.see(margins(logits.detach(), seen))
        if len(kept):
            terms |= self._retention(kept, probes, rest)
        if settings.reg_weight:
            if (step - 1) % settings.importance_every == 0:
                self._importance = self._structural_importance()
            drifted = quadratic(self._parameters, self._origin, self._importance)
            terms["regularisation"] = settings.reg_weight * drifted
        if settings.elastic_weight:
            head = elastic_net(task.live.head.parameters(), settings.elastic_phi)
            terms["elastic_net"] = settings.elastic_weight * head
        return terms

    def _asked(self, step: int) -> int:
        """How many forget images have had their turn in this step."""
        half = self.settings.max_steps // (2 * self.cohorts)
        turns = min(self.cohorts, 1 + (step - 1) // max(1, min(self.settings.cohort_steps, half)))
        return -(-turns * len(self._task.forget) // self.cohorts)

    def _shown(self, pick: Tensor) -> Tensor:
        """Forget images, and fresh copies of them where these are to be forgotten too."""
        images = self._task.forget.images[pick]
        copies = [random_view(images, self._task.generator) for _ in range(self._copies)]
        return torch.cat([images, *copies])

    def _deletion(self, logits: Tensor, labels: Tensor, pick: Tensor) -> Tensor:
        """Of logits that bypass the projector (Sec. 3.3), of the forget images at ``pick``."""
        if self.settings.deletion == "ce":
            return deletion_ce(logits, labels)
        towards = None if self._second is None else self._second[pick.to(labels.device)]
        return deletion_hinge(logits, labels, self.balance.margin, towards)

    def _retention(self, features: Tensor, probes: ProbeBatch, share: float) -> dict[str, Tensor]:
        settings = self.settings
        projected = features if self.projector is None else self.projector(features)
        logits = self._task.live.head(projected)
        if settings.retention == "ce":
            kept = retention_ce(logits, probes.labels)
        else:
            kept = retention_kl(logits, probes.logits, settings.temperature)
        terms = {"retention": share * settings.retention_weight * kept}
        if settings.feature_weight:
            shift = feature_shift(probes.features, projected)
            terms["features"] = self.balance.hold * settings.feature_weight * shift
        if settings.align_weight:
            stakes = self._task.stakes
            before, after = affinities(probes.features, stakes), affinities(projected, stakes)
            terms["alignment"] = settings.align_weight * self._misalignment(before, after)
        return terms

    def _misalignment(self, before: Tensor, after: Tensor) -> Tensor:
        """How far two structures (n, c) differ; the cosine's alone depends on the direction."""
        if self.settings.align_loss == "cosine":
            return alignment(before, after, self.settings.align_over)
        return STRUCTURAL[self.settings.align_loss](before, after)

    def _paired(self) -> Callable[[], Draw]:
        """Draws a batch of forget images and one of probes, both counted in full."""
        settings, task = self.settings, self._task
        forget = task.batches(len(task.forget), settings.forget_batch)

        def draw() -> Draw:
            probes = self.probes.draw()
            return next(forget), probes, 1.0, 1.0

        return draw

    def _parts(self) -> tuple[int, str]:
        """How many parts the forget images are asked to go in, and why."""
        settings, k = self.settings, len(self._task.forget)
        if settings.cohorts or settings.batches == "union":
            return min(k, max(1, settings.cohorts)), "as given"
        if self._copies:
            return min(k, COHORTS), "copies are to be forgotten too"
        return (min(k, COHORTS), MANY) if self._many else (1, ALL)

    def _destination(self) -> tuple[str, str]:
        """Which class the images are pushed to, and why.

        Where each goes to whatever is strongest by then, those of the second part find the way that
        those of the first have made, and what is kept goes with them.
        """
        if self.settings.towards != "auto":
            return self.settings.towards, "as given"
        return ("second", MANY) if self._many else ("strongest", ALL)

    def _union(self) -> Callable[[], Draw]:
        """Draws batches of the union of forget images and fixed probes, as in public code."""
        fixed = self.probes.fixed
        assert fixed is not None  # or the settings would have been refused
        k = len(self._task.forget)
        size = k + len(fixed.labels)
        batches = self._task.batches(size, self.settings.probe_batch)

        def draw() -> Draw:
            batch = next(batches)
            pick, rest = batch[batch < k], batch[batch >= k] - k
            share = len(pick) / len(batch)
            return pick, fixed.at(rest), share, 1.0 - share

        return draw

    def _structural_importance(self) -> dict[str, Tensor]:
        """I (equation 4) of the feature extractor as it is now, from a draw of the probes.

        The loss of a single probe is the cosine of its row: a column of one entry has none.
        """
        task, settings = self._task, self.settings
        probes = self.probes.some(settings.importance_probes)
        extractor = {n: p for n, p in self._parameters.items() if not n.startswith("head.")}

        def misalignment(image: Tensor) -> Tensor:
            with torch.no_grad():
                before = affinities(task.original.features(image), task.stakes)
            features = task.live.features(image)
            projected = features if self.projector is None else self.projector(features)
            return alignment(before, affinities(projected, task.stakes), over="probes")

        training = task.live.training
        task.live.eval()
        with task.timed("importance"):
            importance = mean_gradient_magnitude(
                extractor,
                misalignment,
                probes,
                lambda done, total: task.progress("importance", done, total),
            )
        task.live.train(training)
        return importance
