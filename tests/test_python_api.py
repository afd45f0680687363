"""What a program calls: own data everywhere, wrong types refused in a line, rows in a DataFrame."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from conftest import Tiny
from stakes import METHODS, Classifier, ForgetSet, InputError, NegGrad, evaluate, frame
from stakes.evaluation.own import Given
from stakes.preprocessing import Preprocessing

ONE_STEP = NegGrad(max_steps=1)
NUMBERS = ("acc_test", "acc_test_before", "acc_retain", "n_test", "n_retain", "forget_flip")


@pytest.fixture
def dataset(test_images):
    """The test images as a torch Dataset."""
    return TensorDataset(test_images.load(range(len(test_images))), test_images.labels)


# Own data


def test_own_data_gives_the_numbers_that_files_give(
    classifier, forget, train_images, test_images, dataset
):
    train = [
        {"image": Image.fromarray(pixels.permute(1, 2, 0).numpy()), "label": int(label)}
        for pixels, label in zip(train_images.pixels, train_images.labels, strict=True)
    ]
    after = ONE_STEP(classifier, forget).classifier
    wanted, _ = evaluate(classifier, after, forget, test=test_images, retain=train_images)
    row, _ = evaluate(classifier, after, forget, test=dataset, retain=train)
    assert wanted["n_retain"] == 160 - len(forget)
    assert {key: row[key] for key in NUMBERS} == {key: wanted[key] for key in NUMBERS}


def test_a_forget_set_of_own_data_is_that_of_the_training_set(train_images, forget):
    pixels, labels = train_images.pixels.numpy(), train_images.labels.tolist()
    places = list(forget.indices)
    for made in (
        ForgetSet.from_images(pixels[places], [labels[i] for i in places]),
        ForgetSet.from_tensors(pixels[places], [labels[i] for i in places]),
        ForgetSet.from_indices((pixels, labels), places),
    ):
        assert made.digest() == forget.digest()
        assert torch.equal(made.images, forget.images)
    assert ForgetSet.random((pixels, labels), 5, 0).digest() == (
        ForgetSet.random(train_images, 5, 0).digest()
    )


def test_images_to_forget_are_read_named_and_measured_as_asked():
    pictures = [(Image.new("RGB", (9, 6), (60 * i, 0, 0)), i) for i in (1, 2)]
    small = ForgetSet.from_images(pictures, names=["a", "b"], size=4, max_bytes=2 * 3 * 4 * 4 * 4)
    assert small.names == ("a", "b")
    assert small.images.shape == (2, 3, 4, 4)
    with pytest.raises(InputError, match="2 forget images of 6x6 need"):
        ForgetSet.from_images(pictures, max_bytes=2 * 3 * 6 * 6 * 4 - 1)
    read = ForgetSet.from_images(pictures, read=Preprocessing((3, 5)))
    assert read.images.shape == (2, 3, 3, 5)


def test_retained_data_of_ones_own_gives_the_same_bits(classifier, forget, train_images):
    method = METHODS["finetune"](max_steps=2, retain_samples=64, retain_batch=32)
    own = TensorDataset(train_images.load(range(len(train_images))), train_images.labels)
    one = method(classifier, forget, retain=train_images).classifier
    other = method(classifier, forget, retain=own).classifier
    assert one.digest() == other.digest() != classifier.digest()


# A forget set on disk


def test_a_forget_set_comes_back_as_it_was_saved(tmp_path: Path, forget):
    whole = replace(forget, classes=(0, 1), dropped=3, names=("é.png", *forget.names[1:]))
    for saved in (forget, whole, ForgetSet.from_tensors(forget.images, forget.labels)):
        saved.save(tmp_path / "set.safetensors")
        back = ForgetSet.load(tmp_path / "set.safetensors")
        assert torch.equal(back.images, saved.images)
        assert torch.equal(back.labels, saved.labels)
        for name in ("names", "indices", "dropped", "classes"):
            assert getattr(back, name) == getattr(saved, name)


@pytest.mark.usefixtures("no_umask")
def test_a_saved_forget_set_is_for_its_owner_and_replaces_another_in_one_step(tmp_path, forget):
    file = tmp_path / "set.safetensors"
    forget.save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600  # it holds the images
    before = file.read_bytes()
    with open(file, "rb") as reader:
        ForgetSet.from_tensors(torch.zeros(1, 3, 8, 8), [0]).save(file)
        assert reader.read() == before
    assert len(ForgetSet.load(file)) == 1


def test_another_file_is_no_forget_set(tmp_path: Path, classifier, forget):
    classifier.save(tmp_path)
    (tmp_path / "text.safetensors").write_text("hello")
    forget.save(tmp_path / "cut.safetensors")
    with safe_open(tmp_path / "cut.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = file.metadata()
    later = about | {"format": "stakes forget set 2"}
    odd = about | {"set": json.dumps(json.loads(about["set"]) | {"dropped": "some"})}
    save_file(tensors, tmp_path / "later.safetensors", later)
    save_file(tensors, tmp_path / "odd.safetensors", odd)
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-9])
    for name in ("model", "text", "cut", "later", "odd", "none"):
        with pytest.raises(InputError, match=rf"{name}\.safetensors: .*forget set") as refused:
            ForgetSet.load(tmp_path / f"{name}.safetensors")
        assert str(refused.value).count("give a file") == 1


# Wrong types


def test_wrong_types_are_refused_by_what_to_do(classifier, forget, dataset):
    plain, pair = Tiny(), (forget.images, forget.labels)
    refused = {
        "the network is a Tiny, .*wrap it": lambda: ONE_STEP(plain, forget),
        "the network is a str, .*load one": lambda: ONE_STEP("resnet18", forget),
        "the forget set is a tuple: make one": lambda: ONE_STEP(classifier, pair),
        "the forget set is a TensorDataset": lambda: ONE_STEP(classifier, dataset),
        "anchors are a Tensor: give Anchors": lambda: ONE_STEP(
            classifier, forget, anchors=torch.eye(4)
        ),
        "the network after is a Tiny": lambda: evaluate(classifier, plain, forget),
        "the network before is a list": lambda: evaluate([], classifier, forget),
        "the forget set is a list": lambda: evaluate(classifier, classifier, [1, 2]),
        "images are a str": lambda: evaluate(classifier, classifier, forget, test="data/"),
        "forget images are a list": lambda: ForgetSet.from_tensors([1, 2], [0, 1]),
        "a dict cannot be wrapped": lambda: Classifier.wrap({}, input_size=8),
        "a Classifier cannot be wrapped": lambda: Classifier.wrap(classifier, input_size=8),
        "label 1, but the classes are 0 to 0": lambda: ONE_STEP(
            Classifier.wrap(Tiny(1), input_size=8), forget
        ),
    }
    for message, call in refused.items():
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_retained_data_of_another_type_is_refused(classifier, forget):
    method = METHODS["finetune"](max_steps=1)
    with pytest.raises(InputError, match="float"):
        method(classifier, forget, retain=1.5)


# Own measures


def test_measures_of_ones_own_stand_in_the_row(classifier, forget, test_images):
    seen = []

    def first_logit(network: Classifier, given: Given) -> float:
        seen.append(network.training)
        with torch.no_grad():
            return network(given.forget.images)[0, 0]

    after = classifier.copy()
    nn.init.zeros_(after.head.weight)
    classifier.train()
    row, _ = evaluate(classifier, after, forget, metrics={"first_logit": first_logit})
    assert seen == [False, False]
    assert row["first_logit"] == pytest.approx(float(after.head.bias.detach()[0]))
    assert row["first_logit_before"] == float(classifier.eval()(forget.images)[0, 0])
    with pytest.raises(InputError, match="acc_test is measured already"):
        evaluate(classifier, after, forget, metrics={"acc_test": first_logit})


# Rows


def test_rows_become_a_frame_with_a_line_for_each_run(tmp_path: Path):
    pytest.importorskip("pandas")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "row.json").write_text(json.dumps({"seed": 1, "acc_test": 90.0}))
    lines = [json.dumps({"seed": seed, "acc_test": None}) for seed in (2, 3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    table = frame([{"seed": 0, "steps": 4}, tmp_path / "run", tmp_path])
    assert table["seed"].tolist() == [0, 1, 2, 3]
    assert table["acc_test"].isna().tolist() == [True, False, True, True]
    assert frame(tmp_path / "rows.jsonl")["seed"].mean() == 2.5
    assert frame({"seed": 5, "steps": 4})["seed"].tolist() == [5]


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_what_holds_no_rows_makes_no_frame(tmp_path: Path, text: str):
    pytest.importorskip("pandas")
    with pytest.raises(InputError, match=r"none.row\.json: no rows"):
        frame(tmp_path / "none" / "row.json")
    (tmp_path / "row.json").write_text(text)
    with pytest.raises(InputError, match=r"row\.json"):
        frame(tmp_path)


def test_without_pandas_a_frame_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match="pandas"):
        frame([])
