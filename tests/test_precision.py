"""What is computed in half width, and on which hardware."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from stakes.training import precision
from stakes.training.precision import autocast, has_bfloat16

CPU = torch.device("cpu")


@pytest.fixture
def layer() -> nn.Conv2d:
    layer = nn.utils.skip_init(nn.Conv2d, 3, 4, 3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )
    return layer


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("found", [True, False])
def test_auto_follows_the_hardware_and_the_weights_stay_as_they_are(
    found, layer, images, monkeypatch
):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: found)
    weight = layer.weight.clone()
    with autocast("auto", CPU):
        out = layer(images)
    assert out.dtype == (torch.bfloat16 if found else torch.float32)
    out.float().sum().backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32
    assert torch.equal(layer.weight, weight)


def test_what_was_asked_for_goes_before_the_hardware(layer, images, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    with autocast("float32", CPU):
        assert torch.equal(layer(images), layer(images.clone()))
        assert layer(images).dtype == torch.float32
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    with autocast("bfloat16", CPU):
        assert layer(images).dtype == torch.bfloat16


def test_half_width_is_near_repeatable_and_can_be_entered_again(layer, images):
    exact = layer(images)
    context = autocast("bfloat16", CPU)
    with context:
        first = layer(images)
    assert layer(images).dtype == torch.float32
    with context:
        assert torch.equal(layer(images), first)
    assert not torch.equal(first.float(), exact)
    assert torch.allclose(first.float(), exact, rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_processor_is_asked_what_it_can(found, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert has_bfloat16(CPU) is expected


def test_where_nothing_can_be_asked_it_is_full_width(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bfloat16(CPU)
    assert not has_bfloat16(torch.device("meta"))


def test_of_several_accelerators_the_one_that_is_used_is_asked(monkeypatch):
    current = [0]

    @contextmanager
    def use(device):
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", use)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation: not including_emulation and current[-1] == 1,
    )
    assert has_bfloat16(torch.device("cuda:1"))
    assert not has_bfloat16(torch.device("cuda:0"))
