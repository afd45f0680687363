"""Each view against a slow, obvious version."""

import numpy as np
import pytest
import torch
from PIL import Image

from stakes.data.views import (
    VIEWS,
    brightness,
    crop,
    gaussian_noise,
    jpeg,
    mirror,
    perturb_pixels,
    random_view,
    shift,
)
from stakes.rows import METRICS

pytestmark = pytest.mark.slow


def make_images(height: int = 9, width: int = 9, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=seeded())


def smooth(height: int, width: int) -> torch.Tensor:
    """Images without the finest detail, as those that JPEG is made for."""
    return torch.nn.functional.interpolate(make_images(3, 4), (height, width), mode="bilinear")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mirrored_by_hand():
    images = make_images(8, 9)
    [view] = mirror(images)
    for x in range(9):
        assert torch.equal(view[:, :, :, x], images[:, :, :, 8 - x])


@pytest.mark.parametrize(
    ("height", "width", "share", "pixels"),
    [(9, 9, 0.1, 1), (9, 12, 0.3, 3), (12, 9, 0.3, 3), (32, 32, 0.1, 3), (2, 3, 0.1, 1)],
)
def test_moved_by_hand(height, width, share, pixels):
    images = make_images(height, width)
    moves = [(0, pixels), (0, -pixels), (pixels, 0), (-pixels, 0)]  # right, left, down, up

    def reflected(i, size):  # the place that reflection at the edge puts at i
        return abs(i) if i < size else 2 * (size - 1) - i

    seen = shift(images, share)
    assert len(seen) == 4
    for view, (down, right) in zip(seen, moves, strict=True):
        for y in range(height):
            for x in range(width):
                source = images[:, :, reflected(y - down, height), reflected(x - right, width)]
                assert torch.equal(view[:, :, y, x], source)


def enlarged(part: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear interpolation between the centres of pixels, one pixel after another."""
    h, w = part.shape[2:]
    out = torch.empty(*part.shape[:2], height, width)
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            u = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, h - 1), min(left + 1, w - 1)
            upper = part[:, :, top, left] * (1 - u + left) + part[:, :, top, right] * (u - left)
            lower = part[:, :, low, left] * (1 - u + left) + part[:, :, low, right] * (u - left)
            out[:, :, y, x] = upper * (1 - v + top) + lower * (v - top)
    return out


@pytest.mark.parametrize(
    ("height", "width", "h", "w"), [(16, 16, 14, 14), (9, 12, 7, 10), (4, 3, 3, 2)]
)
def test_cropped_by_hand(height, width, h, w):
    images = make_images(height, width)
    down, right = height - h, width - w
    places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    for view, (top, left) in zip(crop(images), places, strict=True):
        part = images[:, :, top : top + h, left : left + w]
        torch.testing.assert_close(view, enlarged(part, height, width), atol=1e-5, rtol=0)


def test_noise_is_light_repeatable_and_stays_in_range():
    images = make_images(32, 32)
    [view], [again] = gaussian_noise(images), gaussian_noise(images)
    assert torch.equal(view, again)
    assert view.min() >= 0
    assert view.max() <= 1
    inner = (images > 0.2) & (images < 0.8)
    assert (view - images)[inner].std() == pytest.approx(0.03, rel=0.05)


def test_darker_and_brighter_by_hand():
    images = make_images()
    dark, bright = brightness(images)
    for image, low, high in zip(
        *(x.flatten().tolist() for x in (images, dark, bright)), strict=True
    ):
        assert low == pytest.approx(0.8 * image)
        assert high == pytest.approx(min(1.0, 1.25 * image))


@pytest.mark.parametrize("quality", [30, 75])
def test_compressed_is_what_a_jpeg_file_of_it_shows(quality, tmp_path):
    images = smooth(17, 24)
    [seen] = jpeg(images, quality)
    for image, view in zip(images, seen, strict=True):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "copy.jpg", quality=quality)
        shown = np.asarray(Image.open(tmp_path / "copy.jpg"), dtype=np.float32) / 255
        assert torch.equal(view, torch.from_numpy(shown).permute(2, 0, 1))
        assert 0.001 < (view - image).abs().mean() < 0.1


def test_what_is_scored_is_moved_by_a_tenth_and_saved_at_quality_75():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for seen, expected in (
        (VIEWS["forget_shift"](images), shift(images, 3 / 32)),
        (VIEWS["forget_jpeg"](images), jpeg(images, 75)),
    ):
        assert all(torch.equal(one, two) for one, two in zip(seen, expected, strict=True))


def test_a_lower_quality_is_further_from_the_image():
    images = smooth(16, 16)
    errors = [(jpeg(images, q)[0] - images).abs().mean().item() for q in (95, 75, 30)]
    assert errors == sorted(errors)
    assert errors[0] < errors[2] / 2


def test_what_is_scored_leaves_its_input_and_the_global_generator_alone():
    images = make_images()
    before, state = images.clone(), torch.random.get_rng_state()
    for view in VIEWS.values():
        for seen in view(images):
            assert seen.shape == images.shape
            assert seen.dtype == images.dtype
            assert not torch.equal(seen, images)
            assert seen.min() >= 0
            assert seen.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_table_says_what_every_view_means():
    assert VIEWS.keys() <= METRICS.keys()
    assert len(VIEWS) == 6
    assert "six" in METRICS["forget_views"].meaning


def test_drawn_views_come_from_the_generator_alone_and_are_never_those_that_are_scored():
    images = make_images(12, 9, count=16)
    before, state = images.clone(), torch.random.get_rng_state()
    first, again, other = (
        random_view(images, seeded(1)),
        random_view(images, seeded(1)),
        random_view(images, seeded(2)),
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert min(first.min(), other.min()) >= 0
    assert max(first.max(), other.max()) <= 1
    scored = [view for kind in VIEWS.values() for view in kind(images)]
    for i in range(len(images)):
        assert not torch.equal(first[i], other[i])
        assert not any(torch.equal(first[i], view[i]) for view in scored)
    generator = seeded(3)
    assert not torch.equal(random_view(images, generator), random_view(images, generator))


def test_half_of_the_altered_images_are_noisy_or_lit_or_compressed_each_by_itself():
    image = 0.3 + 0.4 * make_images(16, 16, count=1)  # so that nothing is clipped
    by_quality = {q: jpeg(image, q)[0][0] for q in range(30, 96)}
    plain, factors, qualities, sigmas = 0, [], [], []
    for view in perturb_pixels(image.expand(600, -1, -1, -1), seeded()):
        ratio = view / image[0]
        if torch.equal(view, image[0]):
            plain += 1
        elif ratio.std() < 1e-5:
            factors.append(ratio.mean().item())
        elif same := [q for q, found in by_quality.items() if torch.equal(found, view)]:
            qualities.append(same[0])
        else:
            sigmas.append((view - image[0]).std().item())
    assert 250 < plain < 350
    for found in (factors, qualities, sigmas):
        assert 70 < len(found) < 130
    assert 2 / 3 - 1e-4 < min(factors) < 0.7
    assert 1.3 < max(factors) < 4 / 3 + 1e-4
    assert min(sigmas) < 0.005
    assert 0.055 < max(sigmas) < 0.065
    assert min(qualities) < 35
    assert max(qualities) > 90
    assert len(set(qualities)) > 30


def test_drawn_views_are_altered():
    flat = torch.full((400, 3, 8, 8), 0.6)  # in which no move shows
    for made in (random_view(flat, seeded()), perturb_pixels(flat, seeded())):
        changed = ((made - flat).abs() > 1e-4).flatten(1).any(1)
        assert 110 < int(changed.sum()) < 220  # JPEG leaves most of it as it is


def test_drawn_views_are_mirrored_about_half_the_time_and_moved_by_up_to_an_eighth():
    ramp = torch.linspace(0.2, 0.4, 64).expand(1, 3, 64, 64)
    seen = random_view(ramp.expand(200, -1, -1, -1), seeded())
    rise = (seen[:, 0, 32, 40:48].mean(1) - seen[:, 0, 32, 16:24].mean(1)).sign()
    assert 70 < (rise < 0).sum() < 130
    dot = torch.zeros(1, 3, 65, 65)
    dot[:, :, 31:34, 31:34] = 0.6
    for view in random_view(dot.expand(60, -1, -1, -1), seeded()):
        light = (view[0] > 0.3).nonzero().float()
        assert ((light.mean(0) - 32).abs() <= 65 / 8 + 2).all()
