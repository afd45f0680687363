"""Every method by its name on the command line; a new one is a file and a line here."""

from stakes.methods.adv import Adv
from stakes.methods.amnesiac import Amnesiac
from stakes.methods.amun import AMUN
from stakes.methods.bad_teacher import BadTeacher
from stakes.methods.base import Method
from stakes.methods.boundary_expand import BoundaryExpand
from stakes.methods.boundary_shrink import BoundaryShrink
from stakes.methods.delete import Delete
from stakes.methods.esc import ESC
from stakes.methods.finetune import FineTune
from stakes.methods.fisher import Fisher
from stakes.methods.jit import JiT
from stakes.methods.l2ul import L2UL
from stakes.methods.lotus import LoTUS
from stakes.methods.mu_mis import MUMis
from stakes.methods.neggrad import NegGrad
from stakes.methods.negmerge import NegMerge
from stakes.methods.npo import NPO
from stakes.methods.oracle import Oracle
from stakes.methods.random_label import RandomLabel
from stakes.methods.rawp import RAWP
from stakes.methods.retrain import Retrain
from stakes.methods.salun import SalUn
from stakes.methods.scrub import SCRUB
from stakes.methods.sfron import SFRon
from stakes.methods.ssd import SSD
from stakes.methods.structguard import StructGuard
from stakes.methods.task import Unlearned
from stakes.methods.unsir import UNSIR

METHODS: dict[str, type[Method]] = {
    "structguard": StructGuard,
    "l2ul": L2UL,
    "adv": Adv,
    "neggrad": NegGrad,
    "rawp": RAWP,
    "fisher": Fisher,
    "random_label": RandomLabel,
    "boundary_shrink": BoundaryShrink,
    "boundary_expand": BoundaryExpand,
    "delete": Delete,
    "esc": ESC,
    "negmerge": NegMerge,
    "npo": NPO,
    "amun": AMUN,
    "jit": JiT,
    "mu_mis": MUMis,
    "oracle": Oracle,
    "retrain": Retrain,
    "finetune": FineTune,
    "amnesiac": Amnesiac,
    "salun": SalUn,
    "ssd": SSD,
    "scrub": SCRUB,
    "unsir": UNSIR,
    "lotus": LoTUS,
    "bad_teacher": BadTeacher,
    "sfron": SFRon,
}

__all__ = [
    "AMUN",
    "ESC",
    "L2UL",
    "METHODS",
    "NPO",
    "RAWP",
    "SCRUB",
    "SSD",
    "UNSIR",
    "Adv",
    "Amnesiac",
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "Delete",
    "FineTune",
    "Fisher",
    "JiT",
    "LoTUS",
    "MUMis",
    "Method",
    "NegGrad",
    "NegMerge",
    "Oracle",
    "RandomLabel",
    "Retrain",
    "SFRon",
    "SalUn",
    "StructGuard",
    "Unlearned",
]
