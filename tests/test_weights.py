import os
import pickle
import random
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stakes.errors import InputError, some
from stakes.models.weights import read_safetensors, read_weights

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}


def same(found, wanted=STATE):
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin", ".safetensors"])
def test_every_suffix(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(STATE, path) if suffix == ".safetensors" else torch.save(STATE, path)
    assert same(read_weights(path))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1, "state": {}}},
        lambda state: {"model_state_dict": state, "best_prec1": torch.tensor(91.7)},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
        lambda state: {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
        lambda state: {k: nn.Parameter(v) for k, v in state.items()},
    ],
)
def test_every_way_to_save_a_state_dict(tmp_path, wrap, zipped):
    torch.save(wrap(STATE), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    found = read_weights(tmp_path / "w.pt")
    assert same(found)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_a_prefix_only_some_names_have_stays(tmp_path):
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(state, tmp_path / "w.pt")
    assert same(read_weights(tmp_path / "w.pt"), state)


def test_saved_safetensors_keep_their_names(tmp_path):
    state = {"module.a": torch.ones(1)}
    save_file(state, tmp_path / "w.safetensors")
    assert same(read_safetensors(tmp_path / "w.safetensors"), state)
    assert same(read_weights(tmp_path / "w.safetensors"), {"a": torch.ones(1)})


class Trap:
    """Pickled, it asks to create a file; whoever unpickles it runs that."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.open, (str(self.target), os.O_CREAT)


@pytest.mark.parametrize("layout", ["zip", "older", "plain pickle", "protocol 0"])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, layout):
    target, path = tmp_path / "run", tmp_path / "w.pt"
    content = {"state_dict": STATE, "extra": Trap(target)}
    if layout in ("zip", "older"):
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    else:
        with open(path, "wb") as file:
            pickle.dump(Trap(target), file, protocol=0 if layout == "protocol 0" else None)
    with pytest.raises(InputError, match=r"w\.pt was refused.* (posix|nt)\.open.*state_dict"):
        read_weights(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Trap(target)))
    assert target.exists(), "the trap does not work, so the test shows nothing"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_model_is_refused_by_name(tmp_path, zipped):
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear \(a whole pickled"):
        read_weights(tmp_path / "m.pt")


def cut(path: Path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_broken_files_are_told_in_one_line(tmp_path):
    path = tmp_path / "w.pt"
    with pytest.raises(InputError, match=r"w\.pt: no such file"):
        read_weights(path)
    with pytest.raises(InputError, match="is a folder"):
        read_weights(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"w\.pt is empty"):
        read_weights(path)
    for content in (
        b"<html>not found</html>",
        b"\x80",
        b"\x93.",
        b"\x8e" + b"\x7f" * 8,
        b"PK\x03\x04 no zip",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"w\.pt is cut off or not a PyTorch") as caught:
            read_weights(path)
        assert "\n" not in str(caught.value)
    for zipped in (True, False):
        cut(path, STATE, zipped)
        with pytest.raises(InputError, match=r"w\.pt is cut off or not a PyTorch"):
            read_weights(path)
    tensors = tmp_path / "w.safetensors"
    save_file(STATE, tensors)
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(InputError, match="safetensors"):
        read_weights(tensors)
    with pytest.raises(InputError, match="no such file"):
        read_safetensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("layout", ["zip", "older", "safetensors"])
def test_damaged_files_give_one_clear_line_or_finite_tensors(tmp_path, layout):
    path = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pt")
    if layout == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=layout == "zip")
    whole, generator = path.read_bytes(), random.Random(0)
    lines = []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(3):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            assert all(tensor.isfinite().all() for tensor in read_weights(path).values())
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 10
    assert all(path.name in line and "\n" not in line for line in lines)


def test_a_torchscript_program_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "m.pt")
    with pytest.raises(InputError, match="TorchScript"):
        read_weights(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds one bare tensor"),
        ([1, 2], "holds a list, not a state dict"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors, only 'epoch', 'lr'"),
        ({}, "holds no tensors, only an empty dict"),
        ({"state_dict": {}}, "holds no tensors, only 'state_dict'"),
    ],
)
def test_files_without_named_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=message):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_broken_numbers_are_named(tmp_path, value, suffix):
    state = STATE | {"conv.weight": torch.full((2, 2), value), "steps": torch.tensor(3)}
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(InputError, match=r"NaN or infinite values in conv\.weight;"):
        read_weights(path)


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"sparse or quantised tensors \(a\)"):
        read_weights(tmp_path / "w.pt")


def test_some_counts_what_it_leaves_out():
    assert some(["a"]) == "a"
    assert some([str(i) for i in range(9)], 2) == "0, 1 and 7 more"
