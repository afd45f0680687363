"""Decoding single files, and choosing the side of a set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stakes.data.decode import common_side, decode
from stakes.errors import InputError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> str:
    image.save(path, **options)
    return str(path)


def test_rgb_png_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = saved(Image.fromarray(NOISE), tmp_path / "a.png")
    assert np.array_equal(decode(path, 12), NOISE)


def test_grey_is_tripled(tmp_path: Path) -> None:
    path = saved(Image.fromarray(NOISE[..., 0]), tmp_path / "a.png")
    assert np.array_equal(decode(path, 12), NOISE[..., [0, 0, 0]])


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = NOISE[..., 0] > 127
    path = saved(Image.fromarray(bits), tmp_path / "a.png")
    assert np.array_equal(decode(path, 12)[..., 1], bits * 255)


@pytest.mark.parametrize("end", ["png", "tif", "pgm"])
def test_sixteen_bits_keep_their_upper_half(tmp_path: Path, end: str) -> None:
    deep = RNG.integers(0, 65536, (12, 12), dtype=np.uint16)
    path = saved(Image.fromarray(deep), tmp_path / f"a.{end}")
    assert np.array_equal(decode(path, 12)[..., 2], deep >> 8)


def test_palette_and_alpha_become_their_colours(tmp_path: Path, recwarn: object) -> None:
    palette = Image.fromarray(NOISE).quantize(64)
    want = np.asarray(palette.convert("RGB"))
    plain = saved(palette, tmp_path / "p.png")
    clear = saved(palette, tmp_path / "t.png", transparency=bytes(range(64)))
    gif = saved(palette, tmp_path / "p.gif")
    alpha = np.dstack([NOISE, RNG.integers(0, 256, (12, 12), dtype=np.uint8)])
    rgba = saved(Image.fromarray(alpha), tmp_path / "a.png")
    for path in (plain, clear, gif):
        assert np.array_equal(decode(path, 12), want)
    assert np.array_equal(decode(rgba, 12), NOISE)
    assert not list(recwarn)  # type: ignore[call-overload]


def test_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
    pixel = decode(saved(red, tmp_path / "a.jpg"), 16)[8, 8].astype(int)
    assert np.abs(pixel - [200, 30, 30]).max() <= 6


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned a quarter clockwise
    path = saved(Image.fromarray(NOISE), tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(path, 12), np.rot90(NOISE, -1))


def test_larger_images_are_shrunk_and_cut_about_their_middle(tmp_path: Path) -> None:
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = [10, 200, 90]  # the middle square, and nothing else, has a colour
    out = decode(saved(Image.fromarray(wide), tmp_path / "a.png"), 10)
    assert out.shape == (10, 10, 3)
    inside = out[:, 2:-2]  # the filter reaches two pixels over the edge
    assert np.array_equal(inside, np.broadcast_to([10, 200, 90], inside.shape))
    assert np.array_equal(out, out[:, ::-1])


def test_shrinking_averages_instead_of_skipping(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    out = decode(saved(Image.fromarray(board.astype(np.uint8)), tmp_path / "a.png"), 8)
    assert np.abs(out.astype(int) - 127).max() <= 8


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged TIFF files
@pytest.mark.parametrize("end", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_no_truncated_image_passes_for_another(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"a.{end}"
    saved(Image.fromarray(NOISE), path)
    whole, want = path.read_bytes(), decode(str(path), 12)
    messages = []
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            assert np.array_equal(decode(str(path), 12), want)  # only padding was lost
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 0.8 * len(whole) / 7
    assert all(message.startswith(f"{path}: ") and "\n" not in message for message in messages)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    text, postscript, deep = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.tif"
    text.write_text("hello")
    postscript.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(deep)
    with pytest.raises(InputError, match=r"a\.png: no image in a known format"):
        decode(str(text), 4)
    with pytest.raises(InputError, match=r"b\.png: no image in a known format"):
        decode(str(postscript), 4)
    with pytest.raises(InputError, match=r"c\.tif: cannot be read .*floating-point"):
        decode(str(deep), 4)
    with pytest.raises(InputError, match=r"none\.png: no such image"):
        decode(str(tmp_path / "none.png"), 4)


@pytest.mark.parametrize(
    ("shapes", "size", "side"),
    [
        ([(32, 32)] * 3, 224, 32),  # small ones of one shape stay
        ([(32, 32)] * 3, None, 32),
        ([(300, 300)] * 3, 224, 224),
        ([(92, 112)] * 3, 224, 92),  # one shape, not square: cut, not enlarged
        ([(32, 32), (40, 40)], 224, 224),  # no native side to keep
        ([(50, 70), (60, 40)], None, 40),
    ],
)
def test_side_of_a_set(
    tmp_path: Path, shapes: list[tuple[int, int]], size: int | None, side: int
) -> None:
    paths = [saved(Image.new("L", shape), tmp_path / f"{i}.png") for i, shape in enumerate(shapes)]
    assert common_side(paths, size) == side
    assert common_side(paths[::-1], size) == side


def test_side_of_a_large_set_looks_at_both_ends(tmp_path: Path) -> None:
    small = saved(Image.new("L", (8, 8)), tmp_path / "s.png")
    large = saved(Image.new("L", (9, 9)), tmp_path / "l.png")
    assert common_side([small] * 1000, 64) == 8
    assert common_side([large] + [small] * 1000, 64) == 64
    assert common_side([small] * 1000 + [large], 64) == 64


def test_a_side_of_no_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"size 0: .*at least 1 pixel"):
        common_side([str(tmp_path)], 0)
