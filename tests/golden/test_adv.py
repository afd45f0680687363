"""Adv and L2UL against plain loops, written from their definition and their authors' settings."""

import dataclasses
from itertools import cycle

import pytest
import torch
from torch.nn import functional as F

from golden.by_hand import SEED, all_misclassified, apart, moved, pgd_by_hand
from stakes.methods import L2UL, Adv

PUBLISHED = {
    "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "probe_batch": 128, "forget_batch": 128,
}  # fmt: skip
#: So far from them that each setting tells in five steps; a pass takes three, the images two.
LOUD = {
    "lr": 0.02, "momentum": 0.5, "weight_decay": 0.3, "probe_batch": 70, "forget_batch": 6,
}  # fmt: skip
ITERATIONS = 5  # of PGD: once a target is reached, its gradient is mostly rounding


def importance_by_hand(network, images, batch):
    """MAS of public code: |gradient of the mean norm of a batch's logits|, in train mode."""
    total = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for at in range(0, len(images), batch):
        part = images[at : at + batch]
        network.zero_grad()
        norms = network(part).square().sum(1).sqrt()
        norms.mean().backward()
        for name, p in network.named_parameters():
            total[name] += p.grad.abs() * len(part) / len(images)
    network.zero_grad()
    return {
        name: (v - v.min()) / (v.max() - v.min()) if v.max() > v.min() else 0 * v
        for name, v in total.items()
    }


def trained_by_hand(network, original, forget, settings, steps, reg_weight=None):
    """Train ``network`` in place; the number of steps after which it stopped."""
    attack = {"eps": settings.get("eps", 4.0), "together": settings["forget_batch"]}
    attack |= {"per_image": 20, "iterations": ITERATIONS}
    probes, targets = pgd_by_hand(original, forget, **attack)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    if reg_weight is not None:
        other = original.copy().train()
        importance = importance_by_hand(other, forget.images, settings["forget_batch"])
    size, size_f = settings["probe_batch"], settings["forget_batch"]
    passes = cycle([slice(at, at + size) for at in range(0, len(probes), size)])
    beside = cycle([slice(at, at + size_f) for at in range(0, len(forget), size_f)])
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for step in range(1, steps + 1):
        now, now_f = next(passes), next(beside)
        x, y, x_f, y_f = probes[now], targets[now], forget.images[now_f], forget.labels[now_f]
        retention = F.cross_entropy(
            network(x), y
        )  # probes first, each batch through BatchNorm alone
        deletion = -F.cross_entropy(network(x_f), y_f)
        loss = (len(x) * retention + len(x_f) * deletion) / (len(x) + len(x_f))
        if reg_weight is not None:
            for name, p in network.named_parameters():
                freedom = 1 - importance[name]
                loss = loss + reg_weight / 2 * (freedom * (p - start[name]) ** 2).sum()
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, p in network.named_parameters():
                gradient = p.grad + settings["weight_decay"] * p
                velocity[name] = settings["momentum"] * velocity[name] + gradient
                p -= settings["lr"] * velocity[name]
        if all_misclassified(network, forget):
            return step
    return steps


@pytest.mark.parametrize("reg_weight", [None, 1.0], ids=["adv", "l2ul"])
@pytest.mark.parametrize("settings", [PUBLISHED, LOUD], ids=["published", "loud"])
def test_five_steps(settings, reg_weight, plain, small, ten):
    method = Adv() if reg_weight is None else L2UL()
    defaults = {name: getattr(method, name) for name in PUBLISHED}
    assert defaults == PUBLISHED
    assert method.pgd_iterations == 100
    if settings is LOUD and reg_weight is not None:
        reg_weight = 50.0
        method = dataclasses.replace(method, reg_weight=reg_weight)
    method = dataclasses.replace(method, max_steps=5, pgd_iterations=ITERATIONS, **settings)
    result = method(small, ten, seed=SEED)
    trained_by_hand(plain, small, ten, settings, 5, reg_weight)
    assert moved(plain, small) > 1e-3
    assert apart(plain, result.classifier) < 1e-5


@pytest.mark.parametrize("method", [Adv, L2UL])
def test_it_ends_with_the_first_step_that_leaves_no_image_recognised(method, plain, small, ten):
    reg_weight = None if method is Adv else 1.0
    settings = PUBLISHED | {"lr": 0.01, "probe_batch": 70, "eps": 1.0}
    result = method(pgd_iterations=ITERATIONS, **settings)(small, ten, seed=SEED)
    steps = trained_by_hand(plain, small, ten, settings, 100, reg_weight)
    assert 3 < steps < 100
    assert result.history[-1]["step"] == steps
    assert result.stop_reason.startswith("forgotten")


@pytest.mark.parametrize("method", [Adv, L2UL])
def test_it_ends_after_101_passes_over_the_probes(method, small, ten):
    few = {"probes_per_image": 2, "probe_batch": 11, "pgd_iterations": 1}
    still = method(lr=1e-9, **few)(small, ten, seed=SEED)
    assert still.history[-1]["step"] == 101 * 2  # 20 probes
    assert still.stop_reason.startswith("complete")
