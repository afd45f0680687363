"""A folder of very many images: what listing, choosing and scoring take.

    python benchmarks/folder.py FOLDER --count 200000    # the folder is made first, then removed

Images are 8 x 8 pixels in 1,000 classes. It prints seconds and the most memory of the process after
each part: listing and labelling, drawing and reading the images to score, scoring them.
"""

import argparse
import resource
import shutil
import struct
import time
import zlib
from pathlib import Path

import torch

from stakes import Classifier, ForgetSet, load_data
from stakes.evaluation.evaluate import evaluate, select
from stakes.progress import Terminal

SIDE, CLASSES, TESTED = 8, 1000, 0.02


def png(number: int) -> bytes:
    """An image of its own for each number."""
    generator = torch.Generator().manual_seed(number)
    rows = torch.randint(256, (SIDE, 3 * SIDE), generator=generator, dtype=torch.uint8)
    raw = b"".join(b"\0" + row.numpy().tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(raw, 1)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def make(folder: Path, count: int) -> None:
    for number in range(count):
        split = "test" if number % int(1 / TESTED) == 0 else "train"
        place = folder / split / f"class {number // int(1 / TESTED) % CLASSES:04}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(number))


class Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def tell(self, what: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{what}: {time.perf_counter() - self._last:.1f} s, {peak:,.0f} MiB", flush=True)
        self._last = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--samples", type=int, default=10_000)
    asked = parser.parse_args()
    clock = Clock()
    clock.tell("start")
    if not asked.folder.exists():
        make(asked.folder, asked.count)
        clock.tell(f"making {asked.count:,} files")
    data = load_data(asked.folder)
    clock.tell(f"listing {len(data.train) + len(data.test):,} images")
    forget = ForgetSet.random(data.train, 16, seed=0)
    clock.tell("drawing 16 images to forget")
    with Terminal() as progress:
        options = {"test": data.test, "retain": data.train, "eval_samples": asked.samples}
        chosen = select(forget, **options, progress=progress)
        clock.tell(f"drawing and reading {asked.samples:,} images to score of each set")
        network = Classifier.load(
            "stakes:digits_cnn", class_names=data.class_names, num_classes=CLASSES, input_size=SIDE
        )
        evaluate(
            network, network.copy(), forget, **options, selected=chosen, thumbnails=False,
            progress=progress,
        )  # fmt: skip
    clock.tell("scoring them before and after")
    shutil.rmtree(asked.folder)


if __name__ == "__main__":
    main()
