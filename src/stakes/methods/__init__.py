"""Every method by its name on the command line; a new one is a file and a line here."""

from stakes.errors import InputError, nearest
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
from stakes.methods.lcodec import LCODEC
from stakes.methods.lookup import LookupControl
from stakes.methods.lotus import LoTUS
from stakes.methods.mu_mis import MUMis
from stakes.methods.neggrad import NegGrad
from stakes.methods.negmerge import NegMerge
from stakes.methods.npo import NPO
from stakes.methods.oracle import Oracle
from stakes.methods.own import installed, own_method, own_name
from stakes.methods.random_label import RandomLabel
from stakes.methods.rawp import RAWP
from stakes.methods.retrain import Retrain
from stakes.methods.salun import SalUn
from stakes.methods.scrub import SCRUB, SCRUBFewImages, SCRUBSmallScale
from stakes.methods.sfron import SFRon
from stakes.methods.ssd import SSD
from stakes.methods.structguard import StructGuard, StructGuardPaper, StructGuardReference
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
    "lookup": LookupControl,
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
    "lcodec": LCODEC,
}

PRESETS: dict[str, dict[str, type[Method]]] = {
    "structguard": {"paper": StructGuardPaper, "reference": StructGuardReference},
    "scrub": {"few_images": SCRUBFewImages, "small_scale": SCRUBSmallScale},
}
"""Other versions of a method, by its name and theirs (``--preset``)."""


def method_names() -> list[str]:
    """The names of our methods, then of those that installed packages bring."""
    return [*METHODS, *(name for name in installed() if name not in METHODS)]


def method_class(name: str, preset: str | None = None) -> type[Method]:
    """The class of a method, or of a preset of it; ``name`` as in :func:`own_method` if not ours.

    Raises:
        InputError: there is none of that name.

    >>> method_class("structguard", "paper").title
    'STRUCTGUARD (paper)'
    """
    kind = METHODS.get(name) or own_method(name)
    if kind is None:
        raise InputError(f"method {name!r} is unknown{nearest(name, method_names())}")
    known = PRESETS.get(name, {})
    if preset is None:
        return kind
    if preset not in known:
        words = f"{name} has {', '.join(known)}" if known else f"{name} has none"
        raise InputError(f"preset {preset!r} is unknown; {words}")
    return known[preset]


def method_name(method: Method) -> tuple[str, str | None]:
    """The method's name on the command line, and its preset's."""
    for name, presets in PRESETS.items():
        for preset, kind in presets.items():
            if type(method) is kind:
                return name, preset
    if not type(method).__module__.startswith("stakes."):
        return own_name(type(method)), None
    return next(name for name, kind in METHODS.items() if isinstance(method, kind)), None


__all__ = [
    "AMUN",
    "ESC",
    "L2UL",
    "LCODEC",
    "METHODS",
    "NPO",
    "PRESETS",
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
    "LookupControl",
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
    "StructGuardPaper",
    "StructGuardReference",
    "Unlearned",
    "method_class",
    "method_name",
    "method_names",
]
