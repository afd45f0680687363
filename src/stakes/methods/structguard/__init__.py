"""STRUCTGUARD three times: the product's own, the paper's equations, the authors' code."""

from stakes.methods.structguard.default import StructGuard
from stakes.methods.structguard.paper import StructGuardPaper
from stakes.methods.structguard.reference import StructGuardReference

__all__ = ["StructGuard", "StructGuardPaper", "StructGuardReference"]
