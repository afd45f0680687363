"""The demonstration: digits, a network trained on the spot, three methods side by side."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.anchors.anchors import Anchors
from stakes.data.datasets import load_data
from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.methods import L2UL, Method, NegGrad, StructGuard
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.report.page import write_report
from stakes.runs.folder import check_out, new_folder
from stakes.runs.record import Request, record
from stakes.training.batches import Batches
from stakes.training.schedule import OneCycle
from stakes.training.steps import take_steps

NETWORK = "stakes:digits_cnn"
SIZE, FORGOTTEN, EPOCHS, BATCH = 16, 16, 12, 64
RUNS: dict[str, Method] = {"structguard": StructGuard(), "l2ul": L2UL(), "neggrad": NegGrad()}


def train(
    images: Images, class_names: tuple[str, ...], seed: int = 0, progress: Progress = silent
) -> Classifier:
    """Train a small network on ``images`` until it recognises them: a few seconds on a CPU."""
    classifier = Classifier.load(
        NETWORK, class_names=class_names, num_classes=len(class_names), seed=seed
    )
    pixels, labels = images.load(range(len(images))), images.labels
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    steps = EPOCHS * -(-len(labels) // BATCH)
    batches = Batches(len(labels), BATCH, torch.Generator().manual_seed(seed))

    def terms(step: int) -> dict[str, Tensor]:
        batch = next(batches)
        return {"fit": F.cross_entropy(classifier(pixels[batch]), labels[batch])}

    classifier.train()
    schedule = OneCycle(optimizer, 3e-3, steps)
    for step in take_steps(terms, optimizer, range(1, steps + 1), schedule=schedule):
        progress("training", step.number, steps)
    classifier.weights = f"trained by stakes.demo (seed {seed})"
    return classifier.eval()


def run_demo(
    out: Path, *, overwrite: bool = False, seed: int = 0, progress: Progress = silent
) -> Path:
    """Run the demonstration and return the page that compares its runs."""
    page = "report.html"
    check_out(out, overwrite)
    splits = load_data("digits", size=SIZE)
    classifier = train(splits.train, splits.class_names, seed, progress)
    forget = ForgetSet.random(splits.train, FORGOTTEN, seed)
    with new_folder(out, overwrite) as folder:
        for name, method in RUNS.items():
            request = Request(
                method,
                classifier,
                forget,
                Anchors.load("digits"),
                retain=splits.train,
                test=splits.test,
                seed=seed,
                asked={
                    "dataset": "digits", "forget": f"random:{FORGOTTEN}", "command": "stakes demo",
                },
            )  # fmt: skip
            record(request, folder / name, partial(_named, progress, method.title))
        runs = [folder / name for name in RUNS]
        write_report(runs, folder / page, title=f"Forgetting {FORGOTTEN} handwritten digits")
    return out / page


def _named(
    progress: Progress, title: str, phase: str, done: int, total: int, note: str = ""
) -> None:
    """Report a phase under the name of its method."""
    progress(f"{title}: {phase}", done, total, note)
