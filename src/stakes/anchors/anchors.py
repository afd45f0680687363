"""Semantic anchors: one fixed unit vector per class, the stakes that hold the structure.

STRUCTGUARD (CVPR 2026), Sec. 3.1: the attributes of a class are joined to one description, a
frozen text encoder maps it to a vector, and the vectors scaled to unit length are the rows of A.
"""

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stakes.anchors import anchor_file
from stakes.anchors.descriptions import SHIPPED, read_descriptions, shipped
from stakes.errors import InputError, quoted, some
from stakes.files import tensor_digest
from stakes.texts import expanded

MOST_WIDE = 2**16
_SAME = 1 - 1e-5  # cosine from which two anchors count as one: rounding differs between batches


@dataclass(frozen=True, eq=False)
class Anchors:
    """One anchor per class, or several, and where they come from.

    Attributes:
        vectors: (c m, d) float32, the m rows of a class one after the other; rows are scaled to
            unit length if they are not.
        class_names: the c classes in the order of the rows, all different.
        card: provenance, JSON only: ``name``, ``encoder``, ``encoder_digest``, ``texts`` (class ->
            text), ``date``, ``command`` and anything else that the encoder records.
        per_class: m, by default 1.

    Raises:
        InputError: not m rows per class; a zero or non-finite row; two classes with the same
            name or the same anchor.

    >>> anchors = Anchors(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), ("cat", "dog"))
    >>> anchors.vectors
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]])
    """

    vectors: Tensor
    class_names: tuple[str, ...]
    card: dict[str, Any] = field(default_factory=dict)
    per_class: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.vectors, Tensor) or self.vectors.is_complex():
            raise InputError(f"anchors are {quoted(self.vectors)}; give a tensor (classes, width)")
        names = tuple(self.class_names)
        rows_of = tuple(name for name in names for _ in range(self.per_class))
        _check_rows(self.vectors, names, rows_of)
        rows = self.vectors.detach().cpu().double()
        norms = rows.norm(dim=1, keepdim=True)
        # Rows that are unit already stay as they are, so that a digest survives saving and loading.
        rows = torch.where((norms - 1).abs() < 1e-6, rows, rows / norms)
        object.__setattr__(self, "vectors", rows.float())
        object.__setattr__(self, "class_names", names)
        _check_different(self.vectors, rows_of)

    def __len__(self) -> int:
        return len(self.class_names)

    def digest(self) -> str:
        """SHA-256 over the vectors and the class names in their order; the card is left out."""
        text = json.dumps([tensor_digest({"anchors": self.vectors}), *self.class_names])
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write one ``.safetensors`` file: tensor ``anchors`` and the card as metadata.

        Raises:
            InputError: the name does not end in .safetensors.
        """
        written = {"class_names": list(self.class_names), "card": self.card}
        more = {"per_class": self.per_class} if self.per_class > 1 else {}
        anchor_file.write(path, self.vectors, written | more)

    @classmethod
    def load(cls, source: str | Path, class_names: Sequence[str] | None = None) -> "Anchors":
        """Load a shipped set by name, or a ``.safetensors`` or ``.npy`` file.

        A file without a card holds one vector per class in the order of ``class_names``, which
        are then needed. Otherwise ``class_names`` selects rows (see :meth:`select`).

        Raises:
            InputError: unknown or unreadable source, or vectors that do not fit the classes.
        """
        if str(source) in SHIPPED:
            with resources.as_file(shipped("embeddings", f"{source}.safetensors")) as path:
                return cls._read(path, class_names)
        path = expanded(source)
        if path.suffix not in anchor_file.SUFFIXES:
            raise InputError(
                f"there are no anchors {source}: give {', '.join(SHIPPED)}, "
                "or a .safetensors or .npy file"
            )
        return cls._read(path, class_names)

    @classmethod
    def _read(cls, path: Path, class_names: Sequence[str] | None) -> "Anchors":
        vectors, written = anchor_file.read(path)
        if written is not None:
            per_class = written.get("per_class", 1)
            anchors = cls(vectors, tuple(written["class_names"]), written["card"], per_class)
            return anchors if class_names is None else anchors.select(class_names)
        if class_names is None:
            raise InputError(f"{path} has no class names: give them in the order of its rows")
        if vectors.ndim != 2 or len(vectors) != len(class_names):
            raise InputError(
                f"{path} has shape {tuple(vectors.shape)} but there are {len(class_names)} "
                "classes: give one row per class, in their order"
            )
        card = new_card(path.stem, "unknown: vectors from a file", tensor_digest({"file": vectors}))
        return cls(vectors, tuple(class_names), card)

    @classmethod
    def for_classes(cls, class_names: Sequence[str]) -> "Anchors | None":
        """Find the shipped set that has exactly these classes, in this order; else None.

        Upper case, ``_``, ``-`` and spaces make no difference.

        >>> Anchors.for_classes(["Ship", "truck"]) is None
        True
        """
        wanted = sorted(name_key(name) for name in class_names)
        for name in SHIPPED:
            if wanted == sorted(name_key(known) for known in read_descriptions(name)):
                return cls.load(name, class_names)
        return None

    @classmethod
    def from_head(cls, weight: Tensor, class_names: Sequence[str]) -> "Anchors":
        """Use the rows (c, d) of a classifier's own head: the fallback without descriptions."""
        head = weight.detach().cpu().float().clone()
        digest = tensor_digest({"weight": head})
        return cls(
            head, tuple(class_names), new_card("head", "none: the classifier's own head", digest)
        )

    def select(self, class_names: Sequence[str]) -> "Anchors":
        """Take the rows of these classes, in this order and under these names.

        Upper case, ``_``, ``-`` and spaces make no difference. Of these very classes they are the
        same anchors.

        Raises:
            InputError: some of them have no anchor; says which, and what the anchors are for.
        """
        if tuple(class_names) == self.class_names:
            return self
        rows = {name_key(name): row for row, name in enumerate(self.class_names)}
        missing = [name for name in class_names if name_key(name) not in rows]
        if missing:
            raise InputError(
                f"no anchor for {some(missing)}: these anchors are for the {len(self)} classes "
                f"{some(self.class_names, 10)}; describe the missing ones or choose other anchors"
            )
        order = [rows[name_key(name)] for name in class_names]
        texts = self.card.get("texts", {})
        own = {
            name: texts[self.class_names[row]]
            for name, row in zip(class_names, order, strict=True)
            if self.class_names[row] in texts
        }
        vectors = self.vectors.unflatten(0, (len(self), self.per_class))[order].flatten(0, 1)
        card = {**self.card, "texts": own}
        return Anchors(vectors, tuple(class_names), card, self.per_class)

    def centred(self) -> "Anchors":
        """Subtract the mean row and scale to unit length again.

        Raw text embeddings all point one way (mean cosine .7 with CLIP), which hides what sets
        the classes apart. Not in the paper.

        Raises:
            InputError: there is one class only, or a row equals the mean.
        """
        rows = self.vectors.double()
        card = {**self.card, "centred": True}
        return Anchors(rows - rows.mean(0), self.class_names, card, self.per_class)


def new_card(name: str, encoder: str, digest: str, **more: Any) -> dict[str, Any]:
    """The provenance of anchors made now (see :class:`Anchors`)."""
    card = {"name": name, "encoder": encoder, "encoder_digest": digest, "texts": {}, "command": ""}
    return {**card, "date": datetime.date.today().isoformat(), **more}


def name_key(name: str) -> str:
    """A class name without what makes no difference: capitals, ``_``, ``-``, spaces."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _check_rows(vectors: Tensor, names: tuple[str, ...], rows_of: tuple[str, ...]) -> None:
    if vectors.ndim != 2 or len(vectors) != len(rows_of) or not len(rows_of):
        several = "one row" if rows_of == names else f"{len(rows_of) // len(names)} rows"
        raise InputError(
            f"anchors of shape {tuple(vectors.shape)} for {len(names)} classes: "
            f"give {several} per class"
        )
    if not 1 <= vectors.shape[1] <= MOST_WIDE:
        raise InputError(
            f"anchors {vectors.shape[1]} wide: give vectors of 1 to {MOST_WIDE} numbers, as text "
            "encoders make them"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"the class {some(twice)} appears more than once: rename one of them")
    norms = vectors.detach().double().norm(dim=1)
    bad = [name for name, norm in zip(rows_of, norms.tolist(), strict=True) if not 0 < norm < 1e30]
    if bad:
        raise InputError(
            f"the anchor of {some(bad)} is zero or not finite: a class needs a vector with a "
            "direction"
        )


def _check_different(vectors: Tensor, names: tuple[str, ...]) -> None:
    for start in range(0, len(vectors), 512):  # in blocks: c x c is large for many classes
        cosines = vectors[start : start + 512] @ vectors.T
        same = torch.nonzero(torch.triu(cosines, diagonal=start + 1) > _SAME)
        if len(same):
            first, second = same[0].tolist()
            raise InputError(
                f"{names[start + first]} and {names[second]} have the same anchor: "
                "describe what tells them apart"
            )
