"""What a run delivered: a network, known to be as it was written."""

from collections.abc import Sequence
from pathlib import Path

import torch

from stakes.data.forget import ForgetSet
from stakes.errors import InputError
from stakes.evaluation.reference import check_reference
from stakes.manifest import check_manifest
from stakes.models.cards import (
    delivered_preprocessing,
    delivered_settings,
    is_own,
    made_from,
)
from stakes.models.classifier import Classifier
from stakes.models.hf import read_json
from stakes.preprocessing import in_words
from stakes.runs.forgotten import Forgotten
from stakes.texts import say

#: Files of a run that need not go with its network to whoever scores it again.
NOT_DELIVERED = (
    "row.json", "history.jsonl", "evidence.json", "stakes.safetensors", "report.html",
    "forgotten.json",
)  # fmt: skip


def check_delivered(path: Path) -> None:
    """Compare what a run delivered with its manifest; of an older version's, say that it has none.

    Raises:
        InputError: see :func:`stakes.manifest.check_manifest`.
    """
    folder = path if path.is_dir() else path.parent
    if path.suffix != ".safetensors" and not path.is_dir():
        return
    if not check_manifest(folder, absent=NOT_DELIVERED) and (folder / "row.json").exists():
        say(f"note: {folder} has no manifest, so changes to it cannot be detected")


def check_there(path: Path, option: str) -> None:
    """Refuse what is neither a folder nor a .safetensors file.

    Raises:
        InputError: it is neither.
    """
    if not (path.is_dir() or (path.is_file() and path.suffix == ".safetensors")):
        raise InputError(
            f"{option} {path}: no such network; give a folder that stakes wrote, or its "
            "model.safetensors"
        )


def delivered_network(path: Path, classifier: Classifier, option: str) -> Classifier:
    """The network at ``path``, on the device of ``classifier``.

    What was saved from code of the user's own is made by the code of ``classifier``, which the
    command names, wherever that lies now, if it has the name that the card has.

    Raises:
        InputError: what :meth:`Classifier.load` raises, or code that ``classifier`` is not of.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    device, named = str(classifier.device), classifier.spec
    recorded = made_from(file)
    if recorded is None or not is_own(recorded):
        return Classifier.load(path, device=device)
    if not is_own(named) or named.rpartition(":")[2] != recorded.rpartition(":")[2]:
        raise InputError(
            f"{option} {path} was saved from your own code, {recorded}, which a saved file "
            f"never runs, but --model names {named}: give networks of the same code in both"
        )
    if named != recorded:
        say(f"note: {path} was saved from {recorded}; here {named} builds it")
    return Classifier.load(named, weights=file, device=device)


def note_other_original(path: Path, classifier: Classifier, forget: ForgetSet) -> None:
    """Say where a delivered network was made from other weights, or for other images.

    Args:
        path: its folder or file.
        classifier: what is taken for the original, with the preprocessing of this command.
        forget: what are taken for the images that it was made to forget, read in this way.
    """
    row = (path if path.is_dir() else path.parent) / "row.json"
    digest = read_json(row).get("weights_digest") if row.is_file() else None
    if digest is not None and digest != (own := classifier.digest()):
        say(
            f"note: {path} was made from other weights (digest {str(digest)[:12]}, says its "
            f"row.json) than those of --model (digest {own[:12]}), so the numbers do not "
            "describe one run"
        )
    held = delivered_settings(path)
    for key, what in (("mean", "mean"), ("std", "standard deviation")):
        here = getattr(classifier, key).flatten().cpu()
        if key in held and not torch.allclose(torch.tensor(held[key]), here):
            say(
                f"note: {path} normalises by the {what} {_numbers(held[key])} and --model by "
                f"{_numbers(here.tolist())}, so before and after do not compare"
            )
    was = in_words(delivered_preprocessing(path, classifier.preprocessing))
    asked = in_words(classifier.preprocessing)
    if was != asked:
        say(f"note: {path} was made with other preprocessing: {was}; here: {asked}")
        return
    asked_for = Forgotten.beside(path)
    if asked_for.requests and not any(asked_for.among(forget)):
        say(f"note: {path} was made to forget other images than these")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def reference_network(path: Path | None, classifier: Classifier) -> Classifier | None:
    """The network to compare with, on the device of ``classifier``, of the same classes.

    Raises:
        InputError: what :func:`delivered_network` raises, or other classes.
    """
    if path is None:
        return None
    check_there(path, "--reference")
    check_delivered(path)
    reference = delivered_network(path, classifier, "--reference")
    check_reference(reference, classifier)
    return reference
