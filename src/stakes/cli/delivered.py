"""What a run delivered: a network, known to be as it was written."""

from pathlib import Path

from stakes.errors import InputError
from stakes.evaluation.reference import check_reference
from stakes.manifest import check_manifest
from stakes.models.classifier import Classifier
from stakes.texts import say

#: Files of a run that need not go with its network to whoever scores it again.
NOT_DELIVERED = (
    "row.json", "history.jsonl", "evidence.json", "stakes.safetensors", "report.html",
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
        say(f"note: {folder} has no manifest: changes in it are not noticed")


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


def reference_network(path: Path | None, classifier: Classifier) -> Classifier | None:
    """The network to compare with, on the device of ``classifier``, of the same classes.

    Raises:
        InputError: what :meth:`Classifier.load` raises, or other classes.
    """
    if path is None:
        return None
    check_there(path, "--reference")
    check_delivered(path)
    reference = Classifier.load(path, device=str(classifier.device))
    check_reference(reference, classifier)
    return reference
