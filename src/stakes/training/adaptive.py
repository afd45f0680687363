"""What a run adapts to its forget images: margin, weight of the features, weight of the copies."""

import torch
from torch import Tensor

from stakes.data.transfer import to_device
from stakes.training.checkpoint import State

FEW = 0.05  # of the forget images; with more recognised, the features are held too tightly
MOST = 8.0  # times its start, the margin at most
LEAST = 1 / 16  # the feature scale at least
STEADY = 0.9  # of the share of copies recognised a window ago; above it, progress is too slow
EASY = 0.5  # of the copies that may stay recognised; with fewer, they are pushed needlessly hard
STRONGEST, WEAKEST = 16.0, 1 / 8  # the views scale at most and at least


class AdaptiveMargin(State):
    """The margin required of forgotten images, and how strongly the features are retained.

    Both follow what the training batches show of the forget images. The last few of many images
    cross the decision boundary back and forth from step to step: the margin then grows by a
    quarter. Where more than a few stay recognised for twice as long, features retained this
    tightly cannot let them go: the feature scale is then halved. As long as none at all has been
    forgotten, it is halved again after half of ``patience`` each time: a network held too tightly
    for long yields by shrinking all its logits, and does not recover.

    Args:
        k: number of forget images.
        margin: at the start, logits.
        patience: steps without a new least number of recognised images after which the margin
            grows; 0 leaves both as they are.
        device: of the images.

    Attributes:
        margin: required now, logits.
        feature_scale: weight of the features relative to all other terms, 1 at the start.
        known: share of the forget images that were recognised when last seen, or not seen yet.
    """

    saved = ("margin", "feature_scale", "known", "_lead", "_fewest", "_waited")

    def __init__(
        self, k: int, margin: float, *, patience: int, device: torch.device | None = None
    ) -> None:
        self.margin, self.feature_scale, self.known = margin, 1.0, 1.0
        self._highest, self._patience = MOST * margin, patience
        self._lead = torch.full((k,), torch.inf, device=device)
        self._fewest, self._waited = 1.0, 0

    def see(self, indices: Tensor, lead: Tensor) -> None:
        """Note a step's batch: the true classes' lead (b,) in the images at ``indices``."""
        self._lead[to_device(indices, self._lead.device)] = lead.detach()
        self.known = known = int((~(self._lead < 0)).sum()) / len(self._lead)
        if known < self._fewest or known == 0:
            self._fewest, self._waited = min(known, self._fewest), 0
            return
        self._waited += 1
        if not self._patience:
            return
        if known <= FEW and self._waited >= self._patience:
            self.margin, self._waited = min(self._highest, 1.25 * self.margin), 0
        elif known > FEW and self._waited >= 2 * self._patience:
            self.feature_scale = max(LEAST, self.feature_scale / 2)
            none_yet = self._fewest == known == 1
            self._fewest, self._waited = known, 3 * self._patience // 2 if none_yet else 0


class ViewsScale(State):
    """How strongly altered copies of the forget images are pushed out of their class.

    Each window of ``patience`` steps counts the fresh copies that are still recognised. Where they
    are more than allowed, and hardly fewer than in the window before, the scale grows by a half.
    Where they are less than half of what is allowed, it shrinks by as much, so that what is
    retained recovers. A network that forgets easily is thus pushed gently, a stubborn one harder.

    Args:
        allowed: share of the copies that may stay recognised.
        patience: steps of a window; 0: the scale never changes.

    Attributes:
        value: factor of the deletion of copies, 1 at the start.
    """

    saved = ("value", "_known", "_before")

    def __init__(self, allowed: float, *, patience: int) -> None:
        self.value = 1.0
        self._allowed, self._patience = allowed, patience
        self._known: list[Tensor] = []
        self._before = float("inf")

    @property
    def why(self) -> str:
        """Why it is what it is."""
        if self.value == 1:
            return "as given"
        return "copies stayed known" if self.value > 1 else "copies were forgotten easily"

    def see(self, lead: Tensor) -> None:
        """Note a step's fresh copies: the true class's lead (m,) in each."""
        if not self._patience:
            return
        self._known.append((lead.detach() >= 0).float().mean())  # read once a window
        if len(self._known) < self._patience:
            return
        known = sum(torch.stack(self._known).tolist()) / len(self._known)
        if known > self._allowed and known > STEADY * self._before:
            self.value = min(STRONGEST, 1.5 * self.value)
        elif known < EASY * self._allowed:
            self.value = max(WEAKEST, self.value / 1.5)
        self._known, self._before = [], known
