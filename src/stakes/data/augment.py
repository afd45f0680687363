"""Images made afresh from given ones: mixtures, jitter, rotations with other colours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stakes.data.transfer import to_device


def mixed(
    images: Tensor,
    count: int,
    generator: torch.Generator,
    least: float = 0.15,
    labels: Tensor | None = None,
) -> Tensor:
    """Draw ``count`` fresh mixtures (count, 3, h, w) of the forget images (k, 3, h, w).

    Two images, each moved by :func:`whole_pixels` or, half of them, by :func:`jitter`, are joined:
    half of the mixtures by mixup (Zhang et al. 2018) with a share in [least, 1 - least], half by
    CutMix (Yun et al. 2019) with a box whose sides are that share's root, at the least .3 and at
    the most .8 of the image's. Such images lie near the data. Half of what they are made of is as
    sharp, since it moves by whole pixels: a network that is held on interpolated images alone
    learns to forget what is sharp. A few images give any number of mixtures, so they cannot be
    memorised as fixed probes are. The larger ``least``, the further they are from views of a single
    image. With ``labels`` (k,) half of the mixtures are of two images of one class, which lie near
    that class. Draws come from the CPU generator, so a seed means the same on every device; labels
    on the CPU spare waiting for one.

    >>> x = torch.rand(3, 3, 8, 8)
    >>> mixed(x, 5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    one = _draw(len(images), count, generator)
    first = _moved(images, one, generator)
    other = _draw(len(images), count, generator)
    if labels is not None:
        mates = _mates(labels.cpu(), one, generator)
        other = torch.where(torch.rand(count, generator=generator) < 0.5, mates, other)
    second = _moved(images, other, generator)
    height, width = images.shape[2:]
    share = torch.rand(count, 1, 1, 1, generator=generator) * (1 - 2 * least) + least
    low, high = max(0.3, least**0.5), min(0.8, (1 - least) ** 0.5)
    sides = low + (high - low) * torch.rand(count, 2, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (1 - sides)
    use_box = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).to(share)
    share, sides, corners, use_box = (
        to_device(part, images.device) for part in (share, sides, corners, use_box)
    )
    box = _boxes(height, width, sides, corners)
    weight = (use_box * box + (1 - use_box) * share).to(images)
    return torch.lerp(first, second, weight)


def _moved(images: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
    """``images[indices]``, each moved by whole pixels or by parts of one, at random."""
    sharp = to_device(torch.rand(len(indices), 1, 1, 1, generator=generator) < 0.5, images.device)
    whole = whole_pixels(images[to_device(indices, images.device)], generator)
    return torch.where(sharp, whole, jitter(images, indices, generator))


def _mates(labels: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """For each index in ``chosen`` (n,), one of an image with the same label, at random."""
    alike = labels[chosen][:, None] == labels[None]
    keys = torch.rand(alike.shape, generator=generator)
    return torch.where(alike, keys, -1.0).argmax(dim=1)


def jitter(images: Tensor, indices: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, move and scale ``images[indices]`` at random: (n, 3, h, w), edges reflected."""
    count = len(indices)
    flip = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
    scale = 1 + 0.2 * (torch.rand(count, generator=generator) - 0.5)
    move = 0.5 * (torch.rand(count, 2, generator=generator) - 0.5)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = flip * scale
    theta[:, 1, 1] = scale
    theta[:, :, 2] = move
    chosen = images[to_device(indices, images.device)]
    if not count:
        return chosen
    theta = to_device(theta, images.device).to(images)
    grid = F.affine_grid(theta, list(chosen.shape), align_corners=False)
    return F.grid_sample(chosen, grid, padding_mode="reflection", align_corners=False)


def flip_and_crop(
    images: Tensor, indices: Tensor, generator: torch.Generator, *, flip: bool = True
) -> Tensor:
    """The usual augmentation of CIFAR images: ``images[indices]``, half of them mirrored, moved.

    Each is moved by up to an eighth of its side (4 pixels of 32) in either direction; what
    appears at the edge is black. Without ``flip`` none is mirrored. Draws come from the CPU
    generator.

    >>> x = torch.rand(2, 3, 8, 8)
    >>> flip_and_crop(x, torch.tensor([1, 0, 1]), torch.Generator().manual_seed(0)).shape
    torch.Size([3, 3, 8, 8])
    """
    count, (height, width) = len(indices), images.shape[2:]
    pad = min(height, width) // 8
    mirrored = torch.zeros(count, dtype=torch.bool)
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
    corners = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)
    made = []
    for image, mirror, (top, left) in zip(
        images[indices.to(images.device)], mirrored.tolist(), corners.tolist(), strict=True
    ):
        framed = F.pad(image.flip(2) if mirror else image, (pad, pad, pad, pad))
        made.append(framed[:, top : top + height, left : left + width])
    return torch.stack(made)


def whole_pixels(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, 3, h, w), half of them mirrored, each moved by whole pixels, edges reflected.

    By one to an eighth of the shorter side, both across and down. Draws come from the CPU
    generator.

    >>> x = torch.rand(5, 3, 8, 8)
    >>> whole_pixels(x, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    count, (height, width) = len(images), images.shape[2:]
    reach = max(1, min(height, width) // 8)
    mirrored = to_device(torch.rand(count, generator=generator) < 0.5, images.device)
    far = torch.randint(1, reach + 1, (count, 2), generator=generator)
    back = torch.randint(0, 2, (count, 2), generator=generator) * 2 - 1
    start = to_device(reach + far * back, images.device)
    turned = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    framed = F.pad(turned, (reach,) * 4, mode="reflect")
    rows = start[:, :1] + torch.arange(height, device=images.device)
    columns = start[:, 1:] + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    moved = framed[each, :, rows[:, :, None], columns[:, None, :]]  # (n, h, w, 3)
    return moved.permute(0, 3, 1, 2).contiguous()


def rotate_recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, 3, h, w) rotated by 90, 180 or 270 degrees, their colours permuted.

    They keep the edges, textures and light of an image without being copies of it. Images that
    are not square are rotated by 180 degrees. Draws come from the CPU generator.

    >>> rotate_recolour(torch.rand(5, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    count, _, height, width = images.shape
    order = torch.rand(count, 3, generator=generator).argsort(dim=1)[:, :, None, None]
    quarters = torch.randint(1, 4, (count,), generator=generator)
    if height != width:
        quarters = torch.full_like(quarters, 2)
    recoloured = images.gather(1, to_device(order, images.device).expand_as(images))
    made = recoloured
    for turn in quarters.unique().tolist():
        chosen = to_device(quarters == turn, images.device)[:, None, None, None]
        made = torch.where(chosen, recoloured.rot90(turn, (2, 3)), made)
    return made


def _draw(size: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, size, (count,), generator=generator)


def _boxes(height: int, width: int, sides: Tensor, corners: Tensor) -> Tensor:
    """Masks (n, 1, h, w) of one box each: sides and corners (n, 2) are shares of the image's."""
    rows = (torch.arange(height, device=sides.device) + 0.5) / height
    columns = (torch.arange(width, device=sides.device) + 0.5) / width
    inside_rows = (rows >= corners[:, :1]) & (rows < corners[:, :1] + sides[:, :1])
    inside_columns = (columns >= corners[:, 1:]) & (columns < corners[:, 1:] + sides[:, 1:])
    return (inside_rows[:, :, None] & inside_columns[:, None, :]).float()[:, None]
