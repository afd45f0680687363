"""The script that trains a face recogniser, on a few small made-up faces."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from scripts import benchmark
from stakes import Classifier, ForgetSet, load_data

pytestmark = pytest.mark.slow

PEOPLE, EACH = ("ann", "bob", "cy"), 5


@pytest.fixture(scope="module")
def script():
    module = benchmark("train_faces")
    module.MODEL, module.SIZE = "timm:resnet10t", 32
    return module


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Grey images of 28 x 36 pixels with a bright spot at each person's own height."""
    folder = tmp_path_factory.mktemp("faces")
    generator = torch.Generator().manual_seed(0)
    for person, name in enumerate(PEOPLE):
        (folder / name).mkdir()
        for i in range(EACH):
            pixels = torch.randint(0, 90, (36, 28), generator=generator, dtype=torch.uint8)
            pixels[6 + 8 * person : 12 + 8 * person, 8:20] += 150
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.pgm")
    return folder


@pytest.fixture(scope="module")
def trained(script, faces, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    script.main([str(faces), str(out), "--epochs", "40"])
    return out


def test_every_image_is_copied_once_as_it_is(trained, faces):
    for name in PEOPLE:
        parts = [sorted((trained / "data" / part / name).iterdir()) for part in ("train", "test")]
        assert [len(part) for part in parts] == [EACH - 2, 2]
        copies = {path.name: path.read_bytes() for part in parts for path in part}
        assert copies == {path.name: path.read_bytes() for path in (faces / name).iterdir()}


def test_the_weights_load_and_know_the_images(trained, script):
    splits = load_data(trained / "data", size=32)
    classifier = Classifier.load(
        "timm:resnet10t",
        weights=trained / "weights.safetensors",
        class_names=splits.class_names,
        input_size=32,
    )
    assert splits.class_names == PEOPLE
    assert script.accuracy(classifier, splits.train) > 80
    answers = classifier(splits.test.load(range(6))).argmax(1)
    right = 100 * float((answers == splits.test.labels).float().mean())
    assert script.accuracy(classifier, splits.test) == pytest.approx(right)


def test_an_earlier_result_is_not_overwritten(trained, faces, script, capsys):
    with pytest.raises(SystemExit):
        script.main([str(faces), str(trained)])
    assert "exists: name another folder" in capsys.readouterr().err


def test_a_reference_is_trained_without_the_images_that_unlearning_forgets(
    trained, faces, script, monkeypatch
):
    seen = []
    fit = script.train
    monkeypatch.setattr(script, "train", lambda *args: seen.append(args[1]) or fit(*args))
    words = ["--epochs", "1", "--seed", "1", "--forget", "random:4", "--draw", "3"]
    script.main([str(faces), str(trained), *words])
    images = load_data(trained / "data", size=32).train
    forget = ForgetSet.random(images, 4, seed=3)
    retained = [i for i in range(len(images)) if i not in forget.indices]
    assert torch.equal(seen[0].load(range(len(retained))), images.load(retained))
    reference = Classifier.load(trained / "without-random-4-draw-3-seed-1")
    assert reference.class_names == PEOPLE


def test_a_seed_gives_the_same_variations_and_they_stay_images(script):
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        script.varied(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1


def test_variations_of_no_width_are_the_images_or_mirrored(script, monkeypatch):
    for name in ("LEAN", "SCALE", "SHIFT", "LIGHT"):
        monkeypatch.setattr(script, name, 0.0)
    images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shown = script.varied(images, torch.Generator().manual_seed(1))
    mirrored = 0
    for image, view in zip(images, shown, strict=True):
        same = torch.allclose(view, image, atol=1e-5)
        assert same or torch.allclose(view, image.flip(-1), atol=1e-5)
        mirrored += not same
    assert 2 < mirrored < 14
