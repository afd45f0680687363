"""Make a trained image classifier forget given pictures, and show the evidence."""

from stakes.anchors import Anchors
from stakes.classifier import Classifier
from stakes.data import load_data
from stakes.errors import InputError
from stakes.evaluate import evaluate
from stakes.forget import ForgetSet
from stakes.methods import L2UL, METHODS, Adv, NegGrad, StructGuard, Unlearned

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
    "evaluate",
    "load_data",
]
