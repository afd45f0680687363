"""What a run adapts to its forget images: margin, weight of the features, weight of the copies.

All of it is computed on the images' device, and nothing here waits for it.
"""

import torch
from torch import Tensor

from stakes.data.transfer import to_device
from stakes.training.checkpoint import State

FEW = 0.05  # of the forget images; with more recognised, they are not forgotten but for the last
MOST = 8.0  # times its start, the margin at most
LEAST = 1 / 16  # the feature scale at least
STEADY = 0.9  # of the share of copies recognised a window ago; above it, progress is too slow
EASY = 0.5  # of the copies that may stay recognised; with fewer, they are pushed needlessly hard
STRONGEST, WEAKEST = 16.0, 1 / 8  # the views scale at most and at least


def scalar(value: float, device: torch.device | None) -> Tensor:
    """A number on a device, in double precision where it has that: as Python counts."""
    single = device is not None and device.type == "mps"
    return torch.full((), value, dtype=torch.float32 if single else torch.float64, device=device)


class AdaptiveMargin(State):
    """The margins required of forgotten images, and how strongly the features are retained.

    Both follow what the training batches show of the forget images. The last few of many images
    cross the decision boundary back and forth from step to step: the margins then grow by a
    quarter. Where more than a few stay recognised for twice as long, features retained this tightly
    cannot let them go: the feature scale is then halved. As long as none at all has been forgotten,
    it is halved again after half of ``patience`` each time: a network held too tightly for long
    yields by shrinking all its logits, and does not recover.

    Args:
        k: number of forget images.
        margin: at the start, logits.
        patience: steps without a new least number of recognised images after which the margin
            grows; 0 leaves both as they are.
        device: of the images.

    Attributes:
        margin: (k,) required of each image now, logits.
        feature_scale: weight of the features relative to all other terms, 1 at the start.
        known: share of the forget images that were recognised when last seen, or not seen yet.
    """

    saved = ("margin", "feature_scale", "known", "_lead", "_fewest", "_waited")

    def __init__(
        self,
        k: int,
        margin: float,
        *,
        patience: int,
        device: torch.device | None = None,
    ) -> None:
        self.margin, self._highest = scalar(margin, device).repeat(k), MOST * margin
        self.feature_scale, self.known = scalar(1.0, device), scalar(1.0, device)
        self._lead = torch.full((k,), torch.inf, device=device)
        self._fewest, self._waited = scalar(1.0, device), scalar(0.0, device)
        self._patience, self._longest = patience, 2 * patience

    def see(self, indices: Tensor, lead: Tensor) -> None:
        """Note a step's batch: the true classes' lead (b,) in the images at ``indices``."""
        self._lead[to_device(indices, self._lead.device)] = lead.detach()
        left = ~(self._lead < 0)  # recognised when last seen, or not seen yet
        self.known = known = left.sum().to(self.known.dtype) / len(self._lead)
        if not self._patience:
            return
        better = (known < self._fewest) | (known == 0)
        waited = (self._waited + 1).masked_fill(better, 0)
        few = known <= FEW
        grow, halve = few & (waited >= self._patience), ~few & (waited >= self._longest)
        none_yet = halve & (self._fewest == 1) & (known == 1)
        larger, smaller = 1.25 * self.margin, self.feature_scale / 2
        self.margin = torch.where(grow, larger.clamp_max(self._highest), self.margin)
        self.feature_scale = torch.where(halve, smaller.clamp_min(LEAST), self.feature_scale)
        self._fewest = torch.where(better | halve, known, self._fewest)
        waited = waited.masked_fill(grow | halve, 0)
        self._waited = waited.masked_fill(none_yet, self._longest - (self._patience + 1) // 2)


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

    saved = ("value", "_known", "_steps", "_before")

    def __init__(
        self, allowed: float, *, patience: int, device: torch.device | None = None
    ) -> None:
        self.value = scalar(1.0, device)
        self._allowed, self._patience = allowed, patience
        self._known, self._steps = scalar(0.0, device), 0  # sum over the steps of the window
        self._before = scalar(torch.inf, device)

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
        self._known = self._known + (lead.detach() >= 0).float().mean()
        self._steps += 1
        if self._steps < self._patience:
            return
        known = self._known / self._steps
        slow = (known > self._allowed) & (known > STEADY * self._before)
        easy = known < EASY * self._allowed
        stronger, weaker = 1.5 * self.value, self.value / 1.5
        self.value = torch.where(slow, stronger.clamp_max(STRONGEST), self.value)
        self.value = torch.where(easy, weaker.clamp_min(WEAKEST), self.value)
        self._known, self._steps = torch.zeros_like(known), 0
        self._before = known
