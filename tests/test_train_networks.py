"""The script that trains the benchmarks' networks, on a few small made-up images."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import CLASSES, blobs
from scripts import benchmark
from stakes import Classifier, ForgetSet, load_data
from stakes.data.digests import pixel_digests
from stakes.files import file_digest
from stakes.training import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script():
    module = benchmark("train_networks")
    phases = (module.Phase(2, 8, 2), module.Phase(1, 16, 0))
    shared = {"phases": phases, "batch_size": 8, "classes": len(CLASSES), "size": 16}
    for name, peak in (("sgd", 0.05), ("adamw", 0.005)):
        module.NETWORKS[name] = module.Plan(
            "stakes:digits_cnn", peak=peak, decay=0.01, optimizer=name, **shared
        )
    module.NETWORKS["cosine"] = module.Plan(
        "stakes:digits_cnn",
        peak=0.05,
        decay=0.01,
        nesterov=False,
        schedule="cosine",
        **shared | {"phases": (module.Phase(3, 16, 2, "constant"),)},
    )
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """40 images to train on and 16 for testing."""
    folder = tmp_path_factory.mktemp("data")
    for part, count, seed in (("train", 40, 0), ("test", 16, 1)):
        pixels, labels = blobs(count, seed)
        for i, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            path = folder / part / CLASSES[label] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder


def run(script, out, data, network="sgd", *options) -> Path:
    """Train and return the network's folder."""
    script.main([network, str(out), "--data", str(data), *options])
    (folder,) = out.iterdir()
    return folder


@pytest.fixture
def seen(script, monkeypatch) -> list[torch.Tensor]:
    """The batches that training takes, as they come in."""
    batches, moved = [], script.moved

    def watched(pixels, *rest):
        batches.append(pixels)
        return moved(pixels, *rest)

    monkeypatch.setattr(script, "moved", watched)
    return batches


@pytest.mark.parametrize("network", ["sgd", "adamw", "cosine"])
@pytest.mark.parametrize("stop", [3, 7, 14])
def test_an_interrupted_training_ends_with_the_same_bits(
    script, data, tmp_path, monkeypatch, network, stop
):
    whole = run(script, tmp_path / "whole", data, network)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    moved, calls = script.moved, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return moved(*arguments)

    monkeypatch.setattr(script, "moved", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(script, tmp_path / "parts", data, network)
    assert not list((tmp_path / "parts").rglob("model.*")), "nothing is there before all is done"
    parts = run(script, tmp_path / "parts", data, network)
    assert len(calls) == 15 + 1, "no step is done twice but the one that was interrupted"
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    one, other = (json.loads((at / "model.json").read_text())["training"] for at in (whole, parts))
    assert one["history"] == other["history"]
    assert [len(training["sittings"]) for training in (one, other)] == [1, 2]
    assert not (parts / "checkpoint").exists()


def test_every_image_is_seen_once_in_an_epoch(script, data, tmp_path, seen):
    run(script, tmp_path, data)
    everything = load_data(data).train.load(range(40))
    digests = [pixel_digests(batch / 255) for batch in seen]
    for epoch in range(3):
        shown = [digest for batch in digests[5 * epoch : 5 * epoch + 5] for digest in batch]
        assert sorted(shown) == sorted(pixel_digests(everything))


@pytest.mark.parametrize("how", ["forget", "exclude"])
def test_images_left_out_are_never_seen_nor_their_copies(script, data, tmp_path, seen, how):
    splits = load_data(data)
    forget = ForgetSet.random(splits.train, 5, seed=2)
    copy = Path(data, "train", CLASSES[int(forget.labels[0])], "zz.png")
    copy.write_bytes(Path(splits.train.paths[forget.indices[0]]).read_bytes())
    try:
        places = ForgetSet.random(load_data(data).train, 5, seed=2).indices
        options = ["--forget", "random:5", "--draw", "2"]
        if how == "exclude":
            (tmp_path / "places.txt").write_text("\n".join(map(str, places)))
            options = ["--exclude", str(tmp_path / "places.txt")]
        folder = run(script, tmp_path / "out", data, "sgd", *options)
        images = load_data(data).train.load(range(41))
    finally:
        copy.unlink()
    forgotten = {pixel_digests(images)[place] for place in places}
    wanted = [digest for digest in pixel_digests(images) if digest not in forgotten]
    shown = {digest for batch in seen for digest in pixel_digests(batch / 255)}
    assert shown == set(wanted)
    training = json.loads((folder / "model.json").read_text())["training"]
    assert training["excluded"]["indices"] == sorted(places)
    assert training["train_images"] == len(wanted)
    assert "excluded_accuracy" in training
    assert "-without-" in folder.name


def test_the_card_says_what_the_network_is_and_knows(script, data, tmp_path):
    folder = run(script, tmp_path, data, "adamw", "--seed", "3")
    card = json.loads((folder / "model.json").read_text())
    training = card["training"]
    assert training["sha256"] == file_digest(folder / "model.safetensors")
    assert f"adamw {tmp_path} --data {data} --seed 3" in training["command"]
    assert (training["seed"], training["epochs"], len(training["history"])) == (3, 3, 3)
    assert training["sittings"][0]["threads"] == torch.get_num_threads()
    assert training["sittings"][0]["torch"] == torch.__version__
    splits = load_data(data)
    for classifier in (
        Classifier.load(folder),
        Classifier.load(
            "stakes:digits_cnn",
            weights=folder / "model.safetensors",
            class_names=splits.class_names,
            mean=script.MEAN,
            std=script.STD,
        ),
    ):
        for name, images in (("train", splits.train), ("test", splits.test)):
            answers = classifier(images.load(range(len(images)))).argmax(1)
            right = 100 * float((answers == images.labels).float().mean())
            assert training[f"{name}_accuracy"] == pytest.approx(right)
            assert training[f"{name}_images"] == len(images)
    assert training["train_accuracy"] > 50


def test_what_is_finished_is_left_alone(script, data, tmp_path, capsys):
    folder = run(script, tmp_path, data)
    before = (folder / "model.json").stat().st_mtime_ns
    run(script, tmp_path, data)
    assert "is finished" in capsys.readouterr().out
    assert (folder / "model.json").stat().st_mtime_ns == before


def test_a_checkpoint_of_another_plan_is_not_overwritten(script, data, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(script, "write", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(script, tmp_path, data)
    (state,) = tmp_path.rglob("state-*.pt")
    before = state.read_bytes()
    monkeypatch.setitem(script.NETWORKS, "sgd", script.NETWORKS["adamw"])
    with pytest.raises(RuntimeError, match="another plan"):
        run(script, tmp_path, data)
    assert state.read_bytes() == before


def test_the_training_of_a_plain_loop(script, data, tmp_path, seen):
    """SGD without Nesterov's step, its rate by PyTorch's cosine, on what the script shows."""
    shown, moved = [], script.moved

    def watched(*arguments):
        shown.append(moved(*arguments))
        return shown[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "moved", watched)
        patch.setattr(script, "autocast", lambda *_: nullcontext())
        folder = run(script, tmp_path, data, "cosine", "--epochs", "2")
    assert folder.name == "cosine-epochs-2-seed-0"
    training = json.loads((folder / "model.json").read_text())["training"]
    splits = load_data(data)
    everything = splits.train.load(range(40))
    label_of = dict(zip(pixel_digests(everything), splits.train.labels.tolist(), strict=True))
    plain = Classifier.load(
        "stakes:digits_cnn", weights="random", class_names=splits.class_names, input_size=16,
        mean=script.MEAN, std=script.STD,
    ).train()  # fmt: skip
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
    for step, (batch, images) in enumerate(zip(seen, shown, strict=True)):
        if step == len(shown) // 2:
            schedule.step()
        labels = [label_of[digest] for digest in pixel_digests(batch / 255)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(images), torch.tensor(labels)).backward()
        optimizer.step()
    saved = Classifier.load(folder)
    for name, tensor in plain.network_state().items():
        torch.testing.assert_close(
            saved.network_state()[name].float(), tensor.float(), rtol=2e-3, atol=2e-3
        )
    rates = [row["learning_rate"] for row in training["history"]]
    assert rates == pytest.approx([0.05, 0.025])


def test_another_number_of_epochs_for_a_plan_of_phases_is_refused(script, data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(script, tmp_path, data, "sgd", "--epochs", "2")
    assert "sgd is trained in phases of its own" in capsys.readouterr().err


@pytest.mark.parametrize("edge", ["reflect", "constant"])
def test_images_are_moved_and_mirrored_within_the_pad(script, edge):
    pixels = torch.randint(256, (24, 3, 8, 8), dtype=torch.uint8)
    pad = 2
    phase = script.Phase(1, 8, pad, edge)
    padded = torch.nn.functional.pad(pixels / 255, (pad,) * 4, mode=edge)
    shown = script.moved(pixels, phase, torch.Generator().manual_seed(0))
    offsets = set()
    for before, after in zip(padded, shown, strict=True):
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                cut = before[:, top : top + 8, left : left + 8]
                for mirrored, view in ((False, cut), (True, cut.flip(-1))):
                    if torch.equal(view, after):
                        offsets.add((top, left, mirrored))
                        break
    assert len(offsets) > 12, "each image has its own move"
    again = script.moved(pixels, phase, torch.Generator().manual_seed(0))
    assert torch.equal(shown, again)
