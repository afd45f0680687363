"""Machine unlearning for image classifiers: forget given images, and show the evidence."""

from importlib.metadata import version

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
