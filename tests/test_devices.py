"""Settings of accelerators: what a run changes in PyTorch, and puts back."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import torch

from conftest import Tiny
from stakes import Classifier, ForgetSet, InputError, StructGuard, evaluate
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


@contextmanager
def by_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "double": lambda: by_default(torch.float64),
    "half": lambda: by_default(torch.float16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast twice": lambda: nested(torch.autocast("cpu"), torch.autocast("cpu", torch.float16)),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
}


@contextmanager
def nested(*contexts: AbstractContextManager[object]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def told() -> tuple[object, ...]:
    """The settings that a caller may have made."""
    casts = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return casts, modes, depth, torch.get_default_dtype(), torch.get_default_device()


@pytest.fixture(scope="module")
def plainly(trained, forget, test_images):
    return computed(trained, forget, test_images)


def computed(network, forget, test_images) -> tuple[object, ...]:
    """What two methods and the scores come to; the first passes in half width on any machine."""
    default = StructGuard(max_steps=3, precision="bfloat16")(network, forget).classifier
    after = NegGrad(max_steps=2)(network, forget).classifier
    row, _ = evaluate(network, after, forget, test=test_images, thumbnails=False)
    return default.digest(), after.digest(), str(row)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_is_set_around_a_run_has_no_part_and_stays(
    name, trained, forget, test_images, plainly
):
    with SURROUNDINGS[name]():
        before = told()
        found = computed(trained, forget, test_images)
        assert told() == before
        with pytest.raises(InputError):
            NegGrad()(trained, forget, seed=-1)
        assert told() == before
    assert found == plainly


def test_what_was_made_in_inference_mode_can_be_changed(forget):
    with torch.inference_mode():
        network = Classifier.wrap(Tiny(), input_size=8)
        images = ForgetSet.from_tensors(forget.images.clone(), forget.labels.clone())
        after = NegGrad(max_steps=1)(network, images).classifier
        loaded = Classifier.load("stakes:digits_cnn")
    assert after.digest() != network.digest()
    assert not any(p.is_inference() for p in (*after.parameters(), *loaded.parameters()))


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
