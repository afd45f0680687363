"""What the default STRUCTGUARD minimises at each step, term by term."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stakes.data.transfer import to_device
from stakes.data.views import random_view
from stakes.methods.probing import ProbeBatch, ProbeSource, joined
from stakes.methods.structguard.cohorts import STEPS, STEPS_COPIES, Cohorts
from stakes.methods.structguard.surrogates import SurrogateProbes
from stakes.methods.task import Task
from stakes.training.adaptive import AdaptiveMargin, ViewsScale
from stakes.training.criteria import CRITERIA, Goal
from stakes.training.losses import (
    DELETION,
    RETENTION,
    STRUCTURAL,
    Answers,
    Push,
    alignment,
    feature_shift,
    margins,
)
from stakes.training.precision import autocast
from stakes.training.shared import SharedLayers, one_batch
from stakes.training.structure import affinities
from stakes.training.targets import next_choices, second_choices

if TYPE_CHECKING:  # the settings' own file imports this one
    from stakes.methods.structguard.default import StructGuard

VIEWS_PER_IMAGE = 3  # altered copies of each forget image, drawn afresh at each step
VIEWS_WEIGHT = 1.0  # initial weight of their deletion; the run adapts it (see ViewsScale)
COHORTS = 8  # where copies must be forgotten too, or the images do not fit into one step
COHORT = 8  # images of one at least, where surrogate data is held too
NEXT_CHOICES = 4  # classes that a target is drawn from: one guess in four is right
MANY, ALL = "more images than a step takes", "a step takes all images"
WHOLE = "whole classes are to be forgotten"


class Objective:
    """The named loss terms of one run.

    ``deletion`` and, where copies must be forgotten too, ``views`` push the forget images and
    fresh altered copies of them out of their class, by the lead of the criterion. ``retention``,
    ``features`` and ``alignment`` (equation 2) hold the logits, the features and the affinities of
    a step's probes to the original's. Images of cohorts that have not started are held like probes.

    Args:
        settings: the hyper-parameters.
        task: the call that they are for.

    Attributes:
        settings: the hyper-parameters, with the number of probes per step filled in.
        balance: the margins and the scale of ``features``, as the run adapts them.
        views_scale: the scale of ``views``, as the run adapts it.
        probes: makes the probes; it also gives the original's answers to any images.
        surrogates: draws probes from surrogate data, where some was given, else None.
        cohorts: whose turn it is.
        cohorts_why: why there are so many.
        towards, towards_why: how the target classes are chosen, and why.
        targets: int64 (k,), the class that each forget image is pushed to; None where it is the
            strongest wrong class of the step.
        goal: what the monitor checks: the criterion, and targets where they have to be reached:
            those that were drawn, and any in depth.

    Raises:
        InputError: ``probes="inverted"`` for a network without BatchNorm statistics.
    """

    def __init__(self, settings: "StructGuard", task: Task) -> None:
        settings = replace(settings, probe_batch=settings.probes_a_step(task.original))
        self.settings = settings
        self._task = task
        device = task.stakes.device
        self.views_scale = ViewsScale(
            1 - settings.views_needed, patience=settings.patience, device=device
        )
        self._autocast = autocast(settings.precision, device)
        with self._autocast:
            self._shared = SharedLayers(task.original, task.live, task.forget.images[0])
        self._copies = VIEWS_PER_IMAGE if CRITERIA[settings.criterion].views else 0
        self.probes, self.surrogates = self._sources()
        self._before = self.probes.answers(task.forget.images)
        self._many = len(task.forget) > settings.forget_batch
        self.cohorts, self.cohorts_why = self._choose_cohorts()
        self.balance = AdaptiveMargin(
            len(task.forget),
            settings.margin,
            patience=settings.patience,
            device=device,
        )
        self.towards, self.towards_why = self._choose_towards()
        self.targets = self._choose_targets()
        criterion = CRITERIA[settings.criterion]
        required = self.towards == "drawn" or criterion.lead is not margins
        words = criterion.words(task.original.num_classes)
        self.goal = Goal(criterion.lead, self.targets if required else None, words)
        self._batches = task.batches(len(task.forget), settings.forget_batch)
        task.checkpoint.keep(self.balance, self.views_scale)

    def terms(self, step: int) -> dict[str, Tensor]:
        """Every term of a step (from 1), already weighted; their plain sum is minimised.

        Where the features are to count for less, the other terms grow: Adam, which moves vectors
        and the head, remembers the size of gradients for a thousand steps, and would take ever
        smaller steps if one term shrank.
        """
        task = self._task
        probes = self._draw_probes()
        batch = next(self._batches)
        started = batch < self.cohorts.started(step)
        pick, waiting = (
            to_device(part, task.forget.labels.device) for part in (batch[started], batch[~started])
        )
        if len(waiting):
            probes = joined([probes, self.probes.answers(self._with_copies(waiting))])
        labels = task.forget.labels[pick]
        images = self._with_copies(pick) if len(pick) else probes.images[:0]
        copies = len(images) - len(pick)
        features = self._features(images, pick, probes)
        own, views, held = features.split([len(pick), copies, len(probes.images)])
        terms: dict[str, Tensor] = {}
        if len(pick):
            logits = task.live.head(own)
            terms["deletion"] = self._deletion(logits, labels, pick, self.goal)
            self.balance.see(pick, self.goal.of(logits.detach(), labels, pick))
        if copies:
            terms["views"] = self._views(views, labels, pick)
        terms |= self._retention(held, probes)
        if "features" not in terms:
            return terms
        scale = self.balance.feature_scale
        return {n: t if n == "features" else t / scale.to(t.dtype) for n, t in terms.items()}

    def _sources(self) -> tuple[ProbeSource, SurrogateProbes | None]:
        """Where probes come from: made for the run, and surrogates as many, if given."""
        settings, task = self.settings, self._task
        given, alone = task.surrogates, not self._copies
        if given is not None:
            settings = replace(settings, probe_batch=-(-settings.probe_batch // 2))
        probes = ProbeSource(settings, task, self._autocast, self._shared, hold_copies=alone)
        if given is None:
            return probes, None
        return probes, SurrogateProbes(given, task, probes, alter=not alone)

    def kind_of_probes(self) -> dict[str, str | int]:
        """The kind of probes and why, and how many surrogate images are held, for the row."""
        kind, why = self.probes.kind, self.probes.why
        if self.surrogates is None:
            return {"probes": kind, "probes_why": why}
        activations = ["activations"] if self.probes.activations is not None else []
        kinds = " and ".join(["surrogates", *activations, kind])
        return {"probes": kinds, "probes_why": why, "surrogates_held": self.surrogates.held}

    def _draw_probes(self) -> ProbeBatch:
        """The probes of a step: half of them surrogates, where some were given."""
        made = self.probes.draw()
        if self.surrogates is None:
            return made
        return joined([made, self.surrogates.draw(max(1, self.settings.probe_batch // 2))])

    def _features(self, images: Tensor, pick: Tensor, probes: ProbeBatch) -> Tensor:
        """Of the forget images at ``pick``, then their copies, then the probes."""
        own = tuple(output[pick] for output in self._before.outputs)
        parts = [own, probes.outputs]
        if len(images) > len(pick):
            parts.insert(1, self.probes.outputs(images[len(pick) :]))
        everything = torch.cat([images, probes.images])
        with self._autocast:
            return self._shared.features(self._task.live, everything, one_batch(parts)).float()

    def _with_copies(self, pick: Tensor) -> Tensor:
        """Forget images, and fresh copies of them where these must be forgotten too."""
        images = self._task.forget.images[pick]
        copies = [random_view(images, self._task.generator) for _ in range(self._copies)]
        return torch.cat([images, *copies])

    def _deletion(self, logits: Tensor, labels: Tensor, pick: Tensor, goal: Goal) -> Tensor:
        """The deletion loss of logits (n, c) that belong to the forget images at ``pick`` (n,)."""
        towards = None
        if self.targets is not None and self.goal.towards is None:
            towards = self.targets[pick]
        lead = goal.of(logits, labels, pick)
        margin = self.balance.margin[pick].to(lead.dtype)
        push = Push(logits, labels, lead, margin, towards)
        return DELETION[self.settings.deletion_loss](push)

    def _views(self, features: Tensor, labels: Tensor, pick: Tensor) -> Tensor:
        """The deletion loss of copies, features (m n, d), of the forget images at ``pick`` (n,)."""
        labels, copies = labels.repeat(self._copies), pick.repeat(self._copies)
        logits = self._task.live.head(features)
        loss = self._deletion(logits, labels, copies, Goal(self.goal.lead))
        weight = self.views_scale.value * VIEWS_WEIGHT
        self.views_scale.see(self.goal.lead(logits.detach(), labels))
        return weight.to(loss.dtype) * loss

    def _retention(self, features: Tensor, probes: ProbeBatch) -> dict[str, Tensor]:
        """What holds the probes, now of features (n, d), to the original's answers."""
        settings, stakes = self.settings, self._task.stakes
        logits = self._task.live.head(features)
        answers = Answers(probes.labels, probes.logits, settings.temperature)
        loss = RETENTION[settings.retention_loss](logits, answers)
        terms = {"retention": settings.retention_weight * loss}
        if settings.feature_weight:
            shift = feature_shift(probes.features, features)
            terms["features"] = settings.feature_weight * shift
        if settings.align_weight:
            before, after = affinities(probes.features, stakes), affinities(features, stakes)
            terms["alignment"] = settings.align_weight * self._misalignment(before, after)
        return terms

    def _misalignment(self, before: Tensor, after: Tensor) -> Tensor:
        """How far two structures (n, c) differ; the cosine is taken over the probes."""
        if self.settings.align_loss == "cosine":
            return alignment(before, after, over="probes")
        return STRUCTURAL[self.settings.align_loss](before, after)

    def _choose_cohorts(self) -> tuple[Cohorts, str]:
        """The cohorts that the forget images are unlearned in, and why they are so many.

        Of a whole class, later images would hold the network to the class that is to be forgotten.
        """
        settings, k = self.settings, len(self._task.forget)
        if settings.cohorts:
            count, why = settings.cohorts, "as given"
        elif self._task.forget.classes:
            count, why = 1, WHOLE
        elif self._copies:
            least = 1 if self.surrogates is None else COHORT
            count, why = min(COHORTS, max(1, k // least)), "copies are to be forgotten too"
        else:
            count, why = (COHORTS, MANY) if self._many else (1, ALL)
        pace = STEPS_COPIES if self._copies else STEPS
        return Cohorts(k, min(k, count), max_steps=settings.max_steps, pace=pace), why

    def _choose_towards(self) -> tuple[str, str]:
        """How the target classes are chosen, and why.

        With several cohorts, "strongest" would send later images the way that the first have
        opened, into one class, and retained images with them. Images of a whole class are alike:
        what sends each of two like images elsewhere has to tell them apart, which costs more.
        """
        if self.settings.towards != "auto":
            return self.settings.towards, "as given"
        if self._task.forget.classes:
            return "strongest", WHOLE
        if CRITERIA[self.settings.criterion].lead is not margins:
            return "drawn", "new answers are not to be foretold"
        return ("second", MANY) if self._many else ("strongest", ALL)

    def _choose_targets(self) -> Tensor | None:
        """The target class of each forget image (k,); None for the strongest at each step."""
        task = self._task
        if self.towards == "strongest":
            return None
        before, labels = self._before.logits, task.forget.labels
        if self.towards == "second":
            return second_choices(before, labels)
        return next_choices(before, labels, NEXT_CHOICES, task.generator)
