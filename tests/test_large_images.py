"""Images of very many pixels are refused by their header, before memory is taken for them."""

import json
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import CLASSES
from stakes import ForgetSet, InputError
from stakes.data import decode
from stakes.data.images import ImageFiles

SIDE = 13_000


def huge(path: Path) -> None:
    """A black PNG of 13,000 x 13,000 pixels in 20 KB: one bit a pixel, written by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(SIDE * (1 + -(-SIDE // 8))))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def saved(path: Path, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size[::-1], 3), 90, np.uint8)).save(path)


@pytest.mark.slow
def test_13000_pixels_a_side_are_refused_without_their_memory(tmp_path):
    """In a process of its own: the most memory of a refused forget set, without and with it."""
    for name in ("small", "large"):
        saved(tmp_path / name / "red" / "1.png")
    (tmp_path / "small" / "red" / "2.png").write_bytes(b"")
    huge(tmp_path / "large" / "red" / "2.png")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    script = """
        import contextlib, io, json, resource
        from stakes.cli import commands

        def refused(folder):
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                code = commands.main([
                    "unlearn", "--model", "stakes:digits_cnn", "--weights", "random",
                    "--input-size", "8", "--classes", "classes.txt", "--forget", folder,
                    "--max-memory", "0.5", "--device", "cpu", "--out", "OUT",
                ])
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            return code, said.getvalue().splitlines()[-1], most

        print(json.dumps([refused("small"), refused("large")]))
    """
    made = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (_, _, before), (code, said, after) = json.loads(made.stdout)
    assert code == 2
    assert "red/2.png: 13000 x 13000 pixels take 1,934 MiB to decode" in said
    assert "raise --max-memory" in said
    assert after - before < 60  # MiB; decoded to one byte a pixel alone it takes 161


def test_a_limit_is_that_of_one_image(tmp_path):
    saved(tmp_path / "red" / "1.png", (20, 10))
    needed = 20 * 10 * decode.BYTES_A_PIXEL
    for read in (None, lambda image: torch.zeros(3, 4, 4)):
        options = {"size": 4, "read": read}
        assert len(ForgetSet.from_folder(tmp_path, CLASSES, max_bytes=needed, **options)) == 1
        with pytest.raises(InputError, match=r"1\.png: 20 x 10 pixels take .* make the image"):
            ForgetSet.from_folder(tmp_path, CLASSES, max_bytes=needed - 1, **options)


def test_data_to_score_on_has_a_limit_too(tmp_path, monkeypatch):
    saved(tmp_path / "1.png", (20, 10))
    monkeypatch.setattr(decode, "DECODING", 20 * 10 * decode.BYTES_A_PIXEL - 1)
    with pytest.raises(InputError, match="20 x 10 pixels"):
        ImageFiles([tmp_path / "1.png"], [0], 8).load([0])


def test_threads_share_the_memory(tmp_path, monkeypatch):
    """What does not fit beside others waits; what fits does not."""
    sizes = {"1": (20, 10), "2": (20, 10), "3": (10, 10), "4": (10, 10)}
    for name, size in sizes.items():
        saved(tmp_path / f"{name}.png", size)
    at_work, most, lock = [], [], threading.Lock()

    def read(image):
        with lock:
            at_work.append(image.width * image.height)
            most.append(sum(at_work))
        threading.Event().wait(0.05)
        with lock:
            at_work.remove(image.width * image.height)
        return torch.zeros(3, 4, 4)

    monkeypatch.setattr("stakes.data.images.THREADS", 4)
    paths = [tmp_path / f"{name}.png" for name in sizes]
    for room, together in ((400, {300, 400}), (200, {200}), (1, {200})):
        monkeypatch.setattr(decode, "ROOM", decode.Room(room * decode.BYTES_A_PIXEL))
        most.clear()
        ImageFiles(paths, [0] * 4, read=read).load(range(4))
        assert max(most) in together


def test_an_image_beyond_pillow_s_limit_is_to_be_made_smaller(tmp_path, monkeypatch):
    saved(tmp_path / "red" / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match=r"1\.png: more pixels than an image may have; make it"):
        ForgetSet.from_folder(tmp_path, ("red", "blue"))
