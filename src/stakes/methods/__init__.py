"""Every method by its name on the command line; a new one is a file and a line here."""

from stakes.methods.adv import Adv
from stakes.methods.base import Method, Unlearned
from stakes.methods.l2ul import L2UL
from stakes.methods.neggrad import NegGrad
from stakes.methods.structguard import StructGuard

METHODS: dict[str, type[Method]] = {
    "structguard": StructGuard,
    "l2ul": L2UL,
    "adv": Adv,
    "neggrad": NegGrad,
}

__all__ = ["L2UL", "METHODS", "Adv", "Method", "NegGrad", "StructGuard", "Unlearned"]
