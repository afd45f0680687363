"""From the words of a command to checked inputs."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from command_line import write_images
from conftest import CLASSES, blobs
from stakes import Anchors, Classifier, InputError
from stakes.anchors import anchor_file, sources
from stakes.anchors.sources import resolve_anchors
from stakes.data import datasets
from stakes.methods import NegGrad
from stakes.models.checks import usable_device
from stakes.runs.inputs import Inputs, NetworkInputs
from stakes.runs.load import load, load_images, load_network, pick_device


def inputs(place: Path, **changes) -> Inputs:
    known = {
        "model": "stakes:digits_cnn", "input_size": 8, "weights": place / "net.th",
        "data": str(place / "data"), "forget": "random:3", "device": "cpu",
    }  # fmt: skip
    return Inputs(**{**known, **changes})


def test_the_classes_of_the_data_in_the_order_of_their_names(place):
    loaded = load(inputs(place))
    names = tuple(sorted(CLASSES))
    assert loaded.classifier.class_names == loaded.splits.class_names == names
    images, labels = loaded.splits.train.load(range(40)), loaded.splits.train.labels
    assert (loaded.classifier(images).argmax(1) == labels).all()
    assert loaded.anchors.class_names == names
    assert loaded.anchors.card["name"] == "head"


def test_a_network_needs_no_forget_set(place):
    words = {"model": "stakes:digits_cnn", "weights": place / "net.th", "device": "cpu"}
    network = load_network(NetworkInputs(**words, input_size=8, data=str(place / "data")))
    assert network.classifier.digest() == load(inputs(place)).classifier.digest()
    assert (len(network.splits.train), len(network.splits.test)) == (40, 20)
    assert load_network(NetworkInputs(**words), names=tuple("abcd")).splits is None
    with pytest.raises(InputError, match="the classes are not known"):
        load_network(NetworkInputs(**words))


def test_data_and_anchors_are_loaded_once(place, tmp_path, monkeypatch):
    calls = []

    def counted(module, name):
        whole = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, **more: calls.append(name) or whole(*given, **more)
        )

    counted(datasets, "class_files")
    counted(sources, "prototypes")
    monkeypatch.setitem(
        datasets.DATASETS, "counted", lambda *given: calls.append("loader") or whole(*given)
    )
    whole = datasets.DATASETS["digits"]
    loaded = load(inputs(place, anchors="prototypes"))
    NegGrad(max_steps=1)(loaded.classifier, loaded.forget, anchors=loaded.anchors)
    assert calls == ["class_files", "class_files", "prototypes"]  # training and test
    calls.clear()
    load(inputs(place, data="counted", weights="random", input_size=16))
    assert calls == ["loader"]
    calls.clear()
    file = tmp_path / "mine.safetensors"
    loaded.anchors.save(file)
    counted(anchor_file, "check_file")
    forget = str(place / "data" / "test")
    load(inputs(place, data=None, anchors=str(file), forget=forget))
    assert calls == ["check_file"]


def test_named_classes_give_the_order_of_the_outputs(place, tmp_path):
    turned = tuple(sorted(CLASSES, reverse=True))
    file = tmp_path / "names.txt"
    file.write_text("\n".join(turned) + "\n\n")
    loaded = load(inputs(place, classes=file))
    assert loaded.classifier.class_names == turned
    i = int(loaded.forget.labels[0])
    assert turned[i] in loaded.forget.names[0]


def test_a_saved_network_names_its_own_classes(place, tmp_path):
    first = load(inputs(place)).classifier
    first.class_names = first.class_names[::-1]
    first.save(tmp_path / "saved")
    changes = {"weights": None, "input_size": None}
    for model in (tmp_path / "saved", tmp_path / "saved" / "model.safetensors"):
        loaded = load(inputs(place, model=str(model), **changes))
        assert loaded.classifier.class_names == first.class_names
        assert loaded.splits.class_names == first.class_names
    forget = str(place / "data" / "test")
    alone = load(inputs(place, model=str(tmp_path / "saved"), data=None, forget=forget, **changes))
    assert alone.splits is None
    assert len(alone.forget) == 20


def test_anchors_of_the_classes_tell_the_classes_where_nothing_else_does(place, tmp_path):
    vectors = torch.eye(4)
    Anchors(vectors, CLASSES).save(tmp_path / "a.safetensors")
    loaded = load(
        inputs(
            place, data=None, forget=str(place / "data" / "test"),
            anchors=str(tmp_path / "a.safetensors"),
        )
    )  # fmt: skip
    assert loaded.classifier.class_names == CLASSES
    assert torch.equal(loaded.anchors.vectors, vectors)


def test_shipped_anchors_are_taken_only_for_their_own_classes(place, tmp_path):
    digits = load(inputs(place, data="digits", weights=Path("random")))
    assert digits.anchors.card["name"] == "digits"
    unnamed = Classifier.load("stakes:digits_cnn", num_classes=10, input_size=8)
    unnamed.save(tmp_path / "unnamed")
    write_images(tmp_path / "f", *blobs(2, 0), ["class 0", "class 1", "class 2", "class 3"])
    changes = {"weights": None, "data": None, "forget": str(tmp_path / "f")}
    loaded = load(inputs(place, model=str(tmp_path / "unnamed"), **changes))
    assert loaded.anchors.card["name"] == "head"
    with pytest.raises(InputError, match="no anchor for class 0, class 1"):
        load(inputs(place, model=str(tmp_path / "unnamed"), anchors="digits", **changes))


@pytest.mark.parametrize("word", ["prototypes", "random:2"])
def test_anchors_made_from_the_network(word, place):
    loaded = load(inputs(place, anchors=word, seed=1))
    assert loaded.anchors.card["name"] == word
    again = resolve_anchors(loaded.classifier, word, loaded.forget, seed=1)
    assert loaded.anchors.digest() == again.digest()
    with pytest.raises(InputError, match="classes"):
        load(inputs(place, anchors=word, data=None))


def test_normalisation_and_size_reach_the_network(place):
    loaded = load(inputs(place, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), input_size=10))
    assert loaded.classifier.input_size == 10
    torch.testing.assert_close(loaded.classifier.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(loaded.classifier.std.flatten(), torch.tensor([0.5, 0.6, 0.7]))


def test_how_images_are_read_reaches_every_set(place, tmp_path):
    assert load(inputs(place)).classifier.preprocessing is None
    words = {"resize": "squash", "crop_share": 0.5, "interpolation": "bilinear"}
    loaded = load(inputs(place, input_size="6x9", forget=str(place / "data" / "train"), **words))
    assert loaded.classifier.input_size == (6, 9)
    read = loaded.classifier.preprocessing
    assert (read.before_crop, read.resize, read.interpolation) == ((12, 18), "squash", "bilinear")
    files = loaded.splits.train.paths
    with Image.open(files[3]) as image:
        wanted = read(image).float() / 255
    assert torch.equal(loaded.splits.train.load([3])[0], wanted)
    assert torch.equal(loaded.forget.images, loaded.splits.train.load(range(len(files))))
    assert loaded.splits.test.load([0]).shape == (1, 3, 6, 9)


def test_a_delivered_network_is_scored_as_it_was_unlearned(place, tmp_path):
    first = load(inputs(place, resize="squash", crop_share=0.5)).classifier
    first.save(tmp_path / "out")
    for delivered in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        assert load_images(inputs(place), delivered).classifier.preprocessing == first.preprocessing
    other = load_images(inputs(place, resize="pad"), tmp_path / "out").classifier.preprocessing
    assert other.resize == "pad"


SERVICE = """
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
def prepare():
    return Compose([Resize((6, 10)), ToTensor(), Normalize((.4, .5, .6), .25)])
"""


@pytest.mark.parametrize("forget", ["random:3", "folder", "table.csv"])
def test_the_services_own_transform_is_used_and_compared_with(place, tmp_path, forget):
    (tmp_path / "service.py").write_text(SERVICE)
    files = sorted((place / "data" / "train").glob("*/*"))[:5]
    if forget == "folder":
        forget = str(place / "data" / "train")
    elif forget == "table.csv":
        forget = str(tmp_path / forget)
        rows = [f"{file},{file.parent.name}" for file in files]
        (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    words = {"transform": f"{tmp_path}/service.py:prepare", "input_size": None}
    loaded = load(inputs(place, forget=forget, **words))
    classifier = loaded.classifier
    assert classifier.input_size == (6, 10)
    assert classifier.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert loaded.forget.images.shape[2:] == (6, 10)
    found = loaded.agreement
    assert (found.images, found.answers) == (len(loaded.forget), 0)
    assert found.pixels < 1e-6
    assert found.logits < 1e-4
    for name, value in (("mean", (0.1, 0.2, 0.3)), ("resize", "crop"), ("crop_share", 0.5)):
        option = "--" + name.replace("_", "-")
        with pytest.raises(InputError, match=f"{option}: --transform already sets this"):
            load(inputs(place, **words | {name: value}))


def test_named_data_sets_are_read_by_the_transform_too(place, tmp_path):
    (tmp_path / "service.py").write_text(SERVICE)
    words = {"transform": f"{tmp_path}/service.py:prepare", "input_size": None}
    loaded = load(inputs(place, data="digits", weights="random", **words))
    assert loaded.splits.test.load([0, 1]).shape == (2, 3, 6, 10)
    assert loaded.agreement.images == 3


def test_the_seed_draws_the_forget_set(place):
    digests = {load(inputs(place, seed=seed)).forget.digest() for seed in (0, 1, 2, 0)}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "--seed -1: give a whole number from 0"),
        ({"seed": 2**63}, "--seed 9223372036854775808: give"),
        ({"max_memory": 0.0}, "--max-memory 0.0: give a number of GiB above 0"),
        ({"max_memory": float("nan")}, "--max-memory nan: give"),
        ({"max_memory": 1e-6}, "3 forget images of 8x8 need"),
        ({"forget": "random:41"}, "41 random images: the training set can give 1 to 40"),
        ({"device": "gpu"}, "--device gpu: there is no such device; give cpu"),
        ({"data": None}, "the classes are not known"),
        ({"anchors": "random:x"}, "anchors random:x: give a whole number, such as random:0"),
        ({"anchors": "cifar10"}, "no anchor for blue, green, grey, red"),
        ({"input_size": -1}, "--input-size -1: give a side in pixels"),
        (
            {"input_size": "8by8"},
            "--input-size '8by8': give a side in pixels, such as 224, or HEIGHTxWIDTH",
        ),
        ({"input_size": "0x8"}, "--input-size '0x8': give a side"),
        ({"input_size": "8x9", "resize": "square"}, "--resize square: the network takes 8 x 9"),
        ({"crop_share": 2.0}, r"--crop-share 2\.0: give a share above 0"),
    ],
)
def test_what_cannot_be_used(changes, message, place):
    with pytest.raises(InputError, match=message):
        load(inputs(place, **changes))


def test_scoring_makes_no_anchors(place, monkeypatch):
    monkeypatch.setattr(sources, "prototypes", None)  # it would pass 512 images
    assert len(load_images(inputs(place, anchors="prototypes")).forget) > 0
    with pytest.raises(TypeError):
        load(inputs(place, anchors="prototypes"))


def test_auto_takes_an_accelerator_that_computes_in_float64(monkeypatch):
    def ones(*size, dtype, device):
        if device.type == "mps":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return torch.zeros(*size, dtype=dtype)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    for kind, taken in (("xpu", "xpu"), ("mps", "cpu")):
        found = torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda found=found: found)
        assert pick_device("auto").type == taken
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")  # together, processes use CUDA or the CPU
    assert pick_device("auto").type == "cpu"


def test_devices():
    if not torch.accelerator.is_available():
        assert pick_device("auto") == torch.device("cpu")
    if torch.cuda.is_available():
        assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
    absent = ["meta", "hpu", "xla"]
    absent += ["cuda:1"] * (not torch.cuda.is_available())
    absent += ["mps"] * (not torch.backends.mps.is_available())
    absent += ["xpu"] * (not torch.xpu.is_available())
    for name in absent:
        with pytest.raises(InputError, match=f"--device {name} cannot be used here "):
            pick_device(name)
        with pytest.raises(InputError, match=f"device '{name}' cannot be used: "):
            usable_device(name)
