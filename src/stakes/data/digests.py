"""An image known by its pixels, whatever file or array holds it."""

import hashlib

import torch
from torch import Tensor


def pixel_digests(images: Tensor) -> tuple[str, ...]:
    """SHA-256 of each image of (n, 3, h, w): its shape and its pixels at 8 bits a channel.

    Rounding to 8 bits, which is what files hold, makes the digest the same wherever the division
    by 255 was done.
    """
    pixels = (images.detach() * 255).round().to(torch.uint8).cpu().contiguous().numpy()
    start = f"{tuple(images.shape[1:])}|".encode()
    return tuple(hashlib.sha256(start + image.tobytes()).hexdigest() for image in pixels)
