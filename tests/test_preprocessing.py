"""Images become what the service shows its network, whatever library it reads them with."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image, ImageCms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from conftest import Tiny
from stakes import Classifier, InputError, load_data
from stakes.data.forget_words import parse_forget
from stakes.data.images import ImageArray, ImageFiles
from stakes.models.transforms import transform
from stakes.preprocessing import Preprocessing, choose, converted, sides

pytestmark = pytest.mark.slow

SHAPES = [(1, 1), (37, 53), (53, 37), (64, 64), (300, 17), (224, 225), (401, 299)]


def odd(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """An image with large forms and noise, so that a shift and a filter both show."""
    rows, columns = np.indices((height, width)) / max(height, width)
    channels = [np.sin(9 * rows + k) * np.cos(7 * columns) * 90 + 128 for k in range(3)]
    pixels = np.stack(channels, -1) + np.random.default_rng(5).normal(0, 20, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def own_reading(classifier: Classifier, image: Image.Image) -> torch.Tensor:
    """The network's input as the classifier makes it of an image, (3, h, w)."""
    assert classifier.preprocessing is not None
    pixels = classifier.preprocessing(image).float() / 255
    return (pixels - classifier.mean) / classifier.std


TIMM = {
    "resnet10t.c3_in1k": {},  # crop .95, bilinear
    "resnet18.tv_in1k": {},  # crop .875
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": {},  # mean .5, bicubic
    "mobilenetv3_small_050.lamb_in1k": {"input_size": (40, 72)},
    "resnet14t.c3_in1k": {"input_size": 50},
}


@pytest.mark.parametrize("name", TIMM)
def test_as_timm_evaluates_bit_by_bit(name):
    classifier = Classifier.load(f"timm:{name}", num_classes=2, **TIMM[name], weights="random")
    plain = timm.create_model(name, num_classes=2)
    size = (3, *sides(classifier.input_size)) if TIMM[name] else None
    arguments = {"input_size": size}
    config = timm.data.resolve_model_data_config(plain, arguments)
    transform = timm.data.create_transform(**config, is_training=False)
    for shape in SHAPES:
        image = odd(*shape)
        assert torch.equal(own_reading(classifier, image), transform(image)), shape


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "share"), [((64, 64), 0.9), ((48, 80), 1.0), ((48, 80), 0.875)])
def test_every_crop_mode_of_timm_bit_by_bit(mode, size, share, monkeypatch):
    made = timm.create_model("resnet10t", num_classes=2)
    made.pretrained_cfg |= {
        "crop_mode": mode, "crop_pct": share, "input_size": (3, *size), "interpolation": "bicubic",
    }  # fmt: skip
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: made)
    classifier = Classifier.load("timm:resnet10t", weights="random")
    config = timm.data.resolve_model_data_config(made)
    transform = timm.data.create_transform(**config, is_training=False)
    assert classifier.input_size == (64 if size == (64, 64) else size)
    for shape in SHAPES:
        image = odd(*shape)
        assert torch.equal(own_reading(classifier, image), transform(image)), shape


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b3", "inception_v3", "vit_b_32", "mnasnet0_5"]
)
def test_as_torchvision_evaluates_bit_by_bit(name, monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: Tiny())
    classifier = Classifier.load(f"torchvision:{name}", weights="random")
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    assert [classifier.input_size] == transform.crop_size
    for shape in SHAPES:
        image = odd(*shape)
        assert torch.equal(own_reading(classifier, image), transform(image)), shape


def test_inception_normalises_inside_as_with_its_public_weights():
    spec = "torchvision:inception_v3,aux_logits=False"
    ours = Classifier.load(spec, weights="random", num_classes=2, input_size=96)
    recipe = ours.card()["recipe"].partition(";")[0].removeprefix("net = ")
    plain = eval(recipe, {"torchvision": torchvision}).eval()
    assert plain.transform_input
    plain.load_state_dict(ours.network_state())
    weights = torchvision.models.Inception_V3_Weights.DEFAULT
    transform = weights.transforms(crop_size=96, resize_size=110)
    image = odd(120, 90)
    with torch.no_grad():
        wanted = plain(transform(image)[None])
        got = ours(ours.preprocessing(image)[None] / 255)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    without = Classifier.load(
        f"{spec},transform_input=False", weights="random", num_classes=2, input_size=96
    )
    assert not without.body.transform_input


def test_the_name_of_the_weight_file_says_which_preprocessing(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: Tiny())
    files = {"resnet50-0676ba61.pth": 256, "resnet50-11ad3fa6.pth": 232, "own.pth": 232}
    for name, scaled in files.items():
        torch.save(Tiny().state_dict(), tmp_path / name)
        read = Classifier.load("torchvision:resnet50", weights=tmp_path / name).preprocessing
        assert read.before_crop == (scaled, scaled)
    one = Classifier.load("torchvision:resnet50,weights=IMAGENET1K_V1", weights="random")
    assert one.preprocessing.before_crop == (256, 256)
    assert one.spec == "torchvision:resnet50,weights=IMAGENET1K_V1"
    with pytest.raises(InputError, match=r"'V9'.*IMAGENET1K_V1, IMAGENET1K_V2"):
        Classifier.load("torchvision:resnet50,weights=V9", weights="random")


def test_a_network_with_one_channel_is_shown_grey():
    classifier = Classifier.load(
        "timm:resnet10t,in_chans=1", num_classes=2, input_size=64, weights="random"
    )
    plain = timm.create_model("resnet10t", in_chans=1, num_classes=2).eval()
    plain.load_state_dict(classifier.network_state())
    assert classifier.mean.flatten().tolist() == pytest.approx([0.449] * 3)
    config = timm.data.resolve_model_data_config(plain, {"input_size": (1, 64, 64)})
    image = odd(70, 90)
    config |= {"mean": (0.0,), "std": (1.0,)}
    grey = timm.data.create_transform(**config, is_training=False)(image.convert("L"))
    pixels = classifier.preprocessing(image).float()[None] / 255
    assert torch.equal(pixels[0], grey.expand(3, -1, -1))
    with torch.no_grad():
        mean, std = classifier.mean[:1], classifier.std[:1]
        wanted = plain(((grey - mean) / std)[None])
        torch.testing.assert_close(classifier(pixels), wanted, rtol=1e-4, atol=1e-5)


def test_inputs_that_are_not_square(tmp_path):
    torch.manual_seed(0)
    net = Tiny().eval()
    classifier = Classifier.wrap(net, input_size=(24, 40), preprocessing=Preprocessing((24, 40)))
    paths = []
    for i, shape in enumerate([(50, 90), (90, 50), (24, 40)]):
        odd(*shape).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    shown = ImageFiles(paths, [0, 1, 2], read=classifier.preprocessing)
    assert shown.shape == (24, 40)
    images = shown.load(range(3))
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), net(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(images[2], F.to_tensor(Image.open(paths[2])))
    classifier.preprocessing = None
    assert classifier(torch.rand(1, 3, 30, 30)).shape == (1, 4)


def test_a_factory_states_two_sides(tmp_path):
    code = "from conftest import Tiny\ninput_size = (24, 40)\ndef net():\n    return Tiny()\n"
    (tmp_path / "own.py").write_text(code)
    classifier = Classifier.load(f"{tmp_path / 'own.py'}:net")
    assert classifier.input_size == (24, 40)
    assert classifier.preprocessing(odd(80, 80)).shape == (3, 24, 40)
    classifier.save(tmp_path / "out")
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["input_size"] == [24, 40]
    again = Classifier.load(
        f"{tmp_path / 'own.py'}:net", weights=tmp_path / "out" / "model.safetensors"
    )
    assert again.input_size == (24, 40)
    assert again.preprocessing == classifier.preprocessing


# words


def test_named_choices():
    size = (24, 24)
    crop = choose(None, size, resize="crop", crop_share=0.875, interpolation="bilinear")
    wanted = F.center_crop(F.resize(odd(40, 70), [27], InterpolationMode.BILINEAR), [24, 24])
    assert crop.before_crop == (27, 27)
    image = odd(40, 70)
    wanted = F.center_crop(F.resize(image, [27], InterpolationMode.BILINEAR), [24, 24])
    assert torch.equal(crop(image), F.pil_to_tensor(wanted))
    squash = choose(crop, size, resize="squash")
    assert (squash.before_crop, squash.interpolation) == (size, "bilinear")
    squashed = F.pil_to_tensor(image.resize((24, 24), Image.Resampling.BILINEAR))
    assert torch.equal(squash(image), squashed)
    pad = choose(None, size, resize="pad")(image)
    assert (pad[:, :5] == 0).all()
    assert (pad[:, -5:] == 0).all()
    inner = image.resize((24, 14), Image.Resampling.BICUBIC)
    assert torch.equal(pad[:, 5:19], F.pil_to_tensor(inner))
    assert choose(crop, size) is crop
    assert choose(crop, size, resize="square") is None
    assert choose(crop, size, interpolation="lanczos").before_crop == (27, 27)


def test_the_share_of_a_crop_means_whole_pixels_where_it_can():
    for side, scaled in ((28, 50), (48, 59), (224, 256)):
        share = side / scaled  # times the scaled side, the last bit of it may be missing
        assert choose(None, (side, side), crop_share=share).before_crop == (scaled, scaled)


@pytest.mark.parametrize(("height", "width"), [(1, 90), (90, 1)])
def test_the_longest_image_keeps_a_pixel_of_its_short_side(height, width):
    pixels = Preprocessing((8, 8), resize="pad", fill=(9, 9, 9))(odd(height, width))
    assert pixels.shape == (3, 8, 8)
    assert int((pixels != 9).any(0).sum()) == 8


def test_padding_has_its_colour_about_the_middle():
    image = Image.new("RGB", (9, 4), (200, 100, 50))
    coloured, grey_ones = ((10, 20, 30), (200, 100, 50)), ((10,) * 3, (124,) * 3)
    for grey, (edge, middle) in ((False, coloured), (True, grey_ones)):
        pixels = Preprocessing((9, 9), resize="pad", fill=(10, 20, 30), grey=grey)(image)
        for rows, colour in ((slice(0, 2), edge), (slice(2, 6), middle), (slice(6, 9), edge)):
            wanted = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
            assert torch.equal(pixels[:, rows], wanted.expand_as(pixels[:, rows]))


def test_choices_keep_of_the_pipeline_what_they_do_not_change():
    base = Preprocessing((24, 24), resize="pad", scaled=(20, 20), opening="plain",
                         interpolation="bilinear", fill=(9, 9, 9), source="the card")  # fmt: skip
    cut = choose(base, (24, 24), resize="crop")
    assert (cut.before_crop, cut.fill, cut.source) == ((24, 24), (0, 0, 0), "as chosen")
    assert (cut.opening, cut.interpolation) == ("plain", "bilinear")
    padded = choose(base, (24, 24), interpolation="box")
    assert (padded.before_crop, padded.fill, padded.resize) == ((20, 20), (9, 9, 9), "pad")
    assert choose(base, (32, 32), resize="squash").size == (32, 32)
    assert choose(None, (24, 24), resize="squash").opening == "stakes"
    assert choose(transform(F.to_tensor), (24, 24), resize="squash").opening == "upright"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"crop_share": 0.0}, r"--crop-share 0\.0: give a share above 0"),
        ({"crop_share": float("nan")}, "--crop-share nan: give a share"),
        ({"crop_share": 1.5}, r"--crop-share 1\.5: give"),
        ({"resize": "stretch"}, "resize is 'stretch'; give crop, squash, pad"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; give nearest, bilinear"),
        ({"resize": "square", "crop_share": 0.9}, "--resize square takes neither"),
    ],
)
def test_choices_that_cannot_be(words, message):
    with pytest.raises(InputError, match=message):
        choose(None, (8, 8), **words)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet10t,in_chans", "'in_chans' is not an argument; write NAME,argument=value"),
        ("timm:resnet10t,pretrained=True", "pretrained cannot be set here; give --weights"),
        ("timm:resnet10t,checkpoint_path=x.pth", "checkpoint_path cannot be set here"),
        ("timm:resnet10t,pretrained_cfg=x", "pretrained_cfg cannot be set here; leave it out"),
        ("timm:resnet10t,num_classes=4", "num_classes cannot be set here; give --classes"),
        ("torchvision:resnet18,nonsense=1", "torchvision cannot make 'resnet18,nonsense=1'"),
    ],
)
def test_arguments_that_cannot_be(spec, message):
    with pytest.raises(InputError, match=message):
        Classifier.load(spec)


# files of all kinds


def test_the_orientation_is_turned_or_not_as_the_pipeline_does():
    image = odd(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.getexif().update(exif)
    plain, upright = (converted(image, "RGB", how) for how in ("plain", "upright"))
    assert (plain.size, upright.size) == ((60, 40), (40, 60))
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(plain), -1))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_every_mode_become_what_timm_makes_of_them(mode, tmp_path):
    if mode == "I;16":
        image = Image.fromarray((np.arange(30 * 40) * 50 % 65536).reshape(30, 40).astype(np.uint16))
    else:
        image = odd(30, 40, mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    read = Preprocessing((20, 20), opening="plain")
    dataset = timm.data.ImageDataset(str(tmp_path))
    wanted = F.center_crop(F.resize(dataset[0][0], [20], InterpolationMode.BICUBIC), [20, 20])
    got = ImageFiles([path], [0], read=read).load([0])
    assert torch.equal(got[0], F.to_tensor(wanted))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_a_colour_profile_is_ignored(ending, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile, plain = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    odd(30, 40).save(with_profile, icc_profile=profile)
    odd(30, 40).save(plain)
    with Image.open(with_profile) as image:
        assert image.info["icc_profile"] == profile
    for reading in ({"read": Preprocessing((20, 20))}, {"size": 16}):
        assert torch.equal(*ImageFiles([with_profile, plain], [0, 0], **reading).load([0, 1]))


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_counts(ending, tmp_path):
    first, still = odd(30, 40), tmp_path / "still.png"
    second = first.transpose(Image.Transpose.ROTATE_180)
    moving = tmp_path / f"moving.{ending}"
    first.save(moving, save_all=True, append_images=[second], duration=50)
    with Image.open(moving) as image:
        assert image.n_frames == 2
        image.seek(0)
        image.convert("RGB").save(still)
    for reading in ({"read": Preprocessing((20, 20))}, {"size": 16}):
        assert torch.equal(*ImageFiles([moving, still], [0, 0], **reading).load([0, 1]))


def test_a_reader_serves_folders_arrays_and_forget_sets_alike(tmp_path):
    read = Preprocessing((12, 12), scaled=(14, 14), interpolation="bilinear")
    pixels = torch.from_numpy(np.stack([np.roll(odd(20, 20), i, 0) for i in range(4)]))
    for i, one in enumerate(pixels):
        folder = tmp_path / "data" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.numpy()).save(folder / f"{i}.png")
    files = load_data(tmp_path / "data", read=read)
    array = ImageArray(pixels.permute(0, 3, 1, 2).contiguous(), [0, 1, 0, 1], read=read)
    assert torch.equal(files.train.load(range(4)), array.load([0, 2, 1, 3]))
    forget = parse_forget(str(tmp_path / "data"), files.train, ["a", "b"], read=read)
    assert torch.equal(forget.images, files.train.load(range(4)))


@pytest.mark.parametrize(("value", "fine"), [(65535, True), (65536, False), (-1, False)])
def test_whole_numbers_of_more_than_16_bits_are_refused(value, fine, tmp_path):
    Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / "a.tif")
    files = ImageFiles([tmp_path / "a.tif"], [0])
    if fine:
        assert torch.equal(files.load([0]), torch.ones(1, 3, 4, 4))
    else:
        with pytest.raises(InputError, match=r"a\.tif: .*32-bit pixels; save it with 8 or 16 bits"):
            files.load([0])


def test_images_that_come_out_in_other_sizes_are_named(tmp_path):
    for i, shape in enumerate([(10, 10), (10, 12)]):
        odd(*shape).save(tmp_path / f"{i}.png")

    class AsTheyAre(Preprocessing):
        def __call__(self, image):
            return F.pil_to_tensor(image)

    files = ImageFiles([tmp_path / "0.png", tmp_path / "1.png"], [0, 0], read=AsTheyAre((1, 1)))
    with pytest.raises(InputError, match=r"1\.png.*\(10, 12\)"):
        files.load([0, 1])


# cards


def test_the_card_holds_it_and_older_cards_mean_the_centred_square(tmp_path):
    classifier = Classifier.load("timm:resnet10t", num_classes=2, weights="random")
    choices = {"resize": "squash", "interpolation": "bilinear"}
    classifier.preprocessing = choose(classifier.preprocessing, (176, 176), **choices)
    classifier.save(tmp_path)
    loaded = Classifier.load(tmp_path)
    assert loaded.preprocessing == classifier.preprocessing
    assert loaded.preprocessing.describe() == "squashed to 176 x 176 pixels (bilinear)"
    file = tmp_path / "model.json"
    card = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in card.items() if k != "preprocessing"}))
    assert Classifier.load(tmp_path).preprocessing is None
    for broken in ({"size": [4]}, {"size": [4, 4], "x": 1}, {"resize": "crop"}, 7, {"size": "ab"}):
        file.write_text(json.dumps(card | {"preprocessing": broken}))
        with pytest.raises(InputError, match=r"model\.json: preprocessing"):
            Classifier.load(tmp_path)
    assert Path(tmp_path / "model.safetensors").is_file()
