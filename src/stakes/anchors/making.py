"""Anchors made of class descriptions by a text encoder (Sec. 3.1): ``stakes anchors``."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from stakes.anchors.anchor_file import check_suffix
from stakes.anchors.anchors import Anchors, name_key, new_card
from stakes.anchors.descriptions import Descriptions, check_descriptions, read_descriptions
from stakes.anchors.encoder import SEPARATOR, TextEncoder
from stakes.anchors.encoders import ENCODERS
from stakes.errors import InputError, some


def make_anchors(
    descriptions: Mapping[str, Sequence[str]],
    encoder: TextEncoder,
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
    by_key = {name_key(known): attributes for known, attributes in checked.items()}
    names = tuple(checked if class_names is None else class_names)
    missing = [wanted for wanted in names if name_key(wanted) not in by_key]
    if missing:
        raise InputError(f"no description for {some(missing)}: add attributes for each")
    _check_enough(checked, per_class)
    texts = {wanted: SEPARATOR.join(by_key[name_key(wanted)]) for wanted in names}
    parts = [
        SEPARATOR.join(by_key[name_key(wanted)][i::per_class])
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
    check_suffix(out)
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


def _check_enough(descriptions: Descriptions, per_class: int) -> None:
    if per_class < 1:
        raise InputError(f"{per_class} anchors per class: give at least 1")
    if few := [name for name, texts in descriptions.items() if len(texts) < per_class]:
        raise InputError(
            f"{some(few)} with fewer than {per_class} attributes, one for each anchor: add some"
        )
