"""The balance between forgetting and keeping: it gives way where a run makes no progress."""

import torch
from torch import Tensor

from stakes.training.checkpoint import State

FEW = 0.05  # of the forget images; with more of them known, it is the hold that is too strong
MOST = 8.0  # times its start, the margin at most
LEAST = 1 / 16  # of its start, the hold at least
STEADY = 0.9  # of the copies known a while ago; where more still are, it is too slow
EASY = 0.5  # of the copies that may stay known; where fewer do, the push is stronger than need be
STRONGEST, WEAKEST = 16.0, 1 / 8  # the push at most and at least


class AdaptiveMargin(State):
    """The margin asked of forgotten images, and how strongly the features are held.

    Both follow what the training batches show of the forget images. The last few of many images
    cross back and forth over the decision boundary from step to step: then the margin grows by a
    quarter. Where more than a few stay known for twice as long, features held as tightly as this
    cannot let them go: then that hold is halved.

    Args:
        k: number of forget images.
        margin: to begin with, logits.
        patience: steps without a new least number of known images after which the margin grows;
            0 leaves both as they are.
        device: of the images.

    Attributes:
        margin: that a forgotten image is to have now.
        hold: factor of the hold on the probes' features, 1 to begin with.
    """

    saved = ("margin", "hold", "_lead", "_fewest", "_waited")

    def __init__(
        self, k: int, margin: float, *, patience: int, device: torch.device | None = None
    ) -> None:
        self.margin, self.hold = margin, 1.0
        self._highest, self._patience = MOST * margin, patience
        self._lead = torch.full((k,), torch.inf, device=device)
        self._fewest, self._waited = 1.0, 0

    @property
    def known(self) -> float:
        """Share of the forget images that were known when last seen, or were not seen yet."""
        return int((~(self._lead < 0)).sum()) / len(self._lead)

    def see(self, indices: Tensor, lead: Tensor) -> None:
        """Take note of a step's batch: the true classes' lead (b,) in the images at ``indices``."""
        self._lead[indices.to(self._lead.device)] = lead.detach()
        known = self.known
        if known < self._fewest or known == 0:
            self._fewest, self._waited = min(known, self._fewest), 0
            return
        self._waited += 1
        if not self._patience:
            return
        if known <= FEW and self._waited >= self._patience:
            self.margin, self._waited = min(self._highest, 1.25 * self.margin), 0
        elif known > FEW and self._waited >= 2 * self._patience:
            self.hold, self._waited = max(LEAST, self.hold / 2), 0
            self._fewest = known


class ViewsScale(State):
    """How strongly copies of the forget images are pushed out of their class.

    Every ``patience`` steps the copies of these steps are looked at, all of them fresh. Where more
    are known than may be, and hardly fewer than before, the push grows by a half; where less than
    half as many are known as may be, it shrinks by as much, so that what is kept can recover. A
    network that lets go easily is so pushed gently, and one that holds on is pushed harder.

    Args:
        allowed: share of the copies that may stay known.
        patience: steps between two changes; 0: never.

    Attributes:
        value: factor of the deletion of copies, 1 to begin with.
    """

    saved = ("value", "_known", "_before")

    def __init__(self, allowed: float, *, patience: int) -> None:
        self.value = 1.0
        self._allowed, self._patience = allowed, patience
        self._known: list[float] = []
        self._before = float("inf")

    @property
    def why(self) -> str:
        """Why it is what it is."""
        if self.value == 1:
            return "as given"
        return "copies stayed known" if self.value > 1 else "copies were forgotten easily"

    def see(self, lead: Tensor) -> None:
        """Take note of a step's fresh copies: the true class's lead (m,) in each."""
        self._known.append(float((lead >= 0).float().mean()))
        if not self._patience or len(self._known) < self._patience:
            return
        known = sum(self._known) / len(self._known)
        if known > self._allowed and known > STEADY * self._before:
            self.value = min(STRONGEST, 1.5 * self.value)
        elif known < EASY * self._allowed:
            self.value = max(WEAKEST, self.value / 1.5)
        self._known, self._before = [], known
