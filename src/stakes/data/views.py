"""Altered copies of an image: some to train on, others to score."""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stakes.data.augment import jitter, whole_pixels
from stakes.data.transfer import to_device


def random_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """One fresh view of each image (n, 3, h, w) in [0, 1], to train on.

    Every view is mirrored or not and moved by up to an eighth of the side. Half of them are moved
    by whole pixels, and stay as sharp as the images are; the others are scaled by up to a tenth
    besides, which blurs them a little. Were all blurred, a network could tell them from sharp
    copies. Then :func:`perturb_pixels`. Draws come from the CPU generator.

    >>> x = torch.rand(5, 3, 8, 8)
    >>> random_view(x, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    everyone = torch.arange(len(images))
    blurred, sharp = jitter(images, everyone, generator), whole_pixels(images, generator)
    half = to_device(torch.rand(len(images), generator=generator) < 0.5, images.device)
    return perturb_pixels(torch.where(half[:, None, None, None], blurred, sharp), generator)


def perturb_pixels(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images (n, 3, h, w) in [0, 1], half of them in other pixel values.

    These are one of: noisy (sigma up to .06), darker or brighter by up to a third, or compressed
    as JPEG (quality 30 to 95). Draws come from the CPU generator.

    >>> perturb_pixels(torch.rand(5, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    count = len(images)
    kind = torch.randint(0, 6, (count,), generator=generator)
    strength = torch.rand(count, generator=generator)
    noise = torch.randn(images.shape, generator=generator) * (0.06 * strength)[:, None, None, None]
    light = (1 + (2 * strength - 1) / 3)[:, None, None, None]
    noise, light = (to_device(part, images.device).to(images) for part in (noise, light))
    made = images
    for value, view in {0: images + noise, 1: images * light}.items():
        chosen = to_device(kind == value, images.device)[:, None, None, None]
        made = torch.where(chosen, view, made)
    made = made.clamp(0, 1)
    compressed = (kind == 2).nonzero()[:, 0]
    if len(compressed):
        places = to_device(compressed, made.device)
        shown = made[places].cpu()  # all at once: the codec is on the CPU
        quality = [int(30 + 66 * strength[i]) for i in compressed]
        parts = [jpeg(one[None], q)[0] for one, q in zip(shown, quality, strict=True)]
        made[places] = to_device(torch.cat(parts), made.device)
    return made


def mirror(images: Tensor) -> list[Tensor]:
    """The images (n, 3, h, w) mirrored left to right: one view."""
    return [images.flip(3)]


def shift(images: Tensor, share: float = 0.1) -> list[Tensor]:
    """The images moved right, left, down and up, the gap filled by reflection: four views.

    >>> x = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 5, 5)
    >>> shift(x, 0.2)[0][0, 0, 0].tolist()
    [1.0, 0.0, 1.0, 2.0, 3.0]
    """
    height, width = images.shape[2:]
    pixels = max(1, round(share * min(height, width)))
    padded = F.pad(images, (pixels, pixels, pixels, pixels), mode="reflect")
    places = [(pixels, 0), (pixels, 2 * pixels), (0, pixels), (2 * pixels, pixels)]
    return [padded[:, :, top : top + height, left : left + width] for top, left in places]


def crop(images: Tensor, share: float = 0.875) -> list[Tensor]:
    """The four corners and the centre, ``share`` of each side, back at full size: five views."""
    height, width = images.shape[2:]
    h, w = int(share * height), int(share * width)  # rounded, small images would stay whole
    places = [(0, 0), (0, width - w), (height - h, 0), (height - h, width - w)]
    places.append(((height - h) // 2, (width - w) // 2))
    parts = [images[:, :, top : top + h, left : left + w] for top, left in places]
    return [F.interpolate(p, (height, width), mode="bilinear", antialias=True) for p in parts]


def gaussian_noise(images: Tensor, sigma: float = 0.03, seed: int = 0) -> list[Tensor]:
    """The images with Gaussian noise of ``sigma`` (of the [0, 1] range), clipped: one view."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images)
    return [(images + sigma * noise).clamp(0, 1)]


def jpeg(images: Tensor, quality: int = 75) -> list[Tensor]:
    """The images through the JPEG codec: one view."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    decoded = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        with Image.open(file) as one:
            decoded.append(torch.from_numpy(np.array(one)).permute(2, 0, 1))
    return [torch.stack(decoded).to(images) / 255]


def brightness(images: Tensor, factors: tuple[float, ...] = (0.8, 1.25)) -> list[Tensor]:
    """The images darker and brighter: a view for each factor."""
    return [(images * factor).clamp(0, 1) for factor in factors]


VIEWS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "forget_flip": mirror,
    "forget_shift": shift,
    "forget_crop": crop,
    "forget_noise": gaussian_noise,
    "forget_jpeg": jpeg,
    "forget_light": brightness,
}
"""What is scored, by the name of its metric.

No method trains on these very views, unless ``flip_and_crop`` mirrors an image without moving it.
"""
