"""NegGrad against a plain loop, written from the definition and the settings of public code."""

import pytest
import torch
from torch.nn import functional as F

from golden.by_hand import SEED, all_misclassified, apart, moved
from stakes.methods import NegGrad

PUBLISHED = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "forget_batch": 128}
LOUD = {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.3, "forget_batch": 4}


def trained_by_hand(network, forget, settings, passes):
    """Whole passes over the forget images in order; the number of those it took."""
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    size = settings["forget_batch"]
    for done in range(1, passes + 1):
        for at in range(0, len(forget), size):
            logits = network(forget.images[at : at + size])
            network.zero_grad()
            (-F.cross_entropy(logits, forget.labels[at : at + size])).backward()
            with torch.no_grad():
                for name, p in network.named_parameters():
                    gradient = p.grad + settings["weight_decay"] * p
                    velocity[name] = settings["momentum"] * velocity[name] + gradient
                    p -= settings["lr"] * velocity[name]
        if all_misclassified(network, forget):
            return done
    return passes


@pytest.mark.parametrize("settings", [PUBLISHED, LOUD], ids=["published", "loud"])
def test_six_steps(settings, plain, small, ten):
    method = NegGrad()
    assert {name: getattr(method, name) for name in PUBLISHED} == PUBLISHED
    steps_a_pass = -(-len(ten) // settings["forget_batch"])
    result = NegGrad(max_steps=6, **settings)(small, ten, seed=SEED)
    trained_by_hand(plain, ten, settings, 6 // steps_a_pass)
    assert moved(plain, small) > 1e-3
    assert apart(plain, result.classifier) < 1e-5


def test_it_ends_with_the_first_pass_that_leaves_no_image_recognised(plain, small, ten):
    settings = LOUD | {"weight_decay": 1e-4}
    result = NegGrad(**settings)(small, ten, seed=SEED)
    passes = trained_by_hand(plain, ten, settings, 101)
    assert 1 < passes < 101
    assert result.history[-1]["step"] == 3 * passes


def test_it_ends_after_101_passes(small, ten):
    still = NegGrad(lr=1e-9, forget_batch=4)(small, ten, seed=SEED)
    assert still.history[-1]["step"] == 101 * 3
    assert still.stop_reason.startswith("complete")
