"""What tests/test_distributed.py runs, in one process or in several, each of its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sklearn.linear_model  # noqa: F401  before the copies, so that none imports it again
import torch
from safetensors.torch import save_file
from torch import nn

from conftest import CLASSES, blobs, without_attacks
from stakes import Classifier, ForgetSet
from stakes.anchors.anchors import Anchors
from stakes.data.images import ImageArray
from stakes.evaluation import accuracy
from stakes.evaluation.evaluate import evaluate
from stakes.evaluation.scores import Scored
from stakes.methods import L2UL, NegGrad, StructGuard, probing
from stakes.report import page
from stakes.runs.folder import checkpoint_beside
from stakes.runs.record import Request, record
from stakes.sidecar.make import make
from stakes.training import checkpoint, distributed, sharding

SHORT = {"max_steps": 12, "probe_batch": 15, "patience": 4, "precision": "float32"}
METHODS = {
    "exact": StructGuard(**SHORT),
    "deep": StructGuard(criterion="deep", **SHORT),
    "views": StructGuard(criterion="views", **{**SHORT, "max_steps": 8}),
    "neggrad": NegGrad(batch_norm="eval", lr=0.02, max_steps=4),
    "l2ul": L2UL(batch_norm="eval", probes_per_image=3, pgd_iterations=5, max_steps=4),
}


def blocks() -> nn.Module:
    """A small network in blocks, which are put together one at a time where weights are divided."""
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    second = [nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8), nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, len(CLASSES))]
    return nn.Sequential(nn.Sequential(*first), nn.Sequential(*second), *end)


def network() -> Classifier:
    """Trained a little in the same way in every process."""
    torch.manual_seed(0)
    classifier = Classifier.wrap(blocks(), class_names=CLASSES, input_size=8)
    images, labels = blobs(160, 0)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.02)
    classifier.train()
    for _ in range(60):
        loss = nn.functional.cross_entropy(classifier(images / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


def request(method: object) -> Request:
    train, test = ImageArray(*blobs(160, 0), prefix="a"), ImageArray(*blobs(41, 1), prefix="b")
    vectors = torch.randn(len(CLASSES), 12, generator=torch.Generator().manual_seed(3))
    anchors = Anchors(nn.functional.normalize(vectors, dim=1), CLASSES, {"encoder": "random"})
    forget = ForgetSet.from_indices(train, [0, 1, 4, 5, 8, 9, 13])
    return Request(method, network(), forget, anchors, retain=train, test=test, force=True)


def write_weights(classifier: Classifier, path: Path) -> None:
    save_file({key: value.contiguous() for key, value in classifier.state_dict().items()}, path)


def compare(out: Path) -> None:
    """Every method's weights, and the numbers of an evaluation."""
    probing.INVERTED, probing.INVERSION_STEPS = 16, 5
    for name, method in METHODS.items():
        asked = request(method)
        result = method(asked.classifier, asked.forget, anchors=asked.anchors, seed=0)
        row = {}
        if name == "exact":  # the others' networks would be scored in the same way
            row, _ = evaluate(
                asked.classifier,
                result.classifier,
                asked.forget,
                test=asked.test,
                retain=asked.retain,
            )
        if distributed.is_writer():
            write_weights(result.classifier, out / f"{name}.safetensors")
            steps = [step["loss"] for step in result.history[1:]]
            summary = {"row": row, "losses": steps, "end": result.stop_reason}
            (out / f"{name}.json").write_text(json.dumps(summary))


def activated(out: Path) -> None:
    """The weights where a sidecar describes what the layers give that stay as they are."""
    asked = request(METHODS["views"])
    classifier = Classifier.load(
        "stakes:cifar_resnet20", weights="random", class_names=CLASSES, input_size=8
    )
    with distributed.alone():  # the same file for any number of processes
        made = make(classifier, ImageArray(*blobs(1100, 8)), count=4, steps=1)
    result = asked.method(
        classifier, asked.forget, anchors=asked.anchors, surrogates=made.surrogates(), seed=0
    )
    if distributed.is_writer():
        write_weights(result.classifier, out / "weights")
        (out / "probes").write_text(result.chosen["probes"])


def dropped(out: Path, after: int = 0) -> None:
    """The weights' digest where dropout is drawn; interrupted after so many steps, if above 0."""
    checkpoint.EVERY = 0.0
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.4)]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, len(CLASSES))]
    given = Classifier.wrap(nn.Sequential(*first, *end), input_size=8)
    torch.manual_seed(distributed.shard(2).start)  # what each has drawn before has no part

    def progress(phase: str, done: int, total: int, note: str = "") -> None:
        if after and phase == "unlearning" and done > after:
            raise KeyboardInterrupt

    method = NegGrad(lr=0.01, max_steps=6, forget_batch=5)
    asked = request(method)
    result = method(given, asked.forget, seed=2, checkpoint=out / "kept", progress=progress)
    (out / f"digest-{distributed.shard(2).start}").write_text(result.classifier.digest())


def divided(out: Path) -> None:
    """The weights where they are divided, and the shares of them that each process holds."""
    probing.INVERTED, probing.INVERSION_STEPS = 16, 5
    plain, shares = sharding.whole, {}

    def whole(network: Classifier, like: Classifier) -> Classifier:
        for name, weight in network.body.named_parameters():
            for what, tensor in (("", weight), (" gradient", weight.grad)):
                if tensor is not None:
                    shares[name + what] = tensor.to_local().numel() / tensor.numel()
        return plain(network, like)

    sharding.whole = whole
    for name in ("exact", "deep", "views"):
        asked = request(METHODS[name])
        with sharding.sharded():
            result = asked.method(
                asked.classifier, asked.forget, anchors=asked.anchors, seed=0, checkpoint=out
            )
        if distributed.is_writer():
            write_weights(result.classifier, out / name)
    (out / f"shares-{distributed.shard(2).start}").write_text(json.dumps(shares))


def interrupted(out: Path, after: int, stop: str = "unlearning", divide: bool = False) -> None:
    """A run that is recorded, and interrupted after so much of a phase, if that is above 0."""
    checkpoint.EVERY = 0.0
    page.write_report = lambda folders, out: out.touch()  # nobody looks at it
    without_attacks(pytest.MonkeyPatch())  # nor at these
    plain = accuracy.score

    def score(network: Classifier, images: torch.Tensor, labels: torch.Tensor) -> Scored:
        with open(out.parent / "said", "a") as said:
            said.write(f"passed {len(images)}\n")
        return plain(network, images, labels)

    accuracy.score = score
    asked = request(replace(METHODS["exact"], settle=0.0, pull_back=False, patience=0))

    def progress(phase: str, done: int, total: int, note: str = "") -> None:
        with open(out.parent / "said", "a") as said:
            said.write(f"{phase} {done} {note}\n")
        if after and phase == stop and done >= after:
            raise KeyboardInterrupt

    with sharding.sharded(divide):
        record(asked, out, progress)
    assert not checkpoint_beside(out).exists()
