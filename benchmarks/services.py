"""Three services that read images in three ways, each asked before and after its network forgot.

    nice python benchmarks/services.py --data FACES --out OUT

FACES is a folder with a subfolder of images for each person, such as the ORL faces (92 x 112
pixels). For each service a small network is trained as the service reads images, and asked to
forget some of them twice: on the largest centred square of an image (--resize square), and as the
service reads them. What was delivered is then loaded by timm or transformers alone, and the service
says how many of the images it still recognises. The services: own code that pads faces to a square
(--transform); a network of timm and its own evaluation transform; a transformers folder and its
image processor.
"""

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from stakes.cli.commands import main as stakes

SIZE, NAME = 64, "test_resnet"
OWN = """
from PIL import ImageOps
from torchvision import transforms

def prepare():
    return transforms.Compose([
        transforms.Lambda(lambda image: ImageOps.pad(image.convert("RGB"), (64, 64))),
        transforms.ToTensor(),
        transforms.Normalize((0.5,) * 3, (0.25,) * 3),
    ])
"""
Prepare = Callable[[Image.Image], Tensor]


@dataclass
class Service:
    """A service as it is without stakes.

    Attributes:
        name: of it.
        network: to train, then what it serves.
        prepare: an opened image to the network's input (3, h, w).
        words: options of `stakes unlearn` for its network and its reading.
        load: the network that a run delivered, by the service's library alone.
    """

    name: str
    network: nn.Module
    prepare: Prepare
    words: list[str]
    load: Callable[[Path], nn.Module]


def logits(network: nn.Module, images: Tensor) -> Tensor:
    answer = network(images)
    return getattr(answer, "logits", answer)


def plain(classes: int) -> Callable[[Path], nn.Module]:
    def load(folder: Path) -> nn.Module:
        network = timm.create_model(NAME, num_classes=classes)
        network.load_state_dict(load_file(folder / "model.safetensors"))
        return network.eval()

    return load


def services(place: Path, classes: int) -> list[Service]:
    (place / "service.py").write_text(OWN)
    code: dict[str, Callable[[], Prepare]] = {}
    exec(OWN, code)
    made = timm.create_model(NAME, num_classes=classes)
    config = timm.data.resolve_data_config({"input_size": (3, SIZE, SIZE)}, model=made)
    transform = timm.data.create_transform(**config)
    folder = place / "transformers"
    widths = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1],
        layer_type="basic", num_labels=classes,
    )  # fmt: skip
    theirs = ResNetForImageClassification(widths)
    ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, resample=Image.Resampling.BILINEAR
    ).save_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    library = ["--model", f"timm:{NAME}", "--input-size", str(SIZE)]
    return [
        Service(
            "faces, own code that pads", timm.create_model(NAME, num_classes=classes),
            code["prepare"](),
            [*library, "--weights", str(place / "padded.pt"),
             "--transform", f"{place / 'service.py'}:prepare"],
            plain(classes),
        ),
        Service(
            "timm, its evaluation transform", made,
            lambda image: transform(image.convert("RGB")),
            [*library, "--weights", str(place / "timm.pt")], plain(classes),
        ),
        Service(
            "transformers, its image processor", theirs,
            lambda image: processor(image.convert("RGB"), return_tensors="pt").pixel_values[0],
            ["--model", f"hf:{folder}"],
            lambda found: AutoModelForImageClassification.from_pretrained(found).eval(),
        ),
    ]  # fmt: skip


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    steps = epochs * -(-len(labels) // 10)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(10):
            optimizer.zero_grad()
            F.cross_entropy(logits(network, images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


@torch.no_grad()
def recognised(service: Service, network: nn.Module, asked: list[Path], labels: Tensor) -> int:
    images = torch.stack([service.prepare(Image.open(path)) for path in asked])
    return int((logits(network, images).argmax(1) == labels).sum())


def on_the_square(words: list[str]) -> list[str]:
    """The same network, shown the largest centred square of an image."""
    normalised = []
    if "--transform" in words:  # it has normalised the images as well
        words = words[: words.index("--transform")]
        normalised = ["--mean", ".5", ".5", ".5", "--std", ".25", ".25", ".25"]
    return [*words, *normalised, "--resize", "square"]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--people", type=int, default=12)
    words.add_argument("--epochs", type=int, default=20)
    words.add_argument("--k", type=int, default=8)
    asked = words.parse_args()
    asked.out.mkdir(parents=True)
    names = sorted(path.name for path in asked.data.iterdir() if path.is_dir())[: asked.people]
    files = [path for name in names for path in sorted((asked.data / name).iterdir())]
    labels = torch.tensor([names.index(path.parent.name) for path in files])
    torch.manual_seed(0)
    gone = random.Random(0).sample(range(len(files)), asked.k)
    (asked.out / "classes.txt").write_text("\n".join(names) + "\n")
    lines = [f"{files[i].resolve()},{files[i].parent.name}" for i in gone]
    (asked.out / "forget.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    print("| service | recognised by it before | after, on the square | after, as it reads |")
    print("|---|---:|---:|---:|")
    for service in services(asked.out, len(names)):
        images = torch.stack([service.prepare(Image.open(path)) for path in files])
        train(service.network, images, labels, asked.epochs)
        if isinstance(service.network, ResNetForImageClassification):
            service.network.save_pretrained(asked.out / "transformers")
        else:
            torch.save(service.network.state_dict(), service.words[5])
        shown, truth = [files[i] for i in gone], labels[gone]
        counts = [recognised(service, service.network, shown, truth)]
        for way, reading in (("square", on_the_square(service.words)), ("own", service.words)):
            out = asked.out / f"{service.name.partition(',')[0]}-{way}"
            line = ["unlearn", *reading, "--classes", str(asked.out / "classes.txt")]
            line += ["--forget", str(asked.out / "forget.csv"), "--max-steps", "300"]
            code = stakes([*line, "--quiet", "--force", "--out", str(out)])
            assert code in (0, 3), f"the run ended with {code}"
            counts.append(recognised(service, service.load(out), shown, truth))
        of = f" of {asked.k}"
        print(f"| {service.name} | " + " | ".join(f"{n}{of}" for n in counts) + " |", flush=True)


if __name__ == "__main__":
    main()
