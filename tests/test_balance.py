"""When the margin grows, and when the hold on the features is loosened."""

import math

import pytest
import torch

from stakes.training.adaptive import AdaptiveMargin, ViewsScale

K = 20


def show(balance: AdaptiveMargin, known: int, times: int = 1) -> None:
    """Let it see all images so many times, ``known`` of them with the true class ahead."""
    lead = torch.where(torch.arange(K) < known, 1.0, -1.0)
    for _ in range(times):
        balance.see(torch.arange(K), lead)


def margin(balance: AdaptiveMargin) -> float:
    """The margin of the image that stays known longest."""
    return float(balance.margin[0])


def numbers(balance: AdaptiveMargin) -> tuple[float, float, float]:
    return margin(balance), float(balance.feature_scale), float(balance.known)


def test_what_was_not_seen_yet_counts_as_known_and_what_was_as_it_was_last():
    balance = AdaptiveMargin(4, 0.3, patience=5)
    assert balance.known == 1
    balance.see(torch.tensor([0, 2]), torch.tensor([-1.0, 2.0]))
    assert balance.known == 0.75
    balance.see(torch.tensor([2, 3]), torch.tensor([-0.1, -2.0]))
    assert balance.known == 0.25
    balance.see(torch.tensor([0]), torch.tensor([math.nan]))
    assert balance.known == 0.5
    balance.see(torch.tensor([0, 1]), torch.tensor([0.0, -1.0]))  # a tie is no other class
    assert balance.known == 0.25


def test_the_margin_grows_by_a_quarter_where_few_stay_known_for_so_long():
    balance = AdaptiveMargin(K, 0.4, patience=3)
    show(balance, 1)
    show(balance, 1, times=2)
    assert margin(balance) == 0.4
    show(balance, 1)
    assert margin(balance) == pytest.approx(0.5)
    show(balance, 1, times=2)
    assert margin(balance) == pytest.approx(0.5)
    show(balance, 1)
    assert margin(balance) == pytest.approx(0.625)
    assert balance.feature_scale == 1


def test_the_feature_scale_is_halved_where_many_stay_known_for_twice_as_long():
    balance = AdaptiveMargin(K, 0.4, patience=3)
    show(balance, 10)
    show(balance, 10, times=5)
    assert balance.feature_scale == 1
    show(balance, 10)
    assert balance.feature_scale == 0.5
    show(balance, 10, times=5)
    assert balance.feature_scale == 0.5
    show(balance, 10)
    assert balance.feature_scale == 0.25
    assert margin(balance) == 0.4


def test_after_the_first_halving_the_others_come_sooner_while_none_is_forgotten():
    balance = AdaptiveMargin(K, 0.4, patience=4)
    found = []
    for _ in range(13):
        show(balance, K)
        found.append(float(balance.feature_scale))
    assert found == [1] * 7 + [0.5] * 2 + [0.25] * 2 + [0.125] * 2
    show(balance, K - 1)  # one is forgotten: from here, twice the patience
    show(balance, K - 1, times=7)
    assert balance.feature_scale == 0.125
    show(balance, K - 1)
    assert balance.feature_scale == 0.0625


def test_a_new_least_number_starts_the_waiting_again_and_a_worse_one_does_not():
    balance = AdaptiveMargin(K, 0.4, patience=1)
    for known in (12, 13, 11, 12, 10):
        show(balance, known)
    show(balance, 12)
    assert balance.feature_scale == 1
    show(balance, 12)
    assert balance.feature_scale == 0.5
    for known in (11, 10, 9, 8):  # measured from where it stood when it was halved
        show(balance, known)
    show(balance, 9)
    assert balance.feature_scale == 0.5


def test_as_long_as_all_is_forgotten_nothing_changes_and_then_it_waits_anew():
    balance = AdaptiveMargin(K, 0.4, patience=3)
    show(balance, 0, times=50)
    show(balance, 1, times=2)
    assert margin(balance) == 0.4
    show(balance, 0)
    show(balance, 1, times=2)
    assert margin(balance) == 0.4
    show(balance, 1)
    assert margin(balance) == pytest.approx(0.5)


def test_there_is_a_greatest_margin_and_a_least_feature_scale():
    balance = AdaptiveMargin(K, 0.4, patience=1)
    show(balance, 1, times=100)
    assert margin(balance) == 3.2
    show(balance, 2, times=100)
    assert balance.feature_scale == 1 / 16


def test_without_patience_both_stay():
    balance = AdaptiveMargin(K, 0.4, patience=0)
    show(balance, 1, times=200)
    show(balance, 10, times=200)
    assert numbers(balance)[:2] == (0.4, 1)


def test_the_lead_is_noted_and_not_held_on_to():
    balance = AdaptiveMargin(2, 0.4, patience=1)
    lead = torch.tensor([1.0, -1.0], requires_grad=True)
    balance.see(torch.arange(2), 2 * lead)
    with torch.no_grad():
        lead.neg_()
    assert balance.known == 0.5
    balance.see(torch.arange(2), 2 * lead)
    assert balance.known == 0.5


def test_a_margin_resumes_wherever_it_was_interrupted():
    def looks(balance: AdaptiveMargin, shares: list[int]) -> list[tuple[float, float, float]]:
        found = []
        for known in shares:
            part = torch.arange(K)[:: 1 + known % 2]  # of some only every other image is seen
            balance.see(part, torch.where(part < known, 1.0, -1.0))
            found.append(numbers(balance))
        return found

    shares = [10, 9, 9, 11, 9, 9, 1, 1, 2, 1, 1, 3, 0, 1, 1, 12, 12, 12, 12, 12]
    whole = looks(AdaptiveMargin(K, 0.4, patience=2), shares)
    assert len({look[:2] for look in whole}) > 3
    for cut in range(len(shares)):
        first, second = (AdaptiveMargin(K, 0.4, patience=2) for _ in range(2))
        start = looks(first, shares[:cut])
        second.load_state_dict(first.state_dict())
        assert start + looks(second, shares[cut:]) == whole


def scaled(scale: ViewsScale, shares: list[float]) -> list[float]:
    """The scale after each step in which this share of 40 copies is known."""
    found = []
    for share in shares:
        lead = torch.where(torch.arange(40) < round(40 * share), 1.0, -1.0)
        scale.see(lead)
        found.append(float(scale.value))
    return found


def test_the_views_scale_grows_where_too_many_copies_stay_known():
    scale = ViewsScale(0.05, patience=2)
    # The first two windows make progress; the third is hardly better than the second.
    assert scaled(scale, [0.9, 0.8, 0.5, 0.4, 0.45, 0.4]) == [1, 1, 1, 1, 1, 1.5]
    assert scaled(scale, [0.4] * 4) == [1.5, 2.25, 2.25, 3.375]
    assert scale.why == "copies stayed known"
    assert scaled(scale, [0.4] * 40)[-1] == 16


def test_the_views_scale_shrinks_where_fewer_copies_are_known_than_may_be():
    scale = ViewsScale(0.1, patience=3)
    assert scale.why == "as given"
    assert scaled(scale, [0.1, 0.0, 0.0]) == pytest.approx([1, 1, 1 / 1.5])
    assert scaled(scale, [0.075, 0.1, 0.075]) == pytest.approx([1 / 1.5] * 3)  # neither
    assert scaled(scale, [0.0] * 60)[-1] == 1 / 8
    assert scale.why == "copies were forgotten easily"


def test_a_tie_is_a_known_copy_and_half_of_what_is_allowed_is_not_few():
    scale = ViewsScale(0.5, patience=1)
    scale.see(torch.tensor([0.0, -1.0, -1.0, -1.0]))
    assert scale.value == 1
    scale.see(torch.tensor([-1.0, -1.0, -1.0, -1.0]))
    assert scale.value == pytest.approx(1 / 1.5)


def test_without_patience_the_views_scale_stays():
    assert set(scaled(ViewsScale(0.05, patience=0), [1.0] * 50)) == {1.0}


def test_a_views_scale_resumes_in_the_middle_of_a_window():
    shares = [0.9, 0.6, 0.6, 0.6, 0.0, 0.0, 0.1, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    whole = scaled(ViewsScale(0.1, patience=3), shares)
    for cut in range(len(shares)):
        first, second = ViewsScale(0.1, patience=3), ViewsScale(0.1, patience=3)
        start = scaled(first, shares[:cut])
        second.load_state_dict(first.state_dict())
        assert start + scaled(second, shares[cut:]) == whole
