"""Whether a run makes sense: what is refused before its steps, after them, and told at its end."""

from types import SimpleNamespace

import pytest
import torch

from stakes import ForgetSet, InputError
from stakes.runs.forgotten import NOTHING
from stakes.runs.sound import check_finite, check_recognised, incomplete


def mislabelled(forget: ForgetSet, count: int) -> ForgetSet:
    """The same images, the first of them under classes that the network does not give them."""
    labels = forget.labels.clone()
    labels[:count] = (labels[:count] + 1) % 4
    return ForgetSet(forget.images, labels, forget.names)


def part(forget: ForgetSet, places: list[int]) -> ForgetSet:
    return ForgetSet(
        forget.images[places], forget.labels[places], tuple(forget.names[i] for i in places)
    )


def test_half_of_the_images_have_to_be_recognised(classifier, forget):
    check_recognised(classifier, mislabelled(forget, 3))
    with pytest.raises(InputError, match="recognises only 2 of the 6 images to forget"):
        check_recognised(classifier, mislabelled(forget, 4))


def test_images_forgotten_before_count_only_where_they_are_recognised_again(classifier, forget):
    gone = NOTHING.after(part(forget, [0, 1, 2, 3]), "a", "b")
    check_recognised(classifier, mislabelled(forget, 4), gone)
    some = NOTHING.after(part(forget, [0, 1]), "a", "b")
    with pytest.raises(InputError, match="recognises only 1 of the 4 images to forget"):
        check_recognised(classifier, mislabelled(forget, 5), some)
    back = NOTHING.after(part(forget, [4, 5]), "a", "b")
    check_recognised(classifier, mislabelled(forget, 3), back)
    with pytest.raises(InputError, match="all of these 6 images, and it recognises none"):
        check_recognised(classifier, mislabelled(forget, 6), NOTHING.after(forget, "a", "b"))


def test_a_network_whose_weights_or_answers_are_not_finite_is_refused(classifier, forget):
    check_finite(SimpleNamespace(classifier=classifier, stop_reason="forgotten"), forget)
    for value, said in ((3e38, "its answers are not finite"), (torch.inf, r"weights such as .*")):
        with torch.no_grad():
            classifier.head.weight.fill_(value)
        with pytest.raises(InputError, match=rf"run failed \(diverged\): {said}"):
            check_finite(SimpleNamespace(classifier=classifier, stop_reason="diverged"), forget)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, False),
        ({"outcome": "complete", "n_recognised": 0}, True),
        ({"outcome": "budget"}, True),
        ({"n_recognised": 1}, True),
        ({"n_never_recognised": 3}, False),
        ({"n_never_recognised": 4}, True),
    ],
)
def test_a_run_is_incomplete_where_an_image_is_known_or_most_never_were(change, found):
    row = {"outcome": "forgotten", "n_recognised": 0, "n_never_recognised": 0, "k": 6}
    assert incomplete(row | change) is found
