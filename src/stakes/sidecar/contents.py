"""What a sidecar holds, and its file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stakes.data.activations import Activations
from stakes.data.surrogates import Surrogates
from stakes.errors import InputError, first_line
from stakes.files import write_bytes
from stakes.preprocessing import Size
from stakes.texts import check_file, expanded

FORMAT = "stakes sidecar 1"


@dataclass(frozen=True, eq=False)
class Sidecar:
    """Aggregates of training data, and synthetic images fitted to them; no training image.

    Attributes:
        images: synthetic, uint8 (n, 3, h, w).
        labels: (n,) the classes that they were made for.
        means: (c, d) mean features of each class.
        covariances: (c, d, d) of each class's features, or (1, d, d) of all around the means
            of their classes, where those of each class would take too much room.
        counts: (c,) training images of each class.
        moments: name of a layer -> mean and variance of its input (2, channels).
        activations: the distribution of what the layers give that unlearning does not change,
            where there are such layers, enough images of a class, and room for it.
        card: what it was made of: ``weights_digest``, ``training_images``, and what was measured
            (see :func:`stakes.sidecar.membership.membership`).
    """

    images: Tensor
    labels: Tensor
    means: Tensor
    covariances: Tensor
    counts: Tensor
    moments: dict[str, Tensor]
    card: dict[str, Any] = field(default_factory=dict)
    activations: Activations | None = None

    def surrogates(self, source: str = "a sidecar", size: Size | None = None) -> Surrogates:
        """Synthetic images and activations as surrogate data, images at a size (height, width)."""
        own = (self.images.shape[2], self.images.shape[3])
        fits = size is None or size == own
        images = Surrogates.of(self.images, size or own)
        activations = self.activations if fits else None
        return replace(images, source=source, activations=activations, synthetic="all")

    def save(self, path: str | Path) -> int:
        """Write one ``.safetensors`` file, statistics at half width where they fit; its size.

        Raises:
            InputError: the name does not end in .safetensors.
        """
        if Path(path).suffix != ".safetensors":
            raise InputError(f"sidecar {path}: give a name that ends in .safetensors")
        tensors = {
            "images": self.images.contiguous(),
            "labels": self.labels,
            "counts": self.counts,
            "means": _narrow(self.means),
            "covariances": _narrow(self.covariances),
            **{f"moments.{name}": _narrow(value) for name, value in self.moments.items()},
        }
        about: dict[str, Any] = {"format": FORMAT, "card": self.card}
        if self.activations is not None:
            about["layers"] = self.activations.layers
            parts = self.activations.tensors()
            bytes_, scales = _bytes(parts.pop("directions"))
            tensors |= {f"activations.{name}": _narrow(part) for name, part in parts.items()}
            tensors |= {"activations.directions": bytes_, "activations.scales": scales}
        content = save(tensors, {"stakes": json.dumps(about)})
        write_bytes(path, content)
        return len(content)

    @classmethod
    def load(cls, path: str | Path) -> "Sidecar":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no such file, or another one.
        """
        place = expanded(path)
        check_file(place, "sidecar")
        try:
            with safe_open(place, "pt") as file:
                written = json.loads((file.metadata() or {}).get("stakes", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if written.get("format") != FORMAT:
                raise ValueError("no sidecar, or one of another version")
            moments = {
                name.removeprefix("moments."): value.float()
                for name, value in tensors.items()
                if name.startswith("moments.")
            }
            found = cls(
                images=tensors["images"],
                labels=tensors["labels"],
                means=tensors["means"].float(),
                covariances=tensors["covariances"].float(),
                counts=tensors["counts"],
                moments=moments,
                card=written["card"],
                activations=_activations(tensors, written["layers"])
                if "layers" in written
                else None,
            )
        except (
            SafetensorError, ValueError, KeyError, AttributeError, OSError, TypeError, RuntimeError,
        ) as error:  # fmt: skip
            raise InputError(
                f"sidecar {path}: cannot be read ({first_line(error)}); make it with "
                "`stakes sidecar`"
            ) from error
        if found.images.dtype != torch.uint8 or found.images.ndim != 4:
            raise InputError(f"sidecar {path}: its images are damaged; make it again")
        return found


def is_sidecar(path: Path) -> bool:
    """Whether a file is a sidecar, of this version or another; not whether it is sound."""
    try:
        with safe_open(path, "pt") as file:
            written = json.loads((file.metadata() or {}).get("stakes", "{}"))
        return str(written.get("format")).startswith(FORMAT.rpartition(" ")[0])
    except (SafetensorError, ValueError, AttributeError, OSError):
        return False


def _activations(tensors: Mapping[str, Tensor], layers: list[tuple[str, list[int]]]) -> Activations:
    """The distribution of activations that a file holds.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: a part of it is missing, or of another shape.
    """
    own = "activations."
    get = {n.removeprefix(own): t.float() for n, t in tensors.items() if n.startswith(own)}
    get["directions"] *= get["scales"]
    return Activations.of(tuple((name, tuple(shape)) for name, shape in layers), get)


def _bytes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (..., D) as integers of 8 bits, and what each row's are to be multiplied by (..., 1).

    >>> _bytes(torch.tensor([[-1.0, 0.5]]))
    (tensor([[-127,   64]], dtype=torch.int8), tensor([[0.0079]]))
    """
    scales = rows.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (rows / scales).round().to(torch.int8), scales


def _narrow(values: Tensor) -> Tensor:
    """Numbers at half width, unless some are beyond it, such as variances of pixels up to 255.

    >>> _narrow(torch.tensor([1.5])).dtype, _narrow(torch.tensor([1e6])).dtype
    (torch.float16, torch.float32)
    """
    half = values.half()
    return half if half.isfinite().all() else values.float()
