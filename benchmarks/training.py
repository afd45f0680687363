"""What the scripts that train networks share: the loop over epochs, accuracy, weights on disk."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.data.forget import ForgetSet
from stakes.data.images import Images, batches
from stakes.data.retain import draw_without
from stakes.files import replacing
from stakes.models.classifier import Classifier
from stakes.training.batches import Batches
from stakes.training.checkpoint import Checkpoint
from stakes.training.schedule import Schedule
from stakes.training.steps import take_steps


def without(images: Images, forget: ForgetSet) -> list[int]:
    """The places of a training set, in order, that hold none of the images to forget."""
    everywhere = draw_without(images, forget, len(images), torch.Generator(), near=False)
    return sorted(everywhere.places)


#: (batch of pixels, epoch from 0) -> images in [0, 1] as the network is to see them.
Vary = Callable[[Tensor, int], Tensor]


class Draws:
    """A random generator whose state a checkpoint keeps."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.generator.set_state(state["generator"])


class Sittings:
    """How long a training took, on what: one entry for each time that it was started."""

    def __init__(self, **surroundings: str | int) -> None:
        self._past: list[dict[str, Any]] = []
        self._now, self._start = surroundings, time.perf_counter()

    def all(self) -> list[dict[str, Any]]:
        """Every sitting up to now, its ``seconds`` with it."""
        seconds = round(time.perf_counter() - self._start, 1)
        return [*self._past, self._now | {"seconds": seconds}]

    def state_dict(self) -> dict[str, Any]:
        return {"sittings": self.all()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._past = state["sittings"]


def fit(
    classifier: Classifier,
    pixels: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    draws: Draws,
    vary: Vary,
    *,
    epochs: int,
    batch_size: int,
    checkpoint: Checkpoint | None = None,
    passes: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[dict[str, float]]:
    """Train in place with cross-entropy, going on where the checkpoint says.

    Args:
        classifier: what is trained.
        pixels: (n, 3, h, w) in any type; ``vary`` makes images of them.
        labels: (n,) class indices.
        optimizer: over the classifier's parameters.
        schedule: of the learning rate.
        draws: the only source of chance; ``vary`` may draw from it as well.
        vary: alters a batch.
        epochs: times that every image is seen.
        batch_size: images in a step.
        checkpoint: keeps all of this, and whatever else it was told to keep.
        passes: a context for the forward pass, such as autocast.

    Returns:
        One row for each epoch: ``step`` (the steps before it), ``epoch`` (from 1), mean ``loss``,
        last ``learning_rate``.

    Raises:
        RuntimeError: the checkpoint cannot be used, or the loss is not finite.
    """
    checkpoint = checkpoint or Checkpoint()
    order = Batches(len(labels), batch_size, draws.generator)
    steps = order.per_epoch
    checkpoint.keep(classifier, optimizer, schedule, draws, order)
    done, rows, said = checkpoint.restore(epochs * steps)
    if said and not done:
        raise RuntimeError(f"{said}; remove it to start over")
    if said:
        print(f"{said} of {epochs * steps}", flush=True)

    def terms(step: int) -> dict[str, Tensor]:
        checkpoint.save(step - 1, rows)
        batch = next(order)
        images = vary(pixels[batch], (step - 1) // steps)
        with passes():
            logits = classifier(images)
        return {"fit": F.cross_entropy(logits.float(), labels[batch].to(logits.device))}

    classifier.train()
    start = time.perf_counter()
    numbers = range(done + 1, epochs * steps + 1)
    for step in take_steps(terms, optimizer, numbers, schedule=schedule):
        epoch, place = divmod(step.number - 1, steps)
        if not step.finite:
            raise RuntimeError(f"the loss is not finite in epoch {epoch + 1}")
        if place == 0:
            rows.append({"step": step.number - 1, "epoch": epoch + 1, "loss": 0.0})
        row = rows[-1]
        row["loss"] += (step.loss - row["loss"]) / (place + 1)
        row["learning_rate"] = optimizer.param_groups[0]["lr"]
        if place + 1 == steps:
            seconds = time.perf_counter() - start
            print(
                f"epoch {epoch + 1:3} of {epochs}: loss {row['loss']:.3f}, "
                f"learning rate {row['learning_rate']:.2g}, {seconds:.0f} s",
                flush=True,
            )
            start = time.perf_counter()
    classifier.eval()
    return rows


@torch.no_grad()
def accuracy(classifier: Classifier, images: Images) -> float:
    """Percent of the images given their own class."""
    right = 0
    for pixels, labels in batches(images):
        answers = classifier(pixels.to(classifier.device)).argmax(1).cpu()
        right += int((answers == labels).sum())
    return 100.0 * right / len(images)


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors to a ``.safetensors`` file, in one step and readable by everybody."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as temporary:  # save_file's are for their owner alone
        temporary.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
