"""Checkpoints as trainers of many kinds write them."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stakes import Classifier, InputError
from stakes.models.networks import MODELS
from stakes.models.weights import read_weights


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return MODELS["digits_cnn"](4)


@pytest.fixture(scope="module")
def state(network) -> dict:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def doubled(state: dict) -> dict:
    return {n: t * 2 if t.is_floating_point() else t for n, t in state.items()}


LOSS = {"criterion.weight": torch.ones(4), "train_acc.total": torch.tensor(3)}
WAYS = {
    "plain": lambda s: s,
    "Lightning": lambda s: {"state_dict": under("model.", s), "epoch": 3, "loops": {}},
    "Lightning, losses beside": lambda s: {"state_dict": under("model.", s) | LOSS},
    "Lightning, compiled": lambda s: {"state_dict": under("model._orig_mod.", s) | LOSS},
    "Lightning, another attribute": lambda s: {"state_dict": under("classifier_net.", s) | LOSS},
    "AveragedModel": lambda s: under("module.", s) | {"n_averaged": torch.tensor(7)},
    "thop": lambda s: s | {"total_ops": torch.zeros(1), "stem.total_params": torch.zeros(1)},
    "data parallel, compiled": lambda s: {"model": under("_orig_mod.module.", s)},
    "optimizer beside": lambda s: {"model": s, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    "GAN": lambda s: {"D": s, "G": {"deconv.weight": torch.ones(2, 2)}},
    "arguments": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=Path("x"))},
    "numpy numbers": lambda s: {"state_dict": s, "best": np.float64(91.5), "n": np.int64(3)},
    "half": lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_network(way, state, tmp_path):
    torch.save(WAYS[way](state), tmp_path / "w.ckpt")
    found = Classifier.load("stakes:digits_cnn", weights=tmp_path / "w.ckpt")
    assert found.num_classes == 4
    for name, tensor in found.network_state().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-3, atol=1e-4)


SEVERAL = {
    "moving average": (lambda s: {"state_dict": s, "state_dict_ema": doubled(s)}, "state_dict_ema"),
    "torchvision": (
        lambda s: {
            "model": s,
            "model_ema": under("module.", doubled(s)) | {"n_averaged": torch.tensor(1)},
        },
        "model_ema",
    ),
    "two in one": (lambda s: under("student.", s) | under("teacher.", doubled(s)), "teacher"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_networks_one_is_asked_for(kind, state, tmp_path):
    made, key = SEVERAL[kind]
    torch.save(made(state), tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"several networks that fit.*{key}.*--weights-key"):
        Classifier.load("stakes:digits_cnn", weights=tmp_path / "w.pt")
    found = Classifier.load("stakes:digits_cnn", weights=tmp_path / "w.pt", weights_key=key)
    for name, tensor in found.network_state().items():
        torch.testing.assert_close(tensor, doubled(state)[name])
    with pytest.raises(InputError, match=r"--weights-key nothing.*w\.pt"):
        Classifier.load("stakes:digits_cnn", weights=tmp_path / "w.pt", weights_key="nothing")


def test_a_network_with_an_attribute_called_module_keeps_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from torch import nn\ninput_size = 8\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.module = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\n"
        "    def forward(self, x):\n        return self.module(x)\n"
    )
    bias = torch.tensor([1.0, 2.0, 3.0])
    torch.save({"module.1.weight": torch.zeros(3, 192), "module.1.bias": bias}, "w.pt")
    found = Classifier.load("own.py:Net", weights="w.pt")
    assert torch.equal(found.head.bias, bias)


def test_parts_of_a_file_are_read_by_their_index(state, tmp_path):
    names = sorted(state)
    parts = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for part, chosen in parts.items():
        save_file({name: state[name] for name in chosen}, tmp_path / part)
    places = {name: part for part, chosen in parts.items() for name in chosen}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(f'{{"weight_map": {str(places).replace(chr(39), chr(34))}}}')
    assert read_weights(index).keys() == state.keys()
    index.write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(InputError, match="parts"):
        read_weights(index)
