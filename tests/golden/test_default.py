"""The default against a plain loop: its terms, their weights, its cohorts and its warm-up."""

import math

import pytest
import torch
from torch.nn import functional as F

from golden.by_hand import SEED, apart, moved
from stakes import StructGuard
from stakes.anchors.anchors import Anchors
from stakes.data.augment import mixed

STEPS, LR = 8, 1e-3


@pytest.fixture
def stakes():
    """Four anchors as wide as the features, so that no map is between them; unit rows (c, d)."""
    return F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(3)), dim=1)


def without(z, i):
    """A row of logits, less one of them."""
    return torch.cat([z[:i], z[i + 1 :]])


def exact(z, y, t):
    """What is recognised still, and what it is pushed by, towards t or else the strongest."""
    return z[y] - without(z, y).max(), z[y] - (without(z, y).max() if t is None else z[t])


def deep(z, y, t):
    """Until y is third at best and below 1/c, and t, where it is sent, is the answer."""
    lead = max(
        z[y] - without(z, y).sort().values[-2],
        F.log_softmax(z, 0)[y] + math.log(len(z)),
        without(z, t).max() - z[t],
    )
    return lead, lead


def hinge(logits, labels, towards, criterion):
    """sum of relu(push + .3) over the ones not forgotten by .3, by sqrt(n m)."""
    total, known = torch.tensor(0.0), 0
    for z, y, t in zip(logits, labels.tolist(), towards, strict=True):
        lead, push = criterion(z, y, t)
        if lead + 0.3 > 0:
            known += 1
            total = total + push + 0.3
    return total / (len(labels) * max(1, known)) ** 0.5


def kl(teacher, student, temperature):
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


def mean_cosine(one, other):
    """Of the rows of two matrices."""
    dots = [a @ b / (a.norm() * b.norm()) for a, b in zip(one, other, strict=True)]
    return torch.stack(dots).mean()


def destinations(original, forget, batch_size, criterion, generator):
    """To the next choices of the original: one of them at random, the first, or just away."""
    logits = original(forget.images)
    own = F.one_hot(forget.labels, logits.shape[1]).bool()
    ranked = logits.masked_fill(own, -torch.inf).argsort(1, descending=True)[:, :-1]
    if criterion is deep:  # of four classes in all, three are left to draw from
        drawn = torch.randint(3, (len(forget), 1), generator=generator)
        return ranked.gather(1, drawn)[:, 0].tolist()
    if batch_size < len(forget):  # more images than a step takes
        return ranked[:, 0].tolist()
    return [None] * len(forget)


def trained_by_hand(network, original, forget, stakes, batch_size, cohorts, criterion):
    """Eight steps, BatchNorm in eval mode; a cohort more every two steps."""
    generator = torch.Generator().manual_seed(SEED)
    order, k = [], len(forget)
    sent = destinations(original, forget, batch_size, criterion, generator)
    for t in range(1, STEPS + 1):
        probes = mixed(forget.images, 64, generator, 0.15, forget.labels)
        if not order:
            order = torch.randperm(k, generator=generator).tolist()
        batch, order = order[:batch_size], order[batch_size:]
        asked = -(-min(cohorts, 1 + (t - 1) // 2) * k // cohorts)
        pushed = [i for i in batch if i < asked]
        held = torch.cat([probes, forget.images[[i for i in batch if i >= asked]]])
        with torch.no_grad():
            old = original.features(held)
            old_logits = original.head(old)
        new = network.features(held)
        loss = 4 * kl(old_logits, network.head(new), 4.0)
        shift = ((new - old) ** 2).sum(1).mean() / old.var(0, correction=0).sum()
        loss = loss + 128 * shift - mean_cosine(F.normalize(old, dim=1) @ stakes.T,
                                                F.normalize(new, dim=1) @ stakes.T)  # fmt: skip
        if pushed:
            logits, towards = network(forget.images[pushed]), [sent[i] for i in pushed]
            loss = loss + hinge(logits, forget.labels[pushed], towards, criterion)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, gradient in zip(network.parameters(), gradients, strict=True):
                p -= LR * t / 20 * gradient  # warm-up


@pytest.mark.parametrize("criterion", [deep, exact])
@pytest.mark.parametrize(("forget_batch", "cohorts"), [(128, 0), (6, 2)])
def test_eight_steps(forget_batch, cohorts, criterion, plain, small, ten, stakes, monkeypatch):
    # Adam takes a gradient that is nothing but rounding for a full step, and no two programs
    # round alike: the terms are compared by plain descent, and Adam below by its first step.
    monkeypatch.setattr(torch.optim, "Adam", torch.optim.SGD)
    method = StructGuard(
        max_steps=STEPS, probe_batch=64, forget_batch=forget_batch, cohorts=cohorts,
        precision="float32", optimizer="adam", lr=LR, criterion=criterion.__name__,
    )  # fmt: skip
    anchors = Anchors(stakes, small.class_names, {"encoder": "random"})
    result = method(small, ten, anchors=anchors, seed=SEED)
    parts = max(1, cohorts)
    trained_by_hand(plain.eval(), small, ten, stakes, forget_batch, parts, criterion)
    assert moved(plain, small) > 1e-3
    assert apart(plain, result.classifier) < 5e-7  # without the alignment alone: 2e-6


def test_the_first_step_is_adam_s_at_a_twentieth_of_the_learning_rate(small, ten):
    result = StructGuard(max_steps=1, optimizer="adam")(small, ten, seed=SEED)
    assert apart(small, result.classifier) == pytest.approx(1e-3 / 20, rel=1e-2)
