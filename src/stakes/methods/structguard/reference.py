"""STRUCTGUARD as its authors' public code runs, minus what is plainly a bug."""

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stakes.errors import InputError
from stakes.methods.adversarial import PASSES, Pairs, PGDFields
from stakes.methods.base import hyper
from stakes.methods.structguard.paths import descend
from stakes.methods.task import Task, Unlearned
from stakes.models.projector import Projector
from stakes.training.checkpoint import State
from stakes.training.importance import mean_gradient_magnitude
from stakes.training.losses import (
    alignment,
    deletion_ce,
    elastic_net,
    quadratic,
    retention_ce,
)
from stakes.training.structure import MapKind, affinities

PHI, HIDDEN = 0.99, 512  # share of L1 in the elastic net; hidden width of the projector


@dataclass(frozen=True, kw_only=True)
class StructGuardReference(PGDFields):
    """The settings and steps of the authors' code of "Stake the Points" (CVPR 2026), CIFAR-10.

    A step takes 128 probes in a fixed order and beside them 128 forget images; each batch passes
    through the network on its own, the forget images first, and -CE and CE count by their share of
    the step. The projector (d, 512, BatchNorm, ReLU, d) starts at random. Structures are compared
    row by row. The importance is taken once, in the second step, from gradients of batches with
    BatchNorm in train mode, and holds the weights from the third step of every pass on. The run
    ends at the first step, from the second pass on, after which the projected path misclassifies
    every forget image, or after 101 passes. The projector's BatchNorm is in train mode up to the
    first look at this path and in eval mode from then on, as there.

    Bugs that are not here: that code scores the projected path and saves the direct one (here what
    was scored is saved); makes its probes from the network that L2UL has just changed (here from
    the original); can ask a probe for its image's own class (never here). Its importance goes
    round the probes until it has counted as many as there are retained images, which no method
    without them can know; here it takes each once, which is nearly the same mean; BatchNorm's
    statistics stay nearer to the original's for the next twenty steps.

    Another difference: anchors of another width than the features are carried to them by one fixed
    map. For CIFAR-100, that code compares a random projection of the original's features with the
    hidden units of the projector.
    """

    title: ClassVar[str] = "STRUCTGUARD (reference)"

    eps: float = hyper(
        3.0,
        "radius of the PGD ball, L2 distance of [0, 1] pixels",
        "authors' code, CIFAR-10; CIFAR-100: 1",
    )
    probe_batch: int = hyper(128, "probes per step", "authors' code", low=2)
    lr: float = hyper(
        0.005,
        "learning rate of the network, SGD",
        "authors' code; CIFAR-100: .001",
        above=0,
        high=100,
    )
    projector_lr: float = hyper(
        0.009, "learning rate of p", "authors' code; CIFAR-100: .01", above=0, high=100
    )
    align_weight: float = hyper(1.0, "weight of the alignment", "authors' code")
    reg_weight: float = hyper(1.0, "weight of the regularisation", "authors' code")
    elastic_weight: float = hyper(1e-3, "weight of the head's elastic net", "authors' code")
    batch_norm: Literal["eval", "train"] = hyper("train", "BatchNorm mode", "authors' code")
    deploy: Literal["direct", "projected"] = hyper(
        "projected", "path to check and deploy: h(g(x)) or h(p(g(x)))", "authors' code"
    )
    anchor_map: MapKind = hyper("auto", "how anchors of another width are mapped to the features")
    max_steps: int = hyper(0, "step budget; 0: 101 passes over the probes", "authors' code")

    def unlearn(self, task: Task) -> Unlearned:
        """Train as that code does."""
        objective = Objective(self, task)
        task.live.train(self.batch_norm == "train")
        a_pass = objective.pairs.steps_per_pass
        return descend(
            task,
            objective.terms,
            objective.projector,
            lr=self.lr,
            projector_lr=self.projector_lr,
            deploy=self.deploy,
            max_steps=self.max_steps or PASSES * a_pass,
            prescribed=not self.max_steps,
            check_from=a_pass + 1,
        )


class Objective(State):
    """The terms of the authors' loss."""

    saved = ("_importance",)

    def __init__(self, settings: StructGuardReference, task: Task) -> None:
        self._settings, self._task, self._importance = settings, task, dict[str, Tensor]()
        self.projector = Projector(
            task.original.feature_width,
            hidden=HIDDEN,
            batch_norm=True,
            generator=task.generator,
        ).to(task.stakes.device)
        self._probes = settings.attack(task)
        self.pairs = Pairs(task, self._probes, settings.probe_batch, settings.forget_batch)
        if len(self._probes) % settings.probe_batch == 1:
            raise InputError(
                f"probe_batch={settings.probe_batch} leaves one of {len(self._probes)} probes "
                "for the last step of a pass, which the projector's BatchNorm cannot handle: "
                "change it"
            )
        self._extractor = {n: p for n, p in task.trainable().items() if not n.startswith("head.")}
        self._origin = {n: p.detach().clone() for n, p in self._extractor.items()}
        task.checkpoint.keep(self)

    def terms(self, step: int) -> dict[str, Tensor]:
        """Every term of a step, already weighted; their plain sum is minimised."""
        settings, task, pair = self._settings, self._task, next(self.pairs)
        of_pass, a_pass = (step - 1) % self.pairs.steps_per_pass, self.pairs.steps_per_pass
        self.projector.train(step <= a_pass + 1)
        deletion = deletion_ce(task.live(pair.images), pair.labels)
        projected = self.projector(task.live.features(pair.probes))
        retention = retention_ce(task.live.head(projected), pair.targets)
        with torch.no_grad():
            before = affinities(task.original.features(pair.probes), task.stakes)
        after = affinities(projected, task.stakes)
        terms = {
            "deletion": pair.share * deletion,
            "retention": (1 - pair.share) * retention,
            "alignment": settings.align_weight * alignment(before, after, over="probes"),
            "elastic_net": settings.elastic_weight * elastic_net([task.live.head.weight], PHI),
        }
        if step == 2 and of_pass == 1:
            self._importance = self._structural_importance()
        if of_pass > 1 and self._importance:
            held = quadratic(self._extractor, self._origin, self._importance)
            terms["regularisation"] = settings.reg_weight * held
        return terms

    def _structural_importance(self) -> dict[str, Tensor]:
        """Of batches of probes, in the order of the steps; BatchNorm statistics move."""
        task, mode = self._task, self._task.live.training
        original = task.original.copy().train(mode)

        def misalignment(images: Tensor) -> Tensor:
            with torch.no_grad():
                before = affinities(original.features(images), task.stakes)
            after = affinities(projector(task.live.features(images)), task.stakes)
            return alignment(before, after, over="probes")

        projector = copy.deepcopy(self.projector)
        with task.timed("importance"):
            return mean_gradient_magnitude(
                self._extractor,
                misalignment,
                self._probes.images,
                lambda done, total: task.progress("importance", done, total),
                batch_size=self._settings.probe_batch,
            )
