import json
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from stakes.errors import InputError
from stakes.models.classifier import Classifier
from stakes.models.own_code import run_file
from stakes.models.projector import Projector
from stakes.preprocessing import Preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = ("ant", "bee", "cow", "dog", "emu")


def images(n=3, size=32, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make()


def normalised(x, mean=IMAGENET[0], std=IMAGENET[1]):
    return (x - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)


class Net(nn.Module):
    """A network in which a test can vary what comes around the head."""

    def __init__(self, channels=3, bias=True, view=False, after=None, give=lambda y: y):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.neck = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
        self.top = nn.ModuleDict({"head": nn.Linear(6 * 16, 5, bias=bias)})
        self.after, self.view, self.give = after, view, give

    def forward(self, x):
        x = torch.relu(self.bn(self.conv2(torch.relu(self.conv1(x)))))
        x = x.view(len(x), -1) if self.view else x
        y = self.top["head"](self.neck(x))
        return self.give(y if self.after is None else self.after(y))


def wrap(**varied):
    return Classifier.wrap(seeded(lambda: Net(**varied)), input_size=4)


# what is found


@pytest.mark.parametrize(
    ("spec", "head", "width", "size"),
    [
        ("timm:resnet18", "fc", 512, 64),
        ("timm:test_vit", "head", 64, 32),
        ("timm:convnext_atto", "head.fc", 320, 32),
        ("torchvision:resnet18", "fc", 512, 64),
        ("torchvision:mobilenet_v3_small", "classifier.3", 1024, 32),
        ("stakes:cifar_resnet20", "linear", 64, 32),
        ("stakes:digits_cnn", "head", 64, 16),
    ],
)
def test_head_is_found_and_the_parts_give_the_plain_network(spec, head, width, size):
    classifier = Classifier.load(spec, weights="random", class_names=NAMES, input_size=size)
    assert (classifier.head_name, classifier.feature_width) == (head, width)
    assert (classifier.num_classes, classifier.class_names) == (5, NAMES)
    assert classifier.spec == spec
    x = images(size=size)
    with torch.no_grad():
        features, logits = classifier.both(x)
        mean, std = classifier.mean, classifier.std
        assert torch.equal(classifier.network().eval()((x - mean) / std), logits)
        assert torch.equal(classifier(x), logits)
        assert torch.equal(classifier.features(x), features)
        assert torch.equal(classifier.head(features), logits)
    assert features.shape == (3, width)
    assert classifier.network_state().keys() == classifier.network().state_dict().keys()


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (
            lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=5),
            "heads.head",
        ),
        (lambda: torchvision.models.efficientnet_b0(num_classes=5), "classifier.1"),
        (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5), "fc"),
        (lambda: timm.create_model("test_vit", num_classes=5, img_size=32), "head"),
    ],
)
def test_heads_deep_inside(make, head):
    classifier = Classifier.wrap(make(), input_size=32)
    assert classifier.head_name == head


def all_cnn():
    """Convolutions alone, as in All-CNN: the last one's answers are averaged over the pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AvgPool2d(2), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("make", "head", "size"),
    [
        (all_cnn, "2", 4),
        (lambda: timm.create_model("dla46_c", num_classes=5), "fc", 64),
        (lambda: sequence(nn.Conv2d(3, 5, 1, bias=False), nn.Flatten())(), "0", 1),
    ],
)
def test_a_head_that_is_a_convolution_of_one_pixel(make, head, size, tmp_path):
    classifier = Classifier.wrap(seeded(make), input_size=size, class_names=NAMES)
    assert classifier.head_name == head
    with torch.no_grad():  # as an unlearning step does
        classifier.head.weight.mul_(0.5).add_(0.1)
    x = images(size=size)
    plain = seeded(make).eval()
    plain.load_state_dict(classifier.network_state())
    with torch.no_grad():
        logits, features = classifier(x), classifier.features(x)
        for other in (classifier.network().eval(), plain, classifier.copy()):
            torch.testing.assert_close(other(x), logits, rtol=1e-4, atol=1e-3)
    assert features.shape == (3, classifier.feature_width)
    assert isinstance(plain.get_submodule(head), nn.Conv2d)
    assert plain.get_submodule(head).weight.requires_grad
    plain.requires_grad_(False)
    frozen = Classifier.wrap(plain, input_size=size)
    assert not frozen.head.weight.requires_grad
    assert not frozen.network().get_submodule(head).weight.requires_grad
    before = classifier.network_state()[f"{head}.weight"].clone()
    classifier.network().get_submodule(head).weight.data.add_(1)
    assert torch.equal(classifier.network_state()[f"{head}.weight"], before)


def test_number_of_classes_in_the_weights_of_a_convolution(tmp_path):
    saved = timm.create_model("dla46_c", num_classes=4).state_dict()
    save_file(saved, tmp_path / "w.safetensors")
    classifier = Classifier.load("timm:dla46_c", weights=tmp_path / "w.safetensors", input_size=64)
    assert classifier.num_classes == 4
    classifier.save(tmp_path / "run")
    again = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in saved.items())


def test_dropout_stays_in_the_body_and_train_and_eval_reach_it():
    classifier = wrap()
    x = images(size=4)
    assert not classifier.training
    assert torch.equal(classifier(x), classifier(x))
    classifier.train()
    with torch.random.fork_rng():
        assert not torch.equal(classifier.features(x), classifier.features(x))
    classifier.eval()
    assert torch.equal(classifier.features(x), classifier.features(x))


def test_head_without_bias_grey_input_and_outputs_in_containers():
    assert wrap(bias=False).head.bias is None
    x = images(size=4)
    grey = wrap(channels=1)
    mean = x.mean(1, keepdim=True)
    with torch.no_grad():
        torch.testing.assert_close(grey(x), grey.network()(mean))
        plain = wrap()(x)
        for give in (lambda y: (y, None), lambda y: {"logits": y}, lambda y: [y]):
            assert torch.equal(wrap(give=give)(x), plain)


def test_wrap_leaves_the_module_alone_and_copies_share_nothing():
    module = seeded(Net)
    module.train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    classifier = Classifier.wrap(module, input_size=4, class_names=NAMES)
    other = classifier.copy()
    for parameter in other.parameters():
        parameter.data.add_(1)
    network = classifier.network()
    for parameter in network.parameters():
        parameter.data.add_(1)
    assert module.training
    assert isinstance(module.top["head"], nn.Linear)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(torch.equal(before[k], v) for k, v in classifier.network_state().items())
    assert other.digest() != classifier.digest() == classifier.copy().digest()
    assert other.class_names == NAMES


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(48, 5), nn.Linear(48, 5)

    def forward(self, x):
        return (self.a(x.flatten(1)) + self.b(x.flatten(1))) / 2


class NormedHeads(TwoHeads):
    """Each head has a normalisation before it, as in LeViT."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.BatchNorm1d(48), nn.Dropout(), nn.Linear(48, 5))
        self.b = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 5))


class HeadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(48, 5)

    def forward(self, x):
        assert self.fc.weight.shape == (5, 48)
        return self.fc(x.flatten(1))


def sequence(*layers):
    return lambda: nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            sequence(
                nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            ),
            r"has no linear head: .*is Conv2d '0', which gives \(2, 5, 4, 4\)",
        ),
        (
            sequence(nn.Conv2d(3, 5, 4), nn.Flatten()),
            r"has no linear head: .*is Conv2d '0', which gives \(2, 5, 1, 1\)",
        ),
        (TwoHeads, r"has several heads \(a, b\)"),
        (NormedHeads, r"has several heads \(a\.2, b\.1\)"),
        (
            lambda: Net(after=nn.Softmax(dim=1)),
            r"something follows the linear layer 'top.head' .*\(the last layer that runs is "
            r"Softmax 'after'\)",
        ),
        (
            lambda: Net(give=lambda y: y.softmax(1)),
            r"something follows the linear layer 'top.head' .*\(in forward\(\)\)",
        ),
        (
            sequence(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh()),
            "something follows the linear layer '3'",
        ),
        (
            sequence(nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.Tanh()),
            "something follows the linear layer '3'",
        ),
        (HeadTwice, "cannot run without its linear layer 'fc'"),
        (lambda: Net(give=lambda y: {"other": y}), "returns a dict without logits"),
        (lambda: Net(give=lambda y: y[None]), r"returns a tensor of shape \(1, 2, 5\)"),
        (sequence(nn.Flatten()), "has no floating-point parameters"),
        (sequence(nn.Flatten(), nn.Linear(40, 5)), r"cannot take images of 4x4 pixels \(.*mat1"),
    ],
)
def test_networks_that_do_not_end_in_one_linear_layer(make, message):
    with pytest.raises(InputError, match=message) as caught:
        Classifier.wrap(make(), input_size=4)
    assert "\n" not in str(caught.value)


def test_an_architecture_alone_is_refused_until_the_word_random_asks_for_it():
    for spec in ("timm:resnet10t", "torchvision:resnet18"):
        with pytest.raises(InputError, match=f'{spec}.*weights="random"'):
            Classifier.load(spec, num_classes=2, input_size=32)
    one, same = (Classifier.load("timm:resnet10t", weights="random", seed=3) for _ in range(2))
    assert one.weights == "random (seed 3)"
    assert one.digest() == same.digest()


def test_distilled_network_of_timm_is_refused():
    with pytest.raises(InputError, match=r"several heads \(head, head_dist\)"):
        Classifier.load(
            "timm:deit_tiny_distilled_patch16_224", num_classes=5, input_size=32, weights="random"
        )
    with pytest.raises(InputError, match=r"torchvision:squeezenet1_1.*head"):
        Classifier.load("torchvision:squeezenet1_1", input_size=64, weights="random")


# images


def test_images_are_resized_and_normalised_inside():
    module = seeded(Net)
    classifier = Classifier.wrap(module, input_size=4, mean=(0.1, 0.2, 0.3), std=0.5)
    module.eval()
    x = images(size=9)
    small = F.interpolate(x, (4, 4), mode="bilinear", antialias=True)
    with torch.no_grad():
        wanted = module(normalised(small, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5)))
        torch.testing.assert_close(classifier(x), wanted)
        torch.testing.assert_close(classifier(small), wanted)
    assert classifier.mean.shape == classifier.std.shape == (3, 1, 1)
    assert not {"mean", "std"} & set(classifier.state_dict())
    with pytest.raises(InputError, match=r"images of shape \(3, 1, 4, 4\)"):
        classifier(x[:, :1, :4, :4])


def test_gradients_reach_pixels_of_any_size():
    x = images(size=7).requires_grad_()
    wrap()(x).square().sum().backward()
    assert x.grad.abs().sum() > 0


def test_what_each_kind_of_network_expects(tmp_path):
    tv = Classifier.load("torchvision:resnet18", num_classes=2, weights="random")
    assert tv.input_size == 224
    torch.testing.assert_close(tv.mean.flatten(), torch.tensor(IMAGENET[0]))
    vit = Classifier.load("timm:test_vit", num_classes=2, input_size=48, weights="random")
    assert vit.input_size == 48
    assert vit.mean.flatten().tolist() == vit.std.flatten().tolist() == [0.5] * 3
    own = Classifier.load("stakes:digits_cnn", mean=0.3, input_size=8)
    assert (own.input_size, own.num_classes, own.class_names[:2]) == (8, 10, ("class 0", "class 1"))
    torch.testing.assert_close(own.mean.flatten(), torch.full((3,), 0.3))
    assert own.std.flatten().tolist() == [1] * 3


def test_channels_last_is_used_unless_the_code_cannot():
    usual, viewing = wrap(), wrap(view=True)
    assert usual.body.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert viewing.body.conv2.weight.is_contiguous()
    x = images(size=4)
    with torch.no_grad():
        torch.testing.assert_close(usual(x), viewing(x))
        torch.testing.assert_close(usual(x), seeded(Net).eval()(x))


# weights


def test_random_weights_come_from_the_seed_and_leave_the_global_state():
    state = torch.random.get_rng_state()
    first = Classifier.load("stakes:digits_cnn")
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.weights == "random (seed 0)"
    assert first.digest() == Classifier.load("stakes:digits_cnn", seed=0).digest()
    assert first.digest() != Classifier.load("stakes:digits_cnn", seed=1).digest()


def test_weights_say_the_number_of_classes(tmp_path):
    plain = seeded(lambda: timm.create_model("resnet18", num_classes=7)).eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in plain.state_dict().items()}},
        p := tmp_path / "w.pth",
    )
    classifier = Classifier.load("timm:resnet18", weights=p, input_size=32)
    assert classifier.num_classes == 7
    assert classifier.weights == str(p)
    x = images()
    with torch.no_grad():
        last = plain.to(memory_format=torch.channels_last)
        assert torch.equal(classifier(x), last(normalised(x)))
    with pytest.raises(InputError, match=r"w\.pth has 7 classes, not 5"):
        Classifier.load("timm:resnet18", weights=p, class_names=NAMES)


def test_weights_that_do_not_fit_are_told_by_key(tmp_path):
    state = seeded(lambda: timm.create_model("resnet18", num_classes=5)).state_dict()
    del state["bn1.weight"]
    state["extra.weight"] = torch.ones(1)
    state["conv1.weight"] = torch.ones(64, 3, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        InputError,
        match=r"does not fit timm:resnet18: 1 keys missing \(bn1\.weight\); 1 keys unexpected "
        r"\(extra\.weight\); 1 keys of another shape \(conv1\.weight: \(64, 3, 3, 3\), not "
        r"\(64, 3, 7, 7\)\)",
    ):
        Classifier.load("timm:resnet18", weights=tmp_path / "w.pt", input_size=32)
    torch.save(seeded(Net).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"122 keys|\d+ keys missing \(.* and \d+ more\)"):
        Classifier.load("timm:resnet18", weights=tmp_path / "other.pt", input_size=32)


def test_old_weights_without_batch_counters_fit(tmp_path):
    state = Classifier.load("stakes:digits_cnn", seed=3).network_state()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file({k: v.contiguous() for k, v in old.items()}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").rename(tmp_path / "w.bin.safetensors")
    loaded = Classifier.load("stakes:digits_cnn", weights=tmp_path / "w.bin.safetensors")
    assert loaded.digest() == Classifier.load("stakes:digits_cnn", seed=3).digest()


# specs


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "unknown model 'resnet18'; give timm:NAME, torchvision:NAME"),
        ("keras:resnet18", "unknown model 'keras:resnet18'"),
        ("timm:", "'timm:' names no model"),
        ("timm:resnet81", "timm has no model 'resnet81'; did you mean resnet"),
        ("timm:resnet18.nope", "timm cannot make 'resnet18.nope': Invalid pretrained tag"),
        ("timm:hf-hub:someone/net", "timm has no model 'hf-hub:someone/net'"),
        ("torchvision:resnet81", "torchvision has no classifier 'resnet81'; did you mean"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier 'fcn_resnet50'"),
        ("stakes:resnet", "stakes has no model 'resnet'; it has cifar_convnext, cifar_resnet18,"),
        ("hf:no/such/folder", "no folder .*no/such/folder"),
        ("no/such.py:net", "no/such.py: no such file"),
        ("no/such.safetensors", "has no card model.json beside it"),
    ],
)
def test_unknown_models(spec, message):
    with pytest.raises(InputError, match=message):
        Classifier.load(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 3, "class_names": NAMES}, "5 class names for 3 classes"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"input_size": 0}, "input_size is 0"),
        ({"input_size": 2}, r"cannot take images of 2x2 pixels \(.*; give the input size"),
        ({"std": (1, 0, 1)}, r"std is \(1, 0, 1\); it divides"),
        ({"mean": (1, 2)}, r"mean is \(1, 2\); give one finite number"),
        ({"mean": float("nan")}, "mean is nan"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used"),
        ({"weights": "none.pt"}, r"none\.pt: no such file"),
    ],
)
def test_impossible_settings(arguments, message):
    with pytest.raises(InputError, match=message):
        Classifier.load("stakes:digits_cnn", **arguments)


OWN = """
from torch import nn
mean, std = (0.5, 0.4, 0.3), 0.25
def net(num_classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, num_classes))
def fixed():
    network = net(2)
    network.input_size, network.mean = 6, 0.1
    return network
class Bare(nn.Sequential):
    input_size = 6
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 36, 3))
def broken(): raise KeyError("x")
def number(): return 3
input_size = 6
"""


def test_own_code_is_run_only_when_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    net = Classifier.load(f"{path}:net", class_names=NAMES, mean=0.2)
    net.projector = Projector(net.feature_width)
    net.save(tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    path.write_text("from pathlib import Path\nPath('run').touch()\n" + OWN)
    monkeypatch.chdir(tmp_path)
    for saved in (tmp_path / "saved", file):
        with pytest.raises(InputError, match=r"your own code.*--model .*own.py:net --weights "):
            Classifier.load(saved)
    assert not Path("run").exists()
    again = Classifier.load("own.py:net", weights=file)
    assert Path("run").exists()
    assert again.digest() == net.digest()
    assert again.class_names == tuple(NAMES)
    assert torch.equal(again.mean, net.mean)
    assert again.projector is not None


def test_a_card_is_that_of_the_weights_wherever_own_code_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own.py", "moved.py"):
        Path(name).write_text(OWN)
    squash = Preprocessing((6, 6), "squash")
    words = {"class_names": NAMES, "mean": 0.2, "std": 0.9, "preprocessing": squash}
    net = Classifier.load("own.py:net", **words)
    net.projector = Projector(net.feature_width)
    net.save(tmp_path / "saved")
    again = Classifier.load("moved.py:net", weights="saved/model.safetensors")
    assert again.spec == f"{tmp_path}/moved.py:net"
    assert again.digest() == net.digest()
    assert (again.class_names, again.preprocessing) == (tuple(NAMES), squash)
    assert torch.equal(again.mean, net.mean)
    assert torch.equal(again.std, net.std)
    said = Classifier.load("moved.py:net", weights="saved/model.safetensors", mean=0.3)
    torch.testing.assert_close(said.mean.flatten(), torch.full((3,), 0.3))
    assert torch.equal(said.std, net.std)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 5))
    Classifier.wrap(module, input_size=6, mean=0.7).save(tmp_path / "wrapped")
    found = Classifier.load("moved.py:net", weights="wrapped/model.safetensors")
    torch.testing.assert_close(found.mean.flatten(), torch.full((3,), 0.7))
    state = load_file("saved/model.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, "saved/model.safetensors")
    with pytest.raises(InputError, match="not the file its card"):
        Classifier.load("moved.py:net", weights="saved/model.safetensors")


def test_the_card_beside_weights_counts_where_the_model_is_named_too(tmp_path):
    first = Classifier.load("stakes:digits_cnn", class_names=NAMES, mean=0.3, std=0.2)
    first.save(tmp_path)
    file = tmp_path / "model.safetensors"
    again = Classifier.load("stakes:digits_cnn", weights=file)
    assert (again.class_names, again.digest()) == (tuple(NAMES), first.digest())
    assert torch.equal(again.mean, first.mean)
    assert torch.equal(again.std, first.std)
    assert again.weights == f"{file}, made from weights random (seed 0)"
    said = Classifier.load("stakes:digits_cnn", weights=file, mean=0.5)
    torch.testing.assert_close(said.mean.flatten(), torch.full((3,), 0.5))
    (tmp_path / "model.json").unlink()
    assert Classifier.load("stakes:digits_cnn", weights=file).class_names[0] == "class 0"


def test_a_card_of_code_starts_none_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Classifier.load("stakes:digits_cnn", num_classes=3).save("saved")
    Path("own.py").write_text("open('started', 'w')\ndef net(): return 1\n")
    card = json.loads(Path("saved/model.json").read_text())
    for spec in ("own.py:net", "own.py:net:x", f"{tmp_path}/own.py:net"):
        Path("saved/model.json").write_text(json.dumps(card | {"spec": spec}))
        with pytest.raises(InputError, match="your own code, which a saved file never runs"):
            Classifier.load("saved")
    assert not Path("started").exists()


def test_saved_weights_are_named_by_their_file_and_what_they_were_made_from(tmp_path):
    first = Classifier.load("stakes:digits_cnn", num_classes=3)
    first.save(tmp_path / "one")
    second = Classifier.load(tmp_path / "one")
    second.save(tmp_path / "two")
    one, two = (f"{tmp_path}/{name}/model.safetensors, made from" for name in ("one", "two"))
    assert second.weights == f"{one} weights random (seed 0)"
    third = Classifier.load(tmp_path / "two" / "model.safetensors")
    assert third.weights == f"{two} weights {one} weights random (seed 0)"


def test_own_code_imports_what_lies_beside_it_and_nothing_in_place_of_what_is_installed(
    tmp_path, monkeypatch
):
    before = list(sys.path)
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
    for width in (3, 6):
        folder = tmp_path / str(width)
        (folder / "parts").mkdir(parents=True)
        (folder / "own.py").write_text(
            "from layers_beside import make\nimport parts.sizes as p, tabnanny\n"
            "input_size = p.side()\n"
            "def late():\n  from late_beside import make\n  return make()\n"
        )
        net = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), "
        net += f"nn.Linear({3 * width**2}, 2))\n"
        for name in ("layers_beside", "late_beside"):
            (folder / f"{name}.py").write_text(net)
        (folder / "parts" / "sizes.py").write_text(f"def side(): return {width}\n")
        (folder / "tabnanny.py").write_text("1 / 0")  # as a module of Python that few import
    for width in (3, 6, 3):
        for name in ("make", "late"):
            own = Classifier.load(f"{tmp_path}/{width}/own.py:{name}")
            assert own.feature_width == 3 * width**2
            assert own.input_size == width
    assert sys.path == before
    assert not list(tmp_path.rglob("__pycache__"))


def test_own_file(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    net = Classifier.load("own.py:net", class_names=NAMES)
    assert net.spec == f"{tmp_path / 'own.py'}:net"
    assert (net.num_classes, net.input_size) == (5, 6)
    torch.testing.assert_close(net.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))
    torch.testing.assert_close(net.std.flatten(), torch.full((3,), 0.25))
    assert Classifier.load("own.py:net").num_classes == 4
    fixed = Classifier.load("own.py:fixed")
    assert (fixed.num_classes, fixed.input_size) == (2, 6)
    torch.testing.assert_close(fixed.mean.flatten(), torch.full((3,), 0.1))
    assert Classifier.load("own.py:Bare").num_classes == 3
    for name, message in {
        "none": "has no function or class 'none'",
        "broken": "broken in .* failed at own.py:.*: KeyError: 'x'",
        "number": "returned a int, not a network",
    }.items():
        with pytest.raises(InputError, match=message):
            Classifier.load(f"{tmp_path}/own.py:{name}")
    with pytest.raises(InputError, match=r"2 classes, not 5.*factory"):
        Classifier.load(f"{tmp_path}/own.py:fixed", num_classes=5)
    with pytest.raises(InputError, match=r"2 classes.*5 class names"):
        Classifier.load(f"{tmp_path}/own.py:fixed", class_names=NAMES)
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(InputError, match=r"bad\.py:1: ZeroDivisionError"):
        Classifier.load(f"{tmp_path}/bad.py:net")


# saved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "size", "plain"),
    [
        ("timm:test_resnet", 32, lambda: timm.create_model("test_resnet", num_classes=5)),
        (
            "timm:test_vit",
            32,
            lambda: timm.create_model("test_vit", num_classes=5, img_size=32),
        ),
        ("torchvision:resnet18", 32, lambda: torchvision.models.resnet18(num_classes=5)),
    ],
)
def test_saved_weights_give_equal_bits_here_and_in_the_plain_library(tmp_path, spec, size, plain):
    given = {"class_names": NAMES, "input_size": size, "mean": 0.5, "std": 0.2}
    classifier = Classifier.load(spec, weights="random", **given)
    classifier.save(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    x = images(size=40)
    with torch.no_grad():
        wanted = classifier(x)
        for again in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
            loaded = Classifier.load(again)
            assert torch.equal(loaded(x), wanted)
            assert loaded.digest() == classifier.digest()
            card = loaded.card()
            assert card.pop("weights").endswith(
                "model.safetensors, made from weights random (seed 0)"
            )
            assert card == {key: v for key, v in classifier.card().items() if key != "weights"}
        network = plain().eval()
        network.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
        small = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        inputs = normalised(small, (0.5,) * 3, (0.2,) * 3)
        torch.testing.assert_close(network(inputs), wanted)
        if spec != "timm:test_vit":
            network.to(memory_format=torch.channels_last)
        assert torch.equal(network(inputs), wanted)


def test_card_and_its_recipe(tmp_path):
    classifier = Classifier.load(
        "timm:resnet18", class_names=NAMES, input_size=32, weights="random"
    )
    classifier.save(tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["spec"] == "timm:resnet18"
    assert card["class_names"] == list(NAMES)
    assert card["mean"] == list(IMAGENET[0])
    assert (card["head_name"], card["feature_width"], card["projector"]) == ("fc", 512, None)
    assert card["digest"] == classifier.digest()
    names = {"timm": timm, "load_file": lambda _: load_file(tmp_path / "model.safetensors")}
    exec(card["recipe"], names)
    assert torch.equal(names["net"].fc.weight, classifier.head.weight)


def test_arguments_win_over_the_card_but_weights_and_classes_are_its_own(tmp_path):
    Classifier.load("stakes:digits_cnn", class_names=NAMES, mean=0.3).save(tmp_path)
    other = Classifier.load(tmp_path, class_names=list("vwxyz"), mean=0.2, input_size=8)
    assert other.class_names == tuple("vwxyz")
    assert other.input_size == 8
    torch.testing.assert_close(other.mean.flatten(), torch.full((3,), 0.2))
    with pytest.raises(InputError, match="own weights"):
        Classifier.load(tmp_path, weights="w.pt")
    for wrong in ({"class_names": ["a", "b"]}, {"num_classes": 2}):
        with pytest.raises(InputError, match=r"model\.safetensors.*5 classes.*2"):
            Classifier.load(tmp_path, **wrong)
    assert Classifier.load(tmp_path, num_classes=5).class_names == NAMES


def test_a_card_s_class_names_in_another_order_are_refused(tmp_path):
    Classifier.load("stakes:digits_cnn", class_names=NAMES).save(tmp_path)
    assert Classifier.load(tmp_path, class_names=list(NAMES)).class_names == NAMES
    with pytest.raises(InputError, match=r"model\.json .*output 1 is bee, not cow.*another order"):
        Classifier.load(tmp_path, class_names=("ant", "cow", "bee", "dog", "emu"))


def test_projector_is_applied_saved_and_left_out_of_the_plain_network(tmp_path):
    classifier = Classifier.load("stakes:digits_cnn", num_classes=3)
    x = images(size=16)
    with torch.no_grad():
        direct, features = classifier(x), classifier.features(x)
        plain = classifier.digest()
        classifier.projector = Projector(64)
        classifier.projector.contract.bias.data.fill_(0.5)
        assert classifier.digest() != plain
        torch.testing.assert_close(classifier.features(x), features + 0.5)
        classifier.save(tmp_path)
        loaded = Classifier.load(tmp_path)
        assert torch.equal(loaded(x), classifier(x))
        assert not torch.equal(loaded(x), direct)
        assert torch.equal(loaded.network()(x), direct)
    assert loaded.projector.width == 64
    assert loaded.digest() == classifier.digest()
    assert not any("projector" in name for name in loaded.network_state())
    assert "projector.expand.weight" in load_file(tmp_path / "model.safetensors")
    assert 'startswith("projector.")' in loaded.card()["recipe"]
    assert classifier.copy().projector is not classifier.projector
    classifier.projector = Projector(32)
    classifier.save(tmp_path)
    with pytest.raises(InputError, match="projector"):
        Classifier.load(tmp_path)


def test_a_saved_classifier_that_was_changed_or_cannot_be_rebuilt(tmp_path):
    folder = tmp_path / "run"
    classifier = Classifier.load("stakes:digits_cnn", num_classes=3)
    classifier.save(folder)
    card, file = folder / "model.json", folder / "model.safetensors"
    text, state = card.read_text(), load_file(file)
    state["head.bias"][0] += 1
    save_file(state, file)
    with pytest.raises(InputError, match=r"model\.json"):
        Classifier.load(folder)
    classifier.save(folder)
    for change, message in (
        (lambda c: c | {"format": 99}, "has format 99; this version of stakes reads 1"),
        (lambda c: c | {"num_classes": "3"}, "no usable field 'num_classes'"),
        (lambda c: {k: v for k, v in c.items() if k != "mean"}, "no usable field 'mean'"),
        (lambda c: c | {"spec": "/evil.py:net"}, "was saved from your own code, which"),
        (lambda c: [c], "holds a JSON list, not an object"),
    ):
        card.write_text(json.dumps(change(json.loads(text))))
        with pytest.raises(InputError, match=message):
            Classifier.load(folder)
    card.write_text(text[:40])
    with pytest.raises(InputError, match=r"model\.json cannot be read as JSON"):
        Classifier.load(folder)
    card.unlink()
    for path in (folder, file):
        with pytest.raises(InputError, match=r"has no card model\.json beside it"):
            Classifier.load(path)
    wrap().save(folder)
    with pytest.raises(InputError, match="Net"):
        Classifier.load(folder)


def test_saving_over_an_older_one_leaves_no_rubbish(tmp_path):
    first, second = (Classifier.load("stakes:digits_cnn", seed=s) for s in (0, 1))
    first.save(tmp_path)
    second.save(tmp_path)
    assert Classifier.load(tmp_path).digest() == second.digest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


# transformers


@pytest.fixture
def hf_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=4, id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )  # fmt: skip
    network = seeded(lambda: transformers.ViTForImageClassification(config)).eval()
    network.save_pretrained(tmp_path / "vit")
    settings = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3,
                "size": {"height": 16, "width": 16}}  # fmt: skip
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path / "vit", network


@pytest.mark.slow
def test_transformers_folder_there_and_back(hf_folder, tmp_path):
    import transformers

    folder, network = hf_folder
    classifier = Classifier.load(f"hf:{folder}")
    assert (classifier.head_name, classifier.class_names) == ("classifier", NAMES)
    assert (classifier.input_size, classifier.num_classes) == (16, 5)
    assert classifier.weights == str(folder / "model.safetensors")
    x = images(size=16)
    inputs = normalised(x, (0.5, 0.4, 0.3), (0.2,) * 3)
    with torch.no_grad():
        assert torch.equal(classifier(x), network(inputs).logits)
        classifier.head.weight.add_(0.1)
        wanted = classifier(x)
        classifier.save(tmp_path / "out")
        loaded = Classifier.load(tmp_path / "out")
        plain = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
        assert torch.equal(plain.eval()(inputs).logits, wanted)
        assert torch.equal(loaded(x), wanted)
        as_folder = Classifier.load(f"hf:{tmp_path / 'out'}")
        assert torch.equal(as_folder(x), wanted)
    assert loaded.digest() == as_folder.digest() == classifier.digest()
    assert loaded.spec == f"hf:{folder}"
    assert plain.config.id2label == dict(enumerate(NAMES))
    assert load_file(folder / "model.safetensors").keys() == (
        load_file(tmp_path / "out" / "model.safetensors").keys()
    ), "the names files have, not those modules have"
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.5, 0.4, 0.3]


def test_a_transformers_folder_of_pickled_weights_or_of_parts(hf_folder):
    folder, network = hf_folder
    wanted = Classifier.load(f"hf:{folder}").digest()
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    assert Classifier.load(f"hf:{folder}").digest() == wanted
    torch.save({"all": network}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin was refused, and nothing"):
        Classifier.load(f"hf:{folder}")
    (folder / "pytorch_model.bin").unlink()
    network.save_pretrained(folder, max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert Classifier.load(f"hf:{folder}").digest() == wanted


def test_a_transformers_folder_s_class_names_in_another_order_are_refused(hf_folder, tmp_path):
    folder, network = hf_folder
    with pytest.raises(InputError, match=r"hf:.*vit says that output 0 is ant, not emu"):
        Classifier.load(f"hf:{folder}", class_names=NAMES[::-1])
    torch.save(network.state_dict(), tmp_path / "w.pt")  # trained elsewhere, perhaps in that order
    other = Classifier.load(f"hf:{folder}", weights=tmp_path / "w.pt", class_names=NAMES[::-1])
    assert other.class_names == NAMES[::-1]


def test_transformers_weights_from_elsewhere_and_faults(hf_folder, tmp_path, capfd):
    folder, network = hf_folder
    torch.save(network.state_dict(), tmp_path / "w.pt")
    other = Classifier.load(f"hf:{folder}", weights=tmp_path / "w.pt")
    assert other.digest() == Classifier.load(f"hf:{folder}").digest()
    with pytest.raises(InputError, match=r"model\.safetensors.*5 classes.*3"):
        Classifier.load(f"hf:{folder}", num_classes=3)
    state = load_file(folder / "model.safetensors")
    state["bogus"] = state.pop("classifier.bias")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    capfd.readouterr()
    with pytest.raises(
        InputError,
        match=r"does not fit ViTForImageClassification: 1 keys missing \(classifier\.bias\); "
        r"1 keys unexpected \(bogus\)",
    ):
        Classifier.load(f"hf:{folder}")
    assert capfd.readouterr() == ("", "")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="one of model"):
        Classifier.load(f"hf:{folder}")
    (folder / "config.json").write_text('{"model_type": "none"}')
    with pytest.raises(InputError, match="image classifier"):
        Classifier.load(f"hf:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        Classifier.load(f"hf:{folder}")


def test_without_transformers_the_message_says_what_to_install(hf_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r'pip install "stakes\[text\]"'):
        Classifier.load(f"hf:{hf_folder[0]}")


def test_code_of_ones_own_leaves_nothing_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "parts_of_mine.py").write_text("NUMBER = 3\n")
    (tmp_path / "mine.py").write_text("from parts_of_mine import NUMBER\n")
    assert run_file(tmp_path / "mine.py").NUMBER == 3
    assert {path.name for path in tmp_path.rglob("*")} == {"mine.py", "parts_of_mine.py"}
    assert not sys.dont_write_bytecode


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_networks_of_images_and_texts_say_their_size_in_the_part_for_images(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    part = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    part |= {"intermediate_size": 16}
    config = getattr(transformers, f"{kind}Config")(
        vision_config=part | {"image_size": 32, "patch_size": 8},
        text_config=part | {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2},
        num_labels=5,
    )
    make = getattr(transformers, f"{kind}ForImageClassification")
    network = seeded(lambda: make(config)).eval()
    network.save_pretrained(tmp_path)
    classifier = Classifier.load(f"hf:{tmp_path}")
    assert classifier.input_size == 32
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(classifier(x), network(x).logits)


def test_weights_without_a_version_fit_a_network_that_asks_for_one(tmp_path):
    plain = torchvision.models.get_model("mnasnet0_5", num_classes=5)
    torch.save(dict(plain.state_dict()), tmp_path / "w.pt")
    loaded = Classifier.load("torchvision:mnasnet0_5", weights=tmp_path / "w.pt", input_size=32)
    assert torch.equal(loaded.head.weight, plain.classifier[1].weight)
    loaded.save(tmp_path / "run")
    saved = load_file(tmp_path / "run" / "model.safetensors")
    names = {"torchvision": torchvision, "load_file": lambda _: saved}
    exec(loaded.card()["recipe"], names)
    assert all(torch.equal(names["net"].state_dict()[name], saved[name]) for name in saved)
