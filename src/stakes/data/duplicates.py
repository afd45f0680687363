"""Near-duplicates: the same image saved again, resized, mirrored, or slightly cropped.

Two images are compared by what is left of them at 32 x 32 pixels, in two steps. The first is
cheap: their means over 8 x 8 cells, or those of a window of one of them (its sides at least 0.9 of
the image's, in nine places), plain or mirrored, correlate. The second looks closer, at 16 x 16
cells, with the window moved and scaled a little: the pixels differ by little, and their changes
from cell to cell correlate. Plain surfaces have no such changes and are known by their pixels
alone, and so are images below 24 pixels, which hold too little to tell copies from lookalikes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stakes.data.digests import pixel_digests
from stakes.data.images import Images, batches
from stakes.progress import Progress, silent

SIDE, CELLS, FINE_CELLS = 32, 8, 16
SHARES = (1.0, 0.95, 0.9)  # sides of the windows
COARSE = 0.95  # correlation of the cells from which an image is looked at closely
PIXELS = 0.06  # root mean square difference of the pixels, in [0, 1], at most
DISTANCE = 0.15  # 1 - correlation of the changes from cell to cell, at most
LEAST_SIDE = 24  # pixels
FLAT = 1e-3  # standard deviation below which an image is a plain surface
CHUNK = 1024  # images compared at a time

Window = tuple[float, float, float]
"""Share of the sides, and distance from the top and from the left, in sides."""


@dataclass(frozen=True)
class Pair:
    """An image that was found again.

    Attributes:
        of: its place among the images that were looked for.
        among: the place where it was found.
        distance: how far the two differ, from 0 to ``DISTANCE``.
        exact: whether their pixels are the same.
    """

    of: int
    among: int
    distance: float
    exact: bool = False


def near_duplicates(
    of: Tensor, among: Images, *, batch_size: int = 256, progress: Progress = silent
) -> list[Pair]:
    """Find images again in a set, each of whose images is decoded once.

    Args:
        of: (k, 3, h, w) in [0, 1].
        among: the set; its images may have another size.
        batch_size: images decoded, and held, at a time.
        progress: called with phase, images done, images in all and a note.

    Returns:
        Of each image of the set that is one of ``of``, or nearly, the nearest pair.

    >>> images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> from stakes.data.images import ImageArray
    >>> among = ImageArray((images * 255).round().to(torch.uint8), [0] * 5)
    >>> [(pair.of, pair.among, pair.exact) for pair in near_duplicates(images[3:].flip(3), among)]
    [(0, 3, False), (1, 4, False)]
    """
    finder, found, done = Finder(of), list[Pair](), 0
    for images, _ in batches(among, batch_size=batch_size):
        found += finder.search(images, range(done, done + len(images)))
        done += len(images)
        progress("looking for duplicates", done, len(among))
    return found


class Finder:
    """Finds images again among others, given a batch at a time.

    On CIFAR-10, 256 random training images were found, each of them, as JPEG of quality 90 and 75,
    at half, two thirds and one and a half times their size, mirrored, cropped by 2 or 3 of 32
    pixels, and cropped by 2 and saved as JPEG of quality 75, at distances up to 0.124. Of the
    1,999,000 pairs of 2,000 random training images none is closer than 0.19.

    Args:
        images: (k, 3, h, w) in [0, 1], to be found.
        near: whether near-duplicates count; else the same pixels alone.
    """

    def __init__(self, images: Tensor, *, near: bool = True) -> None:
        images = images.detach().cpu()
        self._exact: dict[str, int] = {}
        for place, digest in enumerate(pixel_digests(images)):
            self._exact.setdefault(digest, place)
        self._near = near and min(images.shape[2:]) >= LEAST_SIDE
        if self._near:
            self._thumbs = torch.stack([plain := _thumbnails(images), plain.flip(3)])
            self._cells = torch.stack([_cells(side, WINDOWS) for side in self._thumbs])

    def search(self, images: Tensor, places: Sequence[int]) -> list[Pair]:
        """The nearest pair of each of ``images`` (n, 3, h, w) that is found, by its place."""
        images = images.detach().cpu()
        exact = [self._exact.get(digest) for digest in pixel_digests(images)]
        pairs = {
            at: Pair(of, places[at], 0.0, exact=True)
            for at, of in enumerate(exact)
            if of is not None
        }
        if self._near and min(images.shape[2:]) >= LEAST_SIDE:
            for of, at, distance in self._nearly(_thumbnails(images)):
                if at not in pairs or distance < pairs[at].distance:
                    pairs[at] = Pair(of, places[at], distance)
        return [pairs[at] for at in sorted(pairs)]

    def _nearly(self, thumbs: Tensor) -> Iterator[tuple[int, int, float]]:
        """Places in both sets, and distances, of the images that hold closer looks."""
        theirs = _cells(thumbs, WINDOWS)
        for start in range(0, self._thumbs.shape[1], CHUNK):
            own = self._cells[:, :, start : start + CHUNK]
            for of, at in (_best(own, theirs) > COARSE).nonzero().tolist():
                mirrored, swapped, window = _way(own[:, :, of], theirs[:, at])
                one, other = self._thumbs[mirrored, start + of], thumbs[at]
                pair = (other, one) if swapped else (one, other)
                distance = _closely(*pair, WINDOWS[window])
                if distance is not None:
                    yield start + of, at, distance


def _best(own: Tensor, theirs: Tensor) -> Tensor:
    """The best correlation (k, n) of the cells over windows of either, plain or mirrored.

    Args:
        own: (2, windows, k, d) cells, plain and mirrored.
        theirs: (windows, n, d) cells.
    """
    best = torch.full((own.shape[2], theirs.shape[1]), -1.0)
    for side in own:
        for window in range(len(theirs)):
            torch.maximum(best, side[window] @ theirs[0].T, out=best)
            torch.maximum(best, side[0] @ theirs[window].T, out=best)
    return best


def _way(own: Tensor, theirs: Tensor) -> tuple[int, int, int]:
    """Of two images' cells, (2, windows, d) and (windows, d): how they correlate best.

    Returns:
        Whether the one is mirrored, whether the window is the other's, and which window.
    """
    scores = torch.stack([own @ theirs[0], own[:, 0] @ theirs.T], 1)
    mirrored, rest = divmod(int(scores.argmax()), 2 * len(theirs))
    return mirrored, *divmod(rest, len(theirs))


def _closely(cut: Tensor, whole: Tensor, window: Window) -> float | None:
    """The distance between a window of an image and another image; None where they differ."""
    rows, columns = _weights(_around(window), FINE_CELLS)
    shown = torch.einsum("vah,chw,vbw->vcab", rows, cut, columns)
    other = F.avg_pool2d(whole, SIDE // FINE_CELLS)
    apart = (shown - other).square().flatten(1).mean(1).sqrt()
    alike = _changes(shown) @ _changes(other[None])[0]
    distance = 1 - alike.masked_fill(apart > PIXELS, -1.0).max()
    return float(distance.clamp_min(0)) if distance <= DISTANCE else None


def _changes(cells: Tensor) -> Tensor:
    """Unit vectors of the changes from cell to cell, (n, d), of (n, 3, s, s)."""
    across, down = cells.diff(dim=3).flatten(1), cells.diff(dim=2).flatten(1)
    return F.normalize(torch.cat([across, down], 1), dim=1)


def _thumbnails(images: Tensor) -> Tensor:
    """Images (n, 3, h, w) at 32 x 32 pixels."""
    return F.interpolate(images.float(), (SIDE, SIDE), mode="area")


def _cells(thumbs: Tensor, windows: Sequence[Window]) -> Tensor:
    """Unit vectors (windows, n, d) of the cells of each window; 0 for plain surfaces."""
    rows, columns = _weights(windows, CELLS)
    cells = torch.einsum("vah,nchw,vbw->vncab", rows, thumbs, columns).flatten(2)
    cells = cells - cells.mean(2, keepdim=True)
    spread = cells.square().mean(2, keepdim=True).sqrt()
    return F.normalize(cells, dim=2) * (spread > FLAT)


def _weights(windows: Iterable[Window], cells: int) -> tuple[Tensor, Tensor]:
    """What each pixel of a side counts in each cell of a window, (windows, cells, side), twice."""
    share, top, left = torch.tensor(list(windows)).T
    edges = torch.arange(cells + 1) / cells
    pixel = torch.arange(SIDE)

    def along(start: Tensor) -> Tensor:
        ends = SIDE * (start[:, None] + share[:, None] * edges)
        first, last = ends[:, :-1, None], ends[:, 1:, None]
        covered = (torch.minimum(last, pixel + 1) - torch.maximum(first, pixel)).clamp_min(0)
        return covered / covered.sum(2, keepdim=True)

    return along(top), along(left)


def _grid() -> list[Window]:
    """The whole image, and windows of each smaller size at nine places."""
    places = [(down / 2, right / 2) for down in range(3) for right in range(3)]
    smaller = [(s, (1 - s) * down, (1 - s) * right) for s in SHARES[1:] for down, right in places]
    return [(1.0, 0.0, 0.0), *smaller]


def _around(window: Window) -> list[Window]:
    """A window, and windows that are moved and scaled a little, within the image."""
    share, top, left = window
    free = max(1 - share, 1e-6)
    found = [window]
    for size in (share - 0.025, share, min(1.0, share + 0.025)):
        for down in (-0.25, 0.0, 0.25):
            for right in (-0.25, 0.0, 0.25):
                place = [min(1.0, max(0.0, at)) for at in (top / free + down, left / free + right)]
                found.append((size, (1 - size) * place[0], (1 - size) * place[1]))
    return found


WINDOWS = _grid()
