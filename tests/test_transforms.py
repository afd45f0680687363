"""A service's own preprocessing: a transform from a file, a transformers image processor."""

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from command_line import ran, refused, row_of
from stakes import Classifier, InputError
from stakes.cli import commands as cli
from stakes.data.images import ImageFiles
from stakes.models.agreement import agreement
from stakes.models.transforms import given, own_transform, transform
from test_preprocessing import SHAPES, odd

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGE = [shape for shape in SHAPES if min(shape) > 1]


def as_array(image):
    """Squashed, BGR, 0 to 255 less a mean, as networks from Caffe want it."""
    pixels = np.asarray(image.convert("RGB").resize((20, 16)), np.float32)[..., ::-1]
    return torch.from_numpy((pixels - [104, 117, 123]).transpose(2, 0, 1).astype(np.float32))


TRANSFORMS = {
    "compose": (
        transforms.Compose([
            transforms.Resize(20), transforms.CenterCrop(16), transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]),
        *IMAGENET,
    ),
    "minus one to one": (
        transforms.Compose([
            transforms.Resize((16, 20)), transforms.ToTensor(),
            transforms.Lambda(lambda x: 2 * x - 1),
        ]),
        (0.5,) * 3, (0.5,) * 3,
    ),
    "0 to 255": (
        v2.Compose([v2.Resize((16, 20)), v2.PILToTensor(), v2.ToDtype(torch.float32)]),
        (0.0,) * 3, (1 / 255,) * 3,
    ),
    "not normalised": (
        v2.Compose([v2.Resize((16, 20)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
        (0.0,) * 3, (1.0,) * 3,
    ),
    "caffe": (as_array, tuple(v / 255 for v in (104, 117, 123)), (1 / 255,) * 3),
    "inverted": (
        transforms.Compose([
            transforms.Resize((16, 20)), transforms.ToTensor(), transforms.Lambda(lambda x: 1 - x),
        ]),
        (0.0,) * 3, (1.0,) * 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixels_and_normalisation_are_told_apart(name):
    code, mean, std = TRANSFORMS[name]
    read = transform(code)
    assert read.mean == pytest.approx(mean, abs=1e-6)
    assert read.std == pytest.approx(std, abs=1e-6)
    classifier = Classifier.load("stakes:digits_cnn", preprocessing=read)
    assert classifier.input_size == (16 if name == "compose" else (16, 20))
    for shape in LARGE:
        image = odd(*shape)
        pixels = read(image)
        assert pixels.dtype == torch.uint8
        ours = (pixels.float() / 255 - classifier.mean) / classifier.std
        spread = float((read.high - read.low).max())
        torch.testing.assert_close(ours, code(image), rtol=0, atol=1e-6 * spread)
    found = agreement(classifier, [odd(*shape) for shape in LARGE])
    assert (found.images, found.answers) == (len(LARGE), 0)
    assert found.pixels < 1e-6
    assert found.logits < 1e-3


def test_filters_on_floats_keep_their_fractions_and_overshoot_is_told(tmp_path):
    code = v2.Compose([
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
        v2.Resize((8, 8), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.Normalize(*IMAGENET),
    ])  # fmt: skip
    classifier = Classifier.load("stakes:digits_cnn", preprocessing=transform(code))
    smooth = odd(60, 60).resize((20, 20)).resize((60, 60))
    assert classifier.preprocessing(smooth).dtype == torch.float32
    assert agreement(classifier, [smooth]).pixels < 1e-6
    edges = Image.fromarray((np.indices((48, 48)).sum(0) // 12 % 2 * 255).astype(np.uint8))
    pixels = classifier.preprocessing(edges.convert("RGB"))
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    assert agreement(classifier, [edges.convert("RGB")]).pixels > 0.01


def test_one_channel():
    code = transforms.Compose([
        transforms.Grayscale(), transforms.Resize((16, 16)), transforms.ToTensor(),
        transforms.Normalize(0.3, 0.2),
    ])  # fmt: skip
    read = transform(code)
    grey = Classifier.load(
        "timm:resnet10t,in_chans=1", num_classes=2, preprocessing=read, weights="random"
    )
    assert read.mean == (0.3,) * 3
    assert read.std == (0.2,) * 3
    found = agreement(grey, [odd(30, 40)])
    assert found.pixels < 1e-6
    assert found.logits < 1e-4
    with pytest.raises(InputError, match=r"1 channels.*3"):
        Classifier.load("timm:resnet10t", num_classes=2, preprocessing=read, weights="random")


def test_a_border_of_its_own_is_no_part_of_the_range():
    code = transforms.Compose([
        transforms.Resize((12, 12)), transforms.Pad(2, fill=0), transforms.ToTensor(),
        transforms.Normalize(0.5, 0.25),
    ])  # fmt: skip
    read = transform(code)
    assert (read.mean, read.std, read.size) == ((0.5,) * 3, (0.25,) * 3, (16, 16))


def test_code_is_called_by_one_thread_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("stakes.data.images.THREADS", 8)
    inside, most = [], []

    def code(image):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return transforms.functional.to_tensor(image.convert("RGB").resize((4, 4)))

    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for path in paths:
        odd(8, 8).save(path)
    ImageFiles(paths, [0] * 12, read=transform(code)).load(range(12))
    assert set(most) == {1}


def test_a_transform_that_keeps_the_size_of_images(tmp_path):
    read = transform(transforms.ToTensor())
    assert read.size is None
    classifier = Classifier.load("stakes:digits_cnn", preprocessing=read)
    assert classifier.input_size == 16
    image = odd(16, 16)
    pixels = classifier.preprocessing(image)
    assert torch.equal(pixels.float() / 255, transforms.ToTensor()(image))
    odd(16, 18).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png.*16 x 18.*16"):
        ImageFiles([tmp_path / "a.png"], [0], read=classifier.preprocessing)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (lambda image: torch.rand(3, 4, 4), "gives a different result each time"),
        (lambda image: torch.zeros(3, 4, 4), "gives the same output for black and white"),
        (lambda image: torch.zeros(4, 4), r"gives a tensor of shape \(4, 4\) for an image of mode"),
        (lambda image: torch.zeros(1, 3, 4, 4), "without an axis for the batch"),
        (lambda image: torch.zeros(4, 4, 3), "put the channels first"),
        (lambda image: [1, 2], "gives a list, not a tensor"),
        (
            lambda image: image.nothing,
            r"an image of mode RGB, failed at test_tr.*AttributeError",
        ),
        (lambda image: torch.full((3, 4, 4), torch.nan), "values that are not finite"),
    ],
)
def test_code_that_cannot_serve(code, message):
    with pytest.raises(InputError, match=message):
        transform(code)


def test_images_reach_the_code_as_they_lie_in_the_file(tmp_path):
    seen = []

    def code(image):
        seen.append((image.mode, image.size))
        return transforms.functional.to_tensor(image.convert("RGB").resize((4, 4)))

    read = transform(code)
    image = odd(20, 30, "CMYK")
    image.save(tmp_path / "a.jpg", exif=_turned())
    ImageFiles([tmp_path / "a.jpg"], [0], read=read)
    assert seen[-1] == ("CMYK", (30, 20))
    plain = transform(transforms.Compose([transforms.Resize((4, 4)), transforms.ToTensor()]))
    with pytest.raises(InputError, match=r"a\.jpg.*\(4, 4, 4\).*CMYK"):
        ImageFiles([tmp_path / "a.jpg"], [0], read=plain)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


OWN = """
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
from torch import nn
def make():
    return Compose([Resize((12, 12)), ToTensor(), Normalize(.5, .25)])
ready = make()
class Module(nn.Module):
    def forward(self, image):
        return ready(image)
module = Module()
def direct(image):
    return ready(image)
def breaks():
    raise RuntimeError("no such thing")
def wrong():
    return 3
"""


def test_what_a_file_names(tmp_path, monkeypatch):
    (tmp_path / "service.py").write_text(OWN)
    names = ("make", "ready", "module", "direct", "Module")
    reads = [own_transform(f"{tmp_path}/service.py:{name}") for name in names]
    image = odd(30, 20)
    for read in reads:
        assert read.mean == (0.5,) * 3
        assert read.std == (0.25,) * 3
        assert torch.equal(read(image), reads[0](image))
    assert reads[0].describe() == f"{tmp_path}/service.py:make"
    monkeypatch.chdir(tmp_path)
    assert own_transform("service.py:make").describe() == reads[0].describe()  # wherever it runs
    for text, message in (
        ("service.txt:make", "--transform service.txt:make: give path/to/file.py:factory"),
        (f"{tmp_path}/none.py:make", r"--transform .*none\.py: no such file"),
        (f"{tmp_path}/service.py:nothing", "has no function or class 'nothing' that makes a trans"),
        (
            f"{tmp_path}/service.py:breaks",
            "breaks in .* failed at service.py.*: no such thing",
        ),
        (f"{tmp_path}/service.py:wrong", "wrong in .* returned a int, not a transform"),
    ):
        with pytest.raises(InputError, match=message):
            own_transform(text)


def test_a_card_names_the_code_and_never_starts_it(tmp_path):
    (tmp_path / "service.py").write_text(OWN)
    spec = f"{tmp_path}/service.py:make"
    classifier = Classifier.load("stakes:digits_cnn", preprocessing=own_transform(spec))
    assert classifier.copy().preprocessing is classifier.preprocessing
    classifier.save(tmp_path / "out")
    (tmp_path / "service.py").unlink()
    sys.modules.pop("stakes_own_service", None)
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["preprocessing"] == {"transform": spec}
    assert card["mean"] == [0.5] * 3
    loaded = Classifier.load(tmp_path / "out")
    assert loaded.input_size == 12
    assert loaded.preprocessing.describe() == spec
    assert loaded.preprocessing.card() == {"transform": spec}
    with pytest.raises(InputError, match=r"unlearned with --transform .*service\.py:make, code"):
        loaded.preprocessing(odd(20, 20))


def test_size_and_normalisation_are_for_the_transform_to_say():
    read = transform(TRANSFORMS["compose"][0])
    for words in ({"mean": 0.5}, {"std": 0.5}):
        with pytest.raises(InputError, match="mean and std"):
            Classifier.load("stakes:digits_cnn", preprocessing=read, **words)
    with pytest.raises(InputError, match=r"16 x 16.*input_size"):
        Classifier.load("stakes:digits_cnn", preprocessing=read, input_size=20)


# transformers

PROCESSORS = {
    "squash": {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}},
    "oblong": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 28},
        "image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1], "resample": 3,
    },
    "shortest edge and crop": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 30},
        "crop_size": {"height": 24, "width": 24}, "do_center_crop": True,
    },
    "crop share": {
        "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 24},
        "crop_pct": 0.875,
    },
    "-1 to 1 by rescaling": {
        "image_processor_type": "EfficientNetImageProcessor", "size": {"height": 24, "width": 24},
        "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False,
        "include_top": False,
    },
    "0 to 255": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24},
        "do_rescale": False, "do_normalize": False,
    },
    "normalised from 0 to 255": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24},
        "do_rescale": False, "image_mean": [128, 128, 128], "image_std": [64, 64, 64],
    },
    "no resize": {"image_processor_type": "ViTImageProcessor", "do_resize": False},
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_as_the_image_processor_of_the_folder(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = PROCESSORS[name]
    size = (16, 28) if name == "oblong" else 24
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    config.image_size = 24
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    classifier = Classifier.load(f"hf:{tmp_path}")
    assert classifier.input_size == size
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    shapes = [(24, 24)] if name == "no resize" else LARGE
    for shape in shapes:
        image = odd(*shape)
        wanted = processor(images=image, return_tensors="pt")["pixel_values"][0].float()
        ours = (classifier.preprocessing(image).float() / 255 - classifier.mean) / classifier.std
        spread = float(wanted.max() - wanted.min())
        torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-6 * max(1.0, spread))
    assert agreement(classifier, [odd(*shape) for shape in shapes]).answers == 0
    classifier.save(tmp_path / "out")
    again = Classifier.load(tmp_path / "out")
    assert again.preprocessing.describe() == classifier.preprocessing.describe()
    image = odd(*shapes[-1])
    assert torch.equal(again.preprocessing(image), classifier.preprocessing(image))
    saved = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert saved == settings


def test_a_folder_read_with_another_normalisation_or_size(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["0 to 255"]))
    other = Classifier.load(f"hf:{tmp_path}", mean=0.5, std=0.25)
    other.save(tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    image = odd(30, 50)
    wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
    ours = (other.preprocessing(image).float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)
    sized = Classifier.load(f"hf:{tmp_path}", input_size=32)
    with pytest.raises(InputError, match=r"24 x 24.*input size"):
        sized.preprocessing(image)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "None"}')
    with pytest.raises(InputError, match="image processor"):
        Classifier.load(f"hf:{tmp_path}")


def test_pipelines_of_transformers_turn_an_image_upright(tmp_path):
    transformers = pytest.importorskip("transformers")
    from transformers.image_utils import load_image

    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSORS["squash"]))
    classifier = Classifier.load(f"hf:{tmp_path}")
    odd(30, 50).save(tmp_path / "a.png", exif=_turned())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    image = load_image(str(tmp_path / "a.png"))
    wanted = processor(images=image, return_tensors="pt")["pixel_values"][0]
    files = ImageFiles([tmp_path / "a.png"], [0], read=classifier.preprocessing)
    ours = (files.load([0])[0] - classifier.mean) / classifier.std
    torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-6)


# a whole run

SERVICE = """
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
def prepare():
    return Compose([Resize((8, 8)), ToTensor(), Normalize(.25, .5)])
"""


def test_a_run_from_the_command_to_the_page(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("service.py").write_text(SERVICE)
    plain = f"--model stakes:digits_cnn --weights {place}/net.th --data {place}/data"
    plain += " --forget random:6"
    words = f"{plain} --transform service.py:prepare"
    run = f"unlearn {words} --method neggrad --max-steps 1 --eval-samples 9 --force --out OUT"
    ran(shlex.split(run))
    assert "preprocessing checked: 6 images compared: pixels differ by" in capsys.readouterr().err
    row, page = row_of("OUT"), Path("OUT/report.html").read_text()
    assert row["preprocessing"] == f"{Path('service.py').absolute()}:prepare"
    assert (row["input_size"], row["mean"], row["std"]) == ("8x8", "0.25 0.25 0.25", "0.5 0.5 0.5")
    assert (row["preprocessing_compared"], row["preprocessing_answers_off"]) == (6, 0)
    assert row["preprocessing_pixels_off"] < 1e-6
    assert row["preprocessing_logits_off"] < 1e-4
    assert "service.py:prepare" in page
    assert "6 images: pixels differ by up to" in page
    again = f"evaluate {words} --unlearned OUT --eval-samples 9"
    assert cli.main(shlex.split(again)) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["acc_forget"] == row["acc_forget"]
    assert scores["forget_digest"] == row["forget_digest"]
    refused(
        shlex.split(f"evaluate {plain} --input-size 8 --unlearned OUT"),
        r"^(?!.*\.png).*unlearned with --transform .*service\.py:prepare.*add the same --transform",
        capsys,
    )


def test_pixels_that_may_not_be_written_to_are_read_without_a_warning(tmp_path, recwarn):
    saved = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    read_only = np.broadcast_to(np.float32(0.5), (1, 8, 8))
    found = given(lambda image: read_only, saved, "code")
    assert found.shape == (1, 8, 8)
    assert not recwarn.list
