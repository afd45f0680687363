"""What the layers give for images that unlearning leaves as they are."""

import torch
from torch import Tensor

from stakes.data.images import Images, batches
from stakes.models.classifier import Classifier
from stakes.progress import Progress, silent
from stakes.training.depth import DEPTH, shallow
from stakes.training.precision import autocast
from stakes.training.shared import SharedLayers

VALUES = 2**29  # of outputs that are looked at: 1 GiB at half width
BATCH = 256


class UnchangedLayers:
    """The layers that unlearning leaves as they are, where it changes the default share of them.

    Args:
        network: in eval mode, on its device.
        image: (3, h, w), for a trial.

    Attributes:
        read: names and output shapes of those that later layers read; empty where all may change.
        width: values that they give for an image.
    """

    def __init__(self, network: Classifier, image: Tensor) -> None:
        self._device = network.device
        self._passes = autocast("auto", network.device)
        live = network.copy().eval().requires_grad_(True)
        with shallow(live, DEPTH), self._passes:
            self._shared = SharedLayers(network, live, image.to(network.device))
        self.read = self._shared.read
        self.width = sum(torch.Size(shape).numel() for _, shape in self.read)

    def sample(self, count: int, seed: int) -> Tensor:
        """Which of ``count`` images are looked at: so many that their outputs fit into memory."""
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return order[: max(1, VALUES // self.width)]

    def outputs(self, images: Images, some: Tensor, progress: Progress = silent) -> Tensor:
        """What they give for some of the images, at half width: (len(some), width)."""
        found = torch.empty(len(some), self.width, dtype=torch.float16)
        done = 0
        for batch, _ in batches(images, some, batch_size=BATCH):
            with self._passes:
                given = self._shared.outputs(batch.to(self._device))
            found[done : done + len(batch)] = torch.cat([part.flatten(1) for part in given], dim=1)
            done += len(batch)
            progress("reading activations", done, len(some))
        return found
