"""Machine unlearning for image classifiers: forget given images, and show the evidence."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stakes.anchors.anchors import Anchors
    from stakes.data.adapter import as_images
    from stakes.data.datasets import load_data
    from stakes.data.forget import ForgetSet
    from stakes.errors import InputError
    from stakes.evaluation.evaluate import evaluate
    from stakes.methods import L2UL, METHODS, Adv, NegGrad, StructGuard, Unlearned
    from stakes.models.classifier import Classifier
    from stakes.runs.frame import frame

__version__ = version("stakes")

__all__ = [
    "L2UL",
    "METHODS",
    "Adv",
    "Anchors",
    "Classifier",
    "ForgetSet",
    "InputError",
    "NegGrad",
    "StructGuard",
    "Unlearned",
    "__version__",
    "as_images",
    "evaluate",
    "frame",
    "load_data",
]

#: Where the names above live. They are imported when first used: torch alone takes a second, and
#: `stakes --help` does without it.
_HOMES = {
    "Anchors": "stakes.anchors.anchors",
    "Classifier": "stakes.models.classifier",
    "ForgetSet": "stakes.data.forget",
    "InputError": "stakes.errors",
    "as_images": "stakes.data.adapter",
    "evaluate": "stakes.evaluation.evaluate",
    "frame": "stakes.runs.frame",
    "load_data": "stakes.data.datasets",
    **dict.fromkeys(
        ("L2UL", "METHODS", "Adv", "NegGrad", "StructGuard", "Unlearned"), "stakes.methods"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stakes' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
