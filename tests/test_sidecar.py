"""A sidecar: what it holds, that no training image is in it, its file, and its use."""

import json
import stat
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import blobs
from stakes import InputError, StructGuard
from stakes.cli.commands import main
from stakes.data.activations import Activations
from stakes.data.images import ImageArray
from stakes.data.surrogates import Surrogates
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task
from stakes.sidecar import Sidecar, make, membership
from stakes.sidecar.contents import is_sidecar
from stakes.sidecar.layers import UnchangedLayers
from stakes.sidecar.membership import auc
from stakes.training.depth import shallow

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def made(trained, train_images) -> Sidecar:
    return make(trained, train_images, count=40, steps=40)


@pytest.fixture
def half(monkeypatch) -> None:
    """Half of the layers change: conv2 and the head of the small network."""
    monkeypatch.setattr("stakes.training.depth.FEWEST_LAYERS", 1)
    monkeypatch.setattr("stakes.sidecar.layers.DEPTH", 0.5)


def many(count: int, seed: int) -> ImageArray:
    return ImageArray(*blobs(count, seed))


@pytest.fixture
def described(half, trained) -> Sidecar:
    """A sidecar that describes the layers before conv2."""
    return make(trained, many(1200, 8), count=8, steps=1)


def unchanged(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What the layers before conv2 give; the ReLU is no layer."""
    body = network.body
    return body.bn1(body.conv1((images - network.mean) / network.std)).detach()


def test_it_holds_the_statistics_of_the_data(made, trained, train_images):
    images, labels = train_images.load(range(160)), train_images.labels
    features = trained.features(images).detach()
    assert made.counts.tolist() == [40] * 4
    for label in range(4):
        own = features[labels == label].double()
        assert torch.allclose(made.means[label].double(), own.mean(0), atol=1e-4)
        covariance = torch.cov(own.T, correction=0)
        assert torch.allclose(made.covariances[label].double(), covariance, atol=1e-4)
    assert set(made.moments) == {"body.bn1", "body.bn2"}
    inputs = trained.body.conv1((images - trained.mean) / trained.std).detach()
    expected = torch.stack([inputs.mean((0, 2, 3)), inputs.var((0, 2, 3), correction=0)])
    assert torch.allclose(made.moments["body.bn1"], expected, atol=1e-4)


def test_many_classes_share_the_covariance_within_them(trained, train_images, monkeypatch):
    monkeypatch.setattr(sys.modules["stakes.sidecar.make"], "ROOM", 100)
    found = make(trained, train_images, count=8, steps=1)
    features = trained.features(train_images.load(range(160))).detach()
    rest = (features - found.means[train_images.labels]).double()
    assert found.covariances.shape == (1, 8, 8)
    assert torch.allclose(found.covariances[0].double(), rest.T @ rest / 160, atol=1e-4)


def test_its_images_are_like_the_data_to_the_network_and_none_of_it(made, trained, train_images):
    shown = made.images.float() / 255
    assert (trained(shown).argmax(1) == made.labels).float().mean() > 0.8
    training = train_images.load(range(160)).flatten(1)
    nearest = torch.cdist(shown.flatten(1), training).amin(1)
    between = torch.cdist(training, training) + 1e9 * torch.eye(160)
    assert nearest.min() > 0.7 * between.amin(1).min()


def test_a_sidecar_gives_nobody_away(made, trained, train_images, test_images):
    found = membership(made, trained, train_images, test_images)
    assert found["n"] == 80
    assert 0.35 < found["pixels"] < 0.65
    # the same test finds images that were put into one
    leaky = Sidecar(train_images.pixels[:80], *[getattr(made, n) for n in (
        "labels", "means", "covariances", "counts", "moments")])  # fmt: skip
    members = ImageArray(train_images.pixels[:80], train_images.labels[:80])
    found = membership(leaky, trained, members, test_images)
    assert found["pixels"] == found["features"] == 1.0
    features = [
        trained.features(images.load(range(80))).detach() for images in (members, test_images)
    ]
    nearest = [
        -torch.stack([(f - made.means).norm(dim=1).min() for f in part]) for part in features
    ]
    assert found["means"] == pytest.approx(auc(*nearest), abs=1e-3)


def test_the_area_under_the_curve_counts_pairs():
    one, two = torch.randint(0, 5, (30,)), torch.randint(0, 5, (20,))
    pairs = (one[:, None] > two).double() + 0.5 * (one[:, None] == two).double()
    assert auc(one, two) == pytest.approx(float(pairs.mean()))


def test_its_file_is_read_as_it_was_written(made, tmp_path):
    size = made.save(tmp_path / "one.safetensors")
    assert size == (tmp_path / "one.safetensors").stat().st_size
    read = Sidecar.load(tmp_path / "one.safetensors")
    assert torch.equal(read.images, made.images)
    assert torch.allclose(read.means, made.means, atol=1e-2)
    assert read.card == made.card
    assert read.surrogates().digest() == made.surrogates().digest()
    assert made.surrogates(size=(16, 16)).pixels.shape == (40, 3, 16, 16)
    wide = replace(made, covariances=made.covariances * 1e9)
    wide.save(tmp_path / "wide.safetensors")
    read = Sidecar.load(tmp_path / "wide.safetensors")
    assert torch.equal(read.covariances, wide.covariances)
    with pytest.raises(InputError, match="ends in"):
        made.save(tmp_path / "one.bin")
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    for name, message in (("other", "cannot be read"), ("missing", "no such file")):
        with pytest.raises(InputError, match=message):
            Sidecar.load(tmp_path / f"{name}.safetensors")


def test_a_file_of_another_version_is_a_sidecar_that_cannot_be_read(made, tmp_path):
    place = tmp_path / "one.safetensors"
    made.save(place)
    with safe_open(place, "pt") as file:
        about = json.loads(file.metadata()["stakes"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, version in (("one", "stakes sidecar 2"), ("other", "stakes forget set 1")):
        place = tmp_path / f"{name}.safetensors"
        save_file(tensors, place, {"stakes": json.dumps(about | {"format": version})})
        with pytest.raises(InputError, match="no sidecar, or one of another version"):
            Sidecar.load(place)
        assert is_sidecar(place) is (name == "one")
    tensors["images"] = tensors["images"].float()
    save_file(tensors, place, {"stakes": json.dumps(about)})
    with pytest.raises(InputError, match="its images are damaged"):
        Sidecar.load(place)


@pytest.mark.usefixtures("no_umask")
def test_its_file_is_for_its_owner_and_replaces_another_in_one_step(made, tmp_path):
    file = tmp_path / "one.safetensors"
    made.save(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with open(file, "rb") as reader:
        replace(made, images=made.images[:4], labels=made.labels[:4]).save(file)
        assert reader.read() == before
    assert len(Sidecar.load(file).images) == 4


def test_the_command_replaces_a_sidecar_and_no_other_file(tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    out.write_text("weights")
    words = ["sidecar", "--model", "stakes:digits_cnn", "--weights", "random", "--data", "digits"]
    assert main([*words, "--out", str(out), "--overwrite"]) == 2
    assert "mine.safetensors was not written by this command" in capsys.readouterr().err
    assert out.read_text() == "weights"


def test_a_class_without_images_counts_for_nothing(trained, train_images):
    some = train_images.labels < 3
    found = make(trained, ImageArray(train_images.pixels[some], train_images.labels[some]),
                 count=8, steps=1)  # fmt: skip
    assert found.counts.tolist() == [40, 40, 40, 0]
    assert found.card["training_images"] == 120
    assert found.means[3].abs().max() == 0
    assert found.means.isfinite().all()
    assert found.covariances.isfinite().all()


@pytest.mark.parametrize(("room", "count"), [(4 * 2**20, 256), (99 * 192, 99), (1, 32)])
def test_there_are_as_many_images_as_there_is_room_for(
    room, count, trained, train_images, monkeypatch
):
    monkeypatch.setattr(sys.modules["stakes.sidecar.make"], "ROOM", room)
    found = make(trained, train_images, steps=1)
    assert (len(found.images), len(found.labels)) == (count, count)
    classes = found.labels.bincount(minlength=4)
    assert classes.max() - classes.min() <= 1


def test_its_images_follow_the_seed(trained, train_images):
    one, same, other = (
        make(trained, train_images, count=8, steps=1, seed=seed).images for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_it_describes_what_layers_give_that_do_not_change(described, trained):
    images = many(1200, 8)
    outputs = unchanged(trained, images.load(range(1200))).flatten(1)
    found = described.activations
    assert found.layers == (("bn1", (8, 8, 8)),)
    for label in range(4):
        own = outputs[images.labels == label]
        assert torch.allclose(found.means[label], own.mean(0), atol=0.02)
        longest = torch.linalg.svd(own - own.mean(0), full_matrices=False).S[:3] / len(own) ** 0.5
        lengths = found.directions[label].norm(dim=1)
        assert torch.allclose(lengths, longest, rtol=0.02)


def test_nothing_is_described_of_few_images_or_where_all_layers_may_change(
    half, trained, train_images, monkeypatch
):
    assert make(trained, train_images, count=8, steps=1).activations is None  # 40 of a class
    monkeypatch.setattr("stakes.sidecar.layers.DEPTH", 1.0)
    assert make(trained, many(1200, 8), count=8, steps=1).activations is None


def test_a_file_keeps_the_activations(described, tmp_path):
    described.save(tmp_path / "one.safetensors")
    read = Sidecar.load(tmp_path / "one.safetensors")
    assert read.activations.layers == described.activations.layers
    for name, tensor in described.activations.tensors().items():
        away = (read.activations.tensors()[name] - tensor).abs().max()
        assert away <= tensor.abs().max() / (250 if name == "directions" else 2000)
    generator = torch.Generator().manual_seed(0)
    assert read.activations.draw(3, generator, torch.ones(4))[0].shape == (3, 8, 8, 8)
    assert read.surrogates().digest() != replace(read, activations=None).surrogates().digest()
    with pytest.raises(ValueError, match="fit"):
        replace(read.activations, means=read.activations.means[:2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", 7),
        ("layers", [["bn1", 3]]),
        ("layers", [["bn1", [8, 8, 9]]]),
        ("activations.seen", None),
        ("activations.scales", torch.zeros(3)),
        ("activations.places.0", torch.zeros(9, 9)),
    ],
)
def test_damaged_activations_are_one_line(name, value, described, tmp_path):
    place = tmp_path / "one.safetensors"
    described.save(place)
    with safe_open(place, "pt") as file:
        about = json.loads(file.metadata()["stakes"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if name in about:
        about[name] = value
    elif value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, place, {"stakes": json.dumps(about)})
    with pytest.raises(InputError, match="cannot be read"):
        Sidecar.load(place)


@pytest.mark.parametrize(("public", "share"), [(2500, 16), (0, 32)])
@pytest.mark.parametrize(("layers", "used"), [(0.5, True), (0.1, False)])
def test_a_step_holds_activations_of_the_layers_before_those_that_change(
    layers, used, public, share, described, classifier, forget, anchors, monkeypatch
):
    task = Task(classifier, forget, anchors)
    given = [described.surrogates()]
    if public:
        given.append(Surrogates.of(blobs(public, 7)[0], (8, 8)))
    task.take_surrogates(Surrogates.joined(given), None, 0)
    settings = StructGuard(criterion="views", probe_batch=64, depth=layers)
    monkeypatch.setattr("stakes.methods.probing.INVERSION_STEPS", 1)
    with shallow(task.live, layers):
        objective = Objective(settings, task)
        kind = objective.kind_of_probes()["probes"]
        made = "activations and mixed" if used else "inverted"  # not both
        assert kind == f"surrogates and {made}"
        batch = objective._draw_probes()
        black = (batch.images == 0).flatten(1).all(1)
        assert (len(black), int(black.sum())) == (64, share if used else 0)
        if not used:
            return
        # the original's answers to them are what its later layers make of them
        body, given = classifier.body, batch.outputs[0][black].float()
        features = torch.relu(body.bn2(body.conv2(torch.relu(given)))).mean((2, 3)).detach()
        assert torch.allclose(batch.features[black], features, atol=0.02 * float(features.max()))
        assert given.std(0).min() > 0
        with torch.no_grad():
            start = objective.terms(1)
            task.live.body.conv2.weight += 0.1
            moved = objective.terms(2)
        assert moved["retention"] > 10 * start["retention"].abs()


def test_activations_give_nobody_away(described, trained, train_images, test_images):
    found = membership(described, trained, many(1200, 8), many(1200, 9))
    assert 0.4 < found["activations"] < 0.6
    # the same test finds images of which each was kept as a class
    kept = unchanged(trained, train_images.load(range(160))).flatten(1)
    one = described.activations
    leaky = Activations(
        one.layers,
        kept,
        torch.zeros(160, 0, kept.shape[1]),
        one.roots,
        plain=one.plain[:1].expand(160, -1, -1),
        seen=one.seen[:1].expand(160, -1, -1),
    )
    shown = replace(described, activations=leaky)
    assert membership(shown, trained, train_images, test_images)["activations"] > 0.95
    # and images that the directions kept span
    mean = kept[:80].mean(0)
    span = torch.linalg.svd(kept[:80] - mean, full_matrices=False).Vh[:40]
    spanned = replace(one, means=mean.expand(4, -1), directions=span.expand(4, -1, -1))
    shown = replace(described, activations=spanned)
    shown.card["seed"] = 0
    members = ImageArray(train_images.pixels[:80], train_images.labels[:80])
    assert membership(shown, trained, members, test_images)["activations"] > 0.7


def test_activations_are_of_a_sample_that_the_membership_test_finds_again(
    half, trained, train_images, test_images, monkeypatch
):
    monkeypatch.setattr("stakes.sidecar.layers.VALUES", 512 * 1100)
    images = many(1200, 8)
    layers = UnchangedLayers(trained.copy().requires_grad_(False), images.load(range(1))[0])
    chosen = layers.sample(1200, 7)
    made = make(trained, images, count=8, steps=1, seed=7)
    outputs = layers.outputs(images, chosen).float()
    assert len(chosen) == 1100
    for label in range(4):
        mean = outputs[images.labels[chosen] == label].mean(0)
        assert (made.activations.means[label] - mean).abs().max() < 1e-3
    monkeypatch.setattr("stakes.sidecar.layers.VALUES", 512 * 40)
    some = layers.sample(160, 7)
    kept = unchanged(trained, train_images.load(some)).flatten(1)
    one = made.activations  # of which each image of the sample was kept as a class
    leaky = Activations(
        one.layers,
        kept,
        torch.zeros(40, 0, 512),
        one.roots,
        plain=one.plain[:1].expand(40, -1, -1),
        seen=one.seen[:1].expand(40, -1, -1),
    )
    shown = replace(made, activations=leaky)
    assert membership(shown, trained, train_images, test_images)["activations"] > 0.95


def test_images_that_the_directions_explain_are_found_however_far_they_lie(
    described, trained, train_images, test_images, monkeypatch
):
    generator = torch.Generator().manual_seed(0)
    span = torch.linalg.qr(torch.randn(512, 5, generator=generator)).Q.T
    along = 20 * torch.randn(80, 5, generator=generator) @ span
    members = along + 0.5 * torch.randn(80, 512, generator=generator)
    others = 0.2 * torch.randn(80, 512, generator=generator)
    given = iter([members, others])
    monkeypatch.setattr(UnchangedLayers, "outputs", lambda *_: next(given))
    described.card["seed"] = 0
    one = described.activations
    spanned = replace(one, means=torch.zeros(4, 512), directions=span.expand(4, -1, -1))
    shown = replace(described, activations=spanned)
    assert membership(shown, trained, train_images, test_images)["activations"] == 1


def test_a_sidecar_at_another_size_has_no_activations(described):
    assert described.surrogates().activations is described.activations
    assert described.surrogates(size=(16, 16)).activations is None


def test_a_run_holds_its_images(made, classifier, forget, anchors):
    settings = {"lr": 5e-3, "depth": 1.0, "max_steps": 3, "probe_batch": 32}
    result = StructGuard(**settings)(
        classifier, forget, anchors=anchors, surrogates=made.surrogates("one.safetensors")
    )
    assert result.surrogates.row()["surrogates"] == "one.safetensors"
    assert result.surrogates.row()["surrogates_count"] == 40


def test_the_command_makes_one_and_unlearn_takes_it(tmp_path, capsys):
    pixels, labels = blobs(24, 3)
    for i, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        place = tmp_path / "data" / ("train" if i < 16 else "test") / "abcd"[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    network = ["--model", "stakes:digits_cnn", "--weights", "random", "--data", tmp_path / "data"]
    out = tmp_path / "one.safetensors"
    words = ["sidecar", *network, "--interpolation", "box", "--images", 8, "--steps", 2]
    words += ["--out", out]
    assert main([str(word) for word in words]) in (0, None)
    said = capsys.readouterr().out
    assert "8 synthetic images" in said
    assert "no activations stored" in said
    assert Sidecar.load(out).card["membership"]["n"] == 8
    words = ["unlearn", *network, "--forget", "random:2", "--sidecar", out, "--max-steps", 2]
    words += ["--quiet", "--out", tmp_path / "run"]
    assert main([str(word) for word in words]) in (0, 3)
    row = json.loads((tmp_path / "run" / "row.json").read_text())
    assert (row["surrogates"], row["surrogates_count"]) == (str(out), 8)
    assert row["surrogates_synthetic"] == "all"
    public = tmp_path / "public"
    public.mkdir()
    for i, image in enumerate(blobs(5, 9)[0]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(public / f"{i}.png")
    both = [*words[:-1], tmp_path / "both", "--surrogates", public]
    assert main([str(word) for word in both]) in (0, 3)
    row = json.loads((tmp_path / "both" / "row.json").read_text())
    assert (row["surrogates"], row["surrogates_count"]) == (f"{out} and {public}", 13)
    assert row["surrogates_synthetic"] == "some"
    loaded = Sidecar.load(out)
    loaded.card["weights_digest"] = "of other weights"
    loaded.save(out)
    assert main([str(word) for word in [*words[:-1], tmp_path / "other"]]) == 2
    assert "made for other weights" in capsys.readouterr().err
