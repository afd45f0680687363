"""Settings of accelerators: what a run changes in PyTorch, and puts back."""

import os

import pytest
import torch

from stakes import evaluate
from stakes.evaluation import evaluate as scoring
from stakes.methods import NegGrad, base
from stakes.training import devices
from stakes.training.devices import WORKSPACE, repeatable

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def settings() -> tuple[int, bool, bool]:
    filled = torch.utils.deterministic.fill_uninitialized_memory
    return torch.get_deterministic_debug_mode(), filled, torch.backends.cudnn.benchmark


def test_on_cuda_only_what_repeats_is_computed_and_settings_come_back(monkeypatch):
    monkeypatch.delenv(WORKSPACE[0], raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    within = []

    @repeatable(CUDA)
    def fail() -> None:
        within.append((*settings(), os.environ[WORKSPACE[0]]))
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert within == [(1, False, False, WORKSPACE[1])]  # 1: warns where an operation cannot
    assert settings() == before


def test_a_processor_needs_none_of_it(monkeypatch):
    monkeypatch.delenv(WORKSPACE[0], raising=False)
    before = settings()
    with repeatable(CPU):
        assert settings() == before
    assert WORKSPACE[0] not in os.environ


def test_unlearning_and_scoring_repeat(trained, forget, test_images, monkeypatch):
    """Both work within the block, on the device of the network."""
    asked = []

    def watched(device):
        asked.append(device)
        return devices.repeatable(device)

    monkeypatch.setattr(base, "repeatable", watched)
    monkeypatch.setattr(scoring, "repeatable", watched)
    after = NegGrad(max_steps=1)(trained, forget).classifier
    assert asked == [CPU]
    evaluate(trained, after, forget, test=test_images)
    assert asked == [CPU, CPU]
