"""Semantic anchors: one fixed unit vector per class, the stakes that hold the structure.

STRUCTGUARD (CVPR 2026), Sec. 3.1: the attributes of a class are joined to one description, a
frozen text encoder maps it to a vector, and the vectors scaled to unit length are the rows of A.
"""

import datetime
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stakes.anchors.descriptions import (
    SHIPPED,
    Descriptions,
    check_descriptions,
    read_descriptions,
    shipped,
)
from stakes.anchors.encoders import ENCODERS, SEPARATOR, Encoder
from stakes.errors import InputError, quoted, some
from stakes.files import SHARED_FILE, tensor_digest, write_bytes
from stakes.texts import check_file, expanded

MOST_WIDE = 2**16
_SAME = 1 - 1e-5  # cosine from which two anchors count as one: rounding differs between batches


@dataclass(frozen=True, eq=False)
class Anchors:
    """One anchor per class, or several, and where they come from.

    Attributes:
        vectors: (c m, d) float32, the m rows of a class one after the other; rows are scaled to
            unit length where they are not.
        class_names: the c classes in the order of the rows, all different.
        card: provenance, JSON only: ``name``, ``encoder``, ``encoder_digest``, ``texts`` (class ->
            text), ``date``, ``command`` and what else the encoder says of itself.
        per_class: m, 1 unless it is said.

    Raises:
        InputError: not m rows per class; a zero or non-finite row; two classes of one name or
            with the same anchor.

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
        _check_suffix(path)
        # One metadata entry: the order of several is not defined, and bytes should repeat.
        written = {"class_names": list(self.class_names), "card": self.card}
        text = json.dumps(written | ({"per_class": self.per_class} if self.per_class > 1 else {}))
        content = save({"anchors": self.vectors.contiguous()}, {"stakes": text})
        write_bytes(path, content, SHARED_FILE)

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
        if path.suffix not in (".safetensors", ".npy"):
            raise InputError(
                f"there are no anchors {source}: give {', '.join(SHIPPED)}, "
                "or a .safetensors or .npy file"
            )
        check_file(path, "anchors")
        return cls._read(path, class_names)

    @classmethod
    def _read(cls, path: Path, class_names: Sequence[str] | None) -> "Anchors":
        vectors, written = _read_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
        if written is not None:
            per_class = written.get("per_class", 1)
            anchors = cls(vectors, tuple(written["class_names"]), written["card"], per_class)
            return anchors if class_names is None else anchors.select(class_names)
        if class_names is None:
            raise InputError(f"{path} names no classes: give the class names in its order")
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
        wanted = sorted(_key(name) for name in class_names)
        for name in SHIPPED:
            if wanted == sorted(_key(known) for known in read_descriptions(name)):
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
        rows = {_key(name): row for row, name in enumerate(self.class_names)}
        missing = [name for name in class_names if _key(name) not in rows]
        if missing:
            raise InputError(
                f"no anchor for {some(missing)}: these anchors are for the {len(self)} classes "
                f"{some(self.class_names, 10)}; describe the missing ones or choose other anchors"
            )
        order = [rows[_key(name)] for name in class_names]
        texts = self.card.get("texts", {})
        kept = {
            name: texts[self.class_names[row]]
            for name, row in zip(class_names, order, strict=True)
            if self.class_names[row] in texts
        }
        vectors = self.vectors.unflatten(0, (len(self), self.per_class))[order].flatten(0, 1)
        card = {**self.card, "texts": kept}
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


def make_anchors(
    descriptions: Mapping[str, Sequence[str]],
    encoder: Encoder,
    *,
    class_names: Sequence[str] | None = None,
    command: str = "",
    name: str = "",
    per_class: int = 1,
) -> Anchors:
    """Encode descriptions: attributes joined by ``"; "``, one row per class (Sec. 3.1).

    With several rows per class (Appendix F) its attributes are distributed among them; the paper
    does not say how it divides them.

    Args:
        descriptions: class name -> attributes.
        encoder: see :mod:`stakes.anchors.encoders`.
        class_names: the classes and their order; by default all that are described.
        command: the command line to write in the card.
        name: the name to write in the card.
        per_class: anchors of each class.

    Raises:
        InputError: a class has no description, or one has fewer attributes than anchors, or the
            encoder cannot take one.
    """
    checked = check_descriptions(descriptions)
    by_key = {_key(known): attributes for known, attributes in checked.items()}
    names = tuple(checked if class_names is None else class_names)
    missing = [wanted for wanted in names if _key(wanted) not in by_key]
    if missing:
        raise InputError(f"no description for {some(missing)}: add attributes for each")
    _check_enough(checked, per_class)
    texts = {wanted: SEPARATOR.join(by_key[_key(wanted)]) for wanted in names}
    parts = [
        SEPARATOR.join(by_key[_key(wanted)][i::per_class])
        for wanted in names
        for i in range(per_class)
    ]
    in_parts = list(dict.fromkeys(names[i // per_class] for i in encoder.cut(parts)))
    card = new_card(name, "", "", texts=texts, command=command, encoded_in_parts=in_parts)
    return Anchors(encoder.encode(parts), names, {**card, **encoder.card}, per_class)


def build(
    descriptions_path: str | Path,
    encoder: str,
    encoder_path: str | Path,
    out: str | Path,
    *,
    per_class: int = 1,
    download: bool = False,
    overwrite: bool = False,
) -> Anchors:
    """Do the work of ``stakes anchors``: check everything, encode, write ``out``.

    Raises:
        InputError: an unknown encoder, ``out`` exists (without ``overwrite``) or is no
            .safetensors name, or what reading, loading and encoding find.
    """
    if encoder not in ENCODERS:
        raise InputError(f"there is no encoder {encoder}: choose {', '.join(ENCODERS)}")
    _check_suffix(out)
    if Path(out).exists() and not overwrite:
        raise InputError(f"{out} exists already: choose another name or add --overwrite")
    descriptions = read_descriptions(descriptions_path)
    _check_enough(descriptions, per_class)
    loaded = ENCODERS[encoder](encoder_path, download=download)
    words = ["stakes", "anchors", "--descriptions", str(descriptions_path), "--encoder", encoder]
    words += ["--encoder-path", str(encoder_path), "--out", str(out)]
    words += ["--per-class", str(per_class)] if per_class > 1 else []
    words += ["--download"] * download + ["--overwrite"] * overwrite
    command = shlex.join(words)
    anchors = make_anchors(
        descriptions, loaded, command=command, name=Path(out).stem, per_class=per_class
    )
    anchors.save(out)
    return anchors


def new_card(name: str, encoder: str, digest: str, **more: Any) -> dict[str, Any]:
    """The provenance of anchors made now (see :class:`Anchors`)."""
    card = {"name": name, "encoder": encoder, "encoder_digest": digest, "texts": {}, "command": ""}
    return {**card, "date": datetime.date.today().isoformat(), **more}


def _key(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _check_suffix(path: str | Path) -> None:
    if Path(path).suffix != ".safetensors":
        raise InputError(f"anchors are written as .safetensors: rename {path}")


def _check_enough(descriptions: Descriptions, per_class: int) -> None:
    if per_class < 1:
        raise InputError(f"{per_class} anchors per class: give at least 1")
    if few := [name for name, texts in descriptions.items() if len(texts) < per_class]:
        raise InputError(
            f"{some(few)} with fewer than {per_class} attributes, one for each anchor: add some"
        )


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
        raise InputError(f"the class {some(twice)} stands more than once: rename one of them")
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


def _read_npy(path: Path) -> tuple[Tensor, None]:
    try:
        array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"values of type {array.dtype}")
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), None
    except (OSError, ValueError, TypeError, EOFError, MemoryError, OverflowError) as error:
        raise InputError(f"{path} is not an .npy file of numbers: write it again") from error


def _is_ours(written: Any) -> bool:
    """Whether metadata says what an anchors file has to say."""
    return (
        isinstance(written, dict)
        and isinstance(written.get("card"), dict)
        and isinstance(written.get("class_names"), list)
        and all(isinstance(name, str) for name in written["class_names"])
        and type(written.get("per_class", 1)) is int
    )


def _read_safetensors(path: Path) -> tuple[Tensor, dict[str, Any] | None]:
    """Read the vectors, and class names and card where the file has them."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            if "anchors" not in keys and len(keys) != 1:
                raise InputError(f'{path} has no tensor "anchors": it holds {some(keys)}')
            vectors = file.get_tensor("anchors" if "anchors" in keys else keys[0]).float()
            text = (file.metadata() or {}).get("stakes")
            written = None if text is None else json.loads(text)
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as safetensors: write it again") from error
    if written is not None and not _is_ours(written):
        raise InputError(
            f"{path} has no class names or card of ours: it is not an anchors file; make it with "
            "stakes anchors"
        )
    return vectors, written
