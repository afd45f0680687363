"""Retained data never holds a forget image, whatever it is called there."""

import pytest
import torch

from conftest import CLASSES, blobs
from stakes import ForgetSet, InputError, NegGrad
from stakes.data import retain as retained
from stakes.data.digests import pixel_digests
from stakes.data.images import ImageArray
from stakes.data.retain import Subset, draw_without
from stakes.methods.finetune import FineTune


def sample(images, forget, samples=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return retained.retained(images, forget, samples, len(CLASSES), generator)


def digests(images):
    return pixel_digests(images.load(range(len(images))))


def test_forget_images_are_left_out_and_nothing_else(train_images, forget):
    rest = sample(train_images, forget)
    everything, forgotten = digests(train_images), set(forget.pixel_digests())
    assert sorted(digests(rest)) == sorted(d for d in everything if d not in forgotten)
    assert len(rest) == len(train_images) - len(forget)


def test_copies_under_other_names_and_labels_are_left_out():
    pixels, labels = blobs(12, 0)
    images = ImageArray(torch.cat([pixels, pixels[:2]]), torch.cat([labels, (labels[:2] + 1) % 4]))
    forget = ForgetSet.from_indices(images, [0])
    rest = sample(images, forget)
    assert len(rest) == 12  # image 0 and its copy, image 12, are gone
    assert forget.pixel_digests()[0] not in digests(rest)


def test_an_index_of_another_set_does_no_harm(train_images):
    elsewhere = ImageArray(*blobs(8, 9))
    forget = ForgetSet.from_indices(elsewhere, [0, 1])
    assert forget.indices == (0, 1)
    assert len(sample(train_images, forget)) == len(train_images)


def test_labels_stay_with_their_images(train_images, forget):
    rest = sample(train_images, forget, samples=50)
    truth = dict(zip(digests(train_images), train_images.labels.tolist(), strict=True))
    assert [truth[d] for d in digests(rest)] == rest.labels.tolist()


def test_a_sample_is_random_bounded_and_repeatable(train_images, forget):
    first, again, other = (sample(train_images, forget, 40, seed) for seed in (0, 0, 1))
    assert len(first) == len(other) == 40
    assert len(set(digests(first))) == 40
    assert digests(first) == digests(again)
    assert set(digests(first)) != set(digests(other))
    assert len(sample(train_images, forget, 10_000)) == len(train_images) - len(forget)


def test_a_large_sample_is_read_again_and_gives_the_same(train_images, forget, monkeypatch):
    held = sample(train_images, forget, 20)
    assert isinstance(held, ImageArray)
    monkeypatch.setattr(retained, "IN_MEMORY", 20 * 3 * 8 * 8 - 1)
    read = sample(train_images, forget, 20)
    assert isinstance(read, Subset)
    for indices in (range(20), [3, 3, 0], torch.tensor([19])):
        assert torch.equal(read.load(indices), held.load(indices))
    assert torch.equal(read.labels, held.labels)
    assert read.name(4) == train_images.name(int(read.indices[4]))


def test_what_cannot_be_used_is_refused(train_images, forget):
    few = ImageArray(*blobs(4, 0))
    with pytest.raises(InputError, match="every image"):
        sample(few, ForgetSet.from_indices(few, range(4)))
    wrong = ImageArray(blobs(4, 0)[0], [0, 1, 2, 4])
    with pytest.raises(InputError, match="labels 0 to 4: there are 4 classes"):
        sample(wrong, forget)
    large = ImageArray(torch.zeros(2, 3, 9, 9, dtype=torch.uint8), [0, 1])
    with pytest.raises(InputError, match="size"):
        sample(large, forget)


def test_draws_with_one_seed_agree_with_a_slow_version(train_images, forget):
    drawn = draw_without(train_images, forget, 30, torch.Generator().manual_seed(4)).places
    order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(4)).tolist()
    assert drawn == [i for i in order if i not in forget.indices][:30]


class Spy(FineTune):
    """Keeps what a method is given."""

    def unlearn(self, run):
        Spy.run = run
        return super().unlearn(run)


def test_a_method_is_given_the_sample_and_never_the_forget_set(classifier, forget, train_images):
    spy = Spy(retain_samples=60, max_steps=1)
    spy(classifier, forget, retain=train_images)
    assert len(Spy.run.retain) == 60
    assert not set(digests(Spy.run.retain)) & set(forget.pixel_digests())
    assert Spy.run.training_size == len(train_images)


def test_a_method_without_need_sees_none(classifier, forget, train_images):
    class Peeks(NegGrad):
        def unlearn(self, run):
            return run.retain

    with pytest.raises(RuntimeError, match="needs_retain = True"):
        Peeks()(classifier, forget, retain=train_images)


def test_a_method_in_need_is_refused_without(classifier, forget):
    with pytest.raises(InputError, match="Fine-tuning"):
        FineTune()(classifier, forget)
