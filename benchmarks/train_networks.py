"""Train the networks that the benchmarks take, on CIFAR-10 or CIFAR-100; also without some images.

    python benchmarks/train_networks.py resnet18-half OUT --data CIFAR10_FOLDER
    python benchmarks/train_networks.py resnet18-half OUT --data CIFAR10_FOLDER --seed 1 \\
        --forget random:64 --draw 0

The second is a reference for unlearning: trained afresh without the images that ``stakes unlearn
--forget random:64 --seed 0`` forgets. The same command goes on where it was stopped, to the same
bits, even days later. OUT/NAME gets ``model.safetensors`` (16 bits a number) and its card
``model.json``, which also says how it was trained and what it knows:

    stakes bench RECIPE --out RUNS --set data=CIFAR10_FOLDER \\
        --set weights=OUT/NAME/model.safetensors
"""

import argparse
import hashlib
import json
import math
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.data.datasets import Splits, load_data
from stakes.data.forget import ForgetSet
from stakes.data.forget_words import parse_forget
from stakes.data.images import ImageArray, Images
from stakes.files import file_digest, tensor_digest, write_text
from stakes.models.classifier import Classifier
from stakes.training.checkpoint import Checkpoint
from stakes.training.precision import autocast
from stakes.training.schedule import OneCycle, Schedule
from training import Draws, Sittings, accuracy, fit, without, write_weights

# What the recipes of `stakes bench` give the networks of CIFAR.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Phase:
    """So many epochs on images of one size, moved by up to ``pad`` pixels.

    What comes in at the edge is a reflection of the image, or black.
    """

    epochs: int
    size: int
    pad: int
    edge: Literal["reflect", "constant"] = "reflect"


@dataclass(frozen=True)
class Plan:
    """How one network is trained.

    The learning rate goes through one cycle over all phases; or it starts at its peak and falls
    along half a cosine, epoch by epoch.
    """

    model: str
    phases: tuple[Phase, ...]
    peak: float  #: highest learning rate
    decay: float  #: weight decay
    optimizer: Literal["sgd", "adamw"] = "sgd"
    nesterov: bool = True
    schedule: Literal["one cycle", "cosine"] = "one cycle"
    batch_size: int = 128
    classes: int = 10
    size: int = 32  #: side of the images in the end, pixels

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase(self, epoch: int) -> Phase:
        """The phase of an epoch, counted from 0."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase
            epoch -= phase.epochs
        raise IndexError(f"{epoch} epochs more than planned")


# Most of what is learned at a quarter of the pixels is learned for all of them, at a third of the
# time. In the last epochs images are only mirrored: the network gets to know them as they are.
SHORT = (Phase(9, 16, 4), Phase(9, 32, 4), Phase(3, 32, 0))
LONG = (Phase(26, 32, 4), Phase(4, 32, 0))
PLAIN = (Phase(34, 32, 4), Phase(2, 32, 0))
# As the networks of L2UL's code, which that of "Stake the Points" takes over: csm9493/L2UL,
# main_pretrain_cifar10_resnet18.py, commit 5fb777b.
AUTHORS = (Phase(200, 32, 4, "constant"),)
NETWORKS = {
    "resnet18": Plan("stakes:cifar_resnet18", LONG, peak=0.2, decay=5e-4),
    "resnet18-pooled": Plan("stakes:cifar_resnet18_pooled", LONG, peak=0.2, decay=5e-4),
    "resnet18-authors": Plan(
        "stakes:cifar_resnet18_pooled",
        AUTHORS,
        peak=0.01,
        decay=5e-4,
        nesterov=False,
        schedule="cosine",
    ),
    "resnet18-half": Plan("stakes:cifar_resnet18_half", SHORT, peak=0.2, decay=5e-4),
    "convnext": Plan("stakes:cifar_convnext", PLAIN, peak=3e-3, decay=0.05, optimizer="adamw"),
    "resnet18-half-cifar100": Plan(
        "stakes:cifar_resnet18_half", SHORT, peak=0.2, decay=5e-4, classes=100
    ),
}


def moved(pixels: Tensor, phase: Phase, generator: torch.Generator) -> Tensor:
    """8-bit images (n, 3, h, w) mirrored or not and moved as the phase says, in [0, 1]."""
    n, _, height, width = pixels.shape
    top, left = torch.randint(2 * phase.pad + 1, (2, n, 1), generator=generator)
    mirror = torch.randint(2, (n, 1), generator=generator).bool()
    across = torch.arange(width)
    rows, columns = top + torch.arange(height), left + torch.where(mirror, across.flip(0), across)
    padded = F.pad(pixels.float().div(255), (phase.pad,) * 4, mode=phase.edge)
    shown = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return shown.permute(0, 3, 1, 2)


def in_memory(images: Images, size: int) -> ImageArray:
    """All images of a set, decoded once."""
    parts = torch.arange(len(images)).split(1000)
    pixels = [(images.load(part) * 255).round().to(torch.uint8) for part in parts]
    return ImageArray(torch.cat(pixels), images.labels, size)


def train(
    plan: Plan, classifier: Classifier, images: ImageArray, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Follow the plan, in place; returns a row for each epoch."""
    kinds: dict[str, Any] = {
        "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=plan.nesterov),
        "adamw": torch.optim.AdamW,
    }
    optimizer = kinds[plan.optimizer](
        classifier.parameters(), lr=plan.peak, weight_decay=plan.decay
    )
    steps = -(-len(images) // plan.batch_size)
    draws = Draws(seed)

    def vary(pixels: Tensor, epoch: int) -> Tensor:
        phase = plan.phase(epoch)
        classifier.input_size = phase.size  # the classifier shrinks its images to this
        return moved(pixels, phase, draws.generator).to(classifier.device)

    def falling(step: int) -> float:
        return plan.peak * (1 + math.cos(math.pi * ((step - 1) // steps) / plan.epochs)) / 2

    schedule = (
        OneCycle(optimizer, plan.peak, plan.epochs * steps)
        if plan.schedule == "one cycle"
        else Schedule(optimizer, size=falling)
    )
    history = fit(
        classifier,
        images.pixels,
        images.labels,
        optimizer,
        schedule,
        draws,
        vary,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        checkpoint=checkpoint,
        passes=partial(autocast, "auto", classifier.device),
    )
    classifier.input_size = plan.size
    return history


@dataclass(frozen=True)
class Left:
    """What training leaves out."""

    name: str  #: end of the folder's name
    asked: str
    forget: ForgetSet | None

    def indices(self) -> list[int]:
        return [] if self.forget is None else sorted(self.forget.indices or ())


def left_out(asked: argparse.Namespace, splits: Splits) -> Left:
    """The images that are not to be trained on."""
    if asked.exclude is not None:
        text = asked.exclude.read_text(encoding="utf-8")
        mark = hashlib.sha256(text.encode()).hexdigest()[:8]
        forget = ForgetSet.from_indices(splits.train, [int(word) for word in text.split()])
        return Left(f"-without-{mark}", f"--exclude {asked.exclude}", forget)
    if asked.forget is None:
        return Left("", "", None)
    forget = parse_forget(asked.forget, splits.train, splits.class_names, asked.draw)
    name = "".join(letter if letter.isalnum() else "-" for letter in asked.forget).strip("-")
    words = f"--forget {asked.forget} --draw {asked.draw}"
    return Left(f"-without-{name}-draw-{asked.draw}", words, forget)


def stored(classifier: Classifier) -> dict[str, Tensor]:
    """The network's numbers in 16 bits, as they are written; the classifier gets these as well."""
    with torch.no_grad():
        for tensor in (*classifier.parameters(), *classifier.body.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in classifier.network_state().items()
    }


def write(folder: Path, classifier: Classifier, training: dict[str, Any]) -> None:
    """Write weights and card; the card comes last, so that it is there when all is done."""
    tensors = stored(classifier)
    write_weights(folder / "model.safetensors", tensors)
    card = classifier.card() | {"digest": tensor_digest(tensors), "training": training}
    card["training"] |= {"sha256": file_digest(folder / "model.safetensors")}
    write_text(folder / "model.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def scores(classifier: Classifier, train: ImageArray, test: Images, left: Left) -> dict[str, Any]:
    """What the network knows, in percent: the test images, those trained on, those left out."""
    known = {
        "test_accuracy": accuracy(classifier, test),
        "train_accuracy": accuracy(classifier, train),
        "test_images": len(test),
        "train_images": len(train),
    }
    if left.forget is not None:
        gone = left.forget
        pixels = (gone.images * 255).round().to(torch.uint8)
        known["excluded_accuracy"] = accuracy(classifier, ImageArray(pixels, gone.labels))
    return known


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=list(NETWORKS))
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--data", required=True, help="folder with train/ and test/, or cifar10")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, order and moves")
    parser.add_argument("--epochs", type=int, help="other than planned; for plans of one phase")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--forget", help="do not train on these: random:64, a folder, a CSV table")
    group.add_argument("--exclude", type=Path, help="nor on these: file with places in the set")
    parser.add_argument("--draw", type=int, default=0, help="seed of random:K (--seed of unlearn)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(arguments)
    if asked.epochs is not None and len(NETWORKS[asked.network].phases) > 1:
        parser.error(f"--epochs: {asked.network} is trained in phases of its own")
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    asked = parsed(arguments)
    torch.set_num_threads(asked.threads)
    plan, length = NETWORKS[asked.network], ""
    if asked.epochs is not None:
        plan = replace(plan, phases=(replace(plan.phases[0], epochs=asked.epochs),))
        length = f"-epochs-{asked.epochs}"
    splits = load_data(asked.data, size=plan.size)
    assert splits.test is not None, f"{asked.data} has no test images"
    assert len(splits.class_names) == plan.classes, f"{asked.data} has other classes"
    images = in_memory(splits.train, plan.size)
    left = left_out(asked, Splits(images, None, splits.class_names))
    kept = torch.tensor(range(len(images)) if left.forget is None else without(images, left.forget))
    images = ImageArray(images.pixels[kept], images.labels[kept])

    folder = asked.out / f"{asked.network}{length}-seed-{asked.seed}{left.name}"
    if (folder / "model.json").exists():
        print(f"{folder} is finished")
        return
    classifier = Classifier.load(
        plan.model, weights="random", class_names=splits.class_names, input_size=plan.size,
        mean=MEAN, std=STD, seed=asked.seed, device=asked.device,
    )  # fmt: skip
    job = {
        "plan": json.dumps(asdict(plan)),
        "seed": str(asked.seed),
        "images": tensor_digest({"pixels": images.pixels, "labels": images.labels}),
    }
    checkpoint = Checkpoint(folder / "checkpoint", job)
    sittings = Sittings(
        torch=str(torch.__version__), threads=asked.threads, device=str(classifier.device)
    )
    checkpoint.keep(sittings)
    print(f"{folder}: {plan.epochs} epochs of {len(images)} images", flush=True)
    history = train(plan, classifier, images, asked.seed, checkpoint)
    stored(classifier)
    known = scores(classifier, images, splits.test, left)
    words = sys.argv[1:] if arguments is None else arguments
    classifier.weights = "trained by benchmarks/train_networks.py"
    training = {
        "command": shlex.join(["python", "benchmarks/train_networks.py", *words]),
        "network": asked.network, "seed": asked.seed, "plan": asdict(plan), "epochs": plan.epochs,
        "excluded": {"asked": left.asked, "indices": left.indices()},
        "images_digest": job["images"],
        **known,
        "seconds": round(sum(sitting["seconds"] for sitting in sittings.all()), 1),
        "sittings": sittings.all(),
        "history": history,
    }  # fmt: skip
    write(folder, classifier, training)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    for name, value in known.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
