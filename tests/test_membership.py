"""Membership inference against slow, obvious versions, and on networks whose leaks are known."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stakes.evaluation.membership import answer_scores, auc_interval, learned_scores, separation


def logits_of(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def one_by_one(logits, labels):
    """Loss, entropy and modified entropy with Python's numbers, a class at a time."""
    rows = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        total = math.fsum(math.exp(v) for v in z)
        p = [math.exp(v) / total for v in z]
        loss = -math.log(p[y])
        entropy = -math.fsum(q * math.log(q) for q in p)
        others = math.fsum(q * math.log(1 - q) for i, q in enumerate(p) if i != y)
        rows.append([loss, entropy, (1 - p[y]) * loss - others])
    return np.array(rows)


def test_scores_against_a_slow_version():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 7, generator=generator)
    labels = torch.randint(7, (50,), generator=generator)
    assert answer_scores(logits, labels) == pytest.approx(one_by_one(logits, labels), rel=1e-9)


def test_modified_entropy_by_hand():
    logits = logits_of([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1]])
    modified = answer_scores(logits, torch.tensor([0, 0, 1]))[:, 2]
    by_hand = [
        0.5 * math.log(2) - 0.5 * math.log(0.75),
        -0.2 * math.log(0.8) - 0.2 * math.log(0.9),
        -0.9 * math.log(0.1) - 0.8 * math.log(0.2) - 0.1 * math.log(0.9),
    ]
    assert modified == pytest.approx(by_hand)


def test_every_image_is_scored_as_if_it_were_alone():
    logits = logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
    labels = torch.tensor([0, 2, 1])
    alone = [answer_scores(logits[i : i + 1], labels[i : i + 1])[0] for i in range(3)]
    assert answer_scores(logits, labels) == pytest.approx(np.array(alone))


def test_a_sure_wrong_answer_has_low_entropy_but_high_modified_entropy():
    scores = answer_scores(logits_of([[0.99, 0.005, 0.005]] * 2), torch.tensor([0, 1]))
    assert scores[0, 1] == scores[1, 1] < 0.1
    assert scores[0, 2] < 0.02
    assert scores[1, 2] > 5


def test_scores_of_extreme_answers_are_finite():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0]])
    scores = answer_scores(logits, torch.tensor([0, 0]))
    assert np.isfinite(scores).all()
    assert scores[0] == pytest.approx(0, abs=1e-12)
    assert (scores[1, [0, 2]] > 30).all()


def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half():
    rng = np.random.default_rng(0)
    members, unseen = rng.integers(0, 8, 30).astype(float), rng.integers(0, 6, 40).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in members for b in unseen]
    found = separation(members, unseen)
    assert found.auc == pytest.approx(sum(pairs) / len(pairs))
    assert (found.m, found.n) == (30, 40)
    assert found.found is found.unlikely is None  # 1 % of 40 is no image


def test_found_and_unlikely_are_counted_at_one_false_alarm_in_a_hundred():
    unseen = np.arange(200.0)  # two false alarms are allowed: 199 and 198, or 0 and 1
    members = np.array([500.0, 198.5, 197.5, 100.0, 1.5, 0.5, -3.0, 197.0])
    found = separation(members, unseen)
    assert found.found == pytest.approx(100 * 3 / 8)  # above 197
    assert found.unlikely == pytest.approx(100 * 3 / 8)  # below 2
    assert separation(unseen, unseen).found == pytest.approx(1)  # every score a tie
    assert separation(members + 1000, unseen)[:1] == (1.0,)
    assert separation(members - 1000, unseen)[:1] == (0.0,)


def test_a_hundred_unseen_images_are_enough_for_a_share_at_one_false_alarm_in_a_hundred():
    members = np.array([98.5, 97.5])
    assert separation(members, np.arange(99.0)).found is None
    found = separation(members, np.arange(100.0))  # one false alarm: 99
    assert (found.found, found.unlikely) == (50, 0)


def groups(shift, m=400, n=400, k=200, seed=0):
    """Scores of members, unseen and forget images; members' are lower by ``shift``."""
    rng = np.random.default_rng(seed)
    return (
        rng.gamma(2, size=(m, 3)) * (1 - shift),
        rng.gamma(2, size=(n, 3)),
        rng.gamma(2, size=(k, 3)) * (1 - shift),
    )


def test_where_nothing_differs_the_attack_finds_nothing():
    retained, unseen, forget = learned_scores(*groups(0.0))
    for members in (retained, forget):
        found = separation(members, unseen)
        assert found.auc == pytest.approx(0.5, abs=0.07)
        assert found.low < 0.5 < found.high


def test_a_leak_is_found_and_forget_images_are_judged_by_the_same_attack():
    retained, unseen, forget = learned_scores(*groups(0.7))
    assert separation(retained, unseen).auc > 0.9
    assert separation(forget, unseen).auc > 0.9
    _, unseen, unlearned = learned_scores(*groups(0.7)[:2], groups(-4.0)[2])
    found = separation(unlearned, unseen)
    assert found.auc < 0.1
    assert found.unlikely > 50 > found.found


def test_no_score_comes_from_an_attack_that_was_fitted_to_it():
    retained, unseen, forget = groups(0.3, m=50, n=50, k=4)
    first = learned_scores(retained, unseen, forget)
    moved = retained.copy()
    moved[7] *= 50  # of the first fold: fitted to by the attacks on all the others
    other = learned_scores(moved, unseen, forget)
    held_out = [i for i in range(10) if i != 7]
    assert np.array_equal(first[0][held_out], other[0][held_out])
    assert np.array_equal(first[1][:10], other[1][:10])
    assert not np.isclose(first[0][10:], other[0][10:]).any()
    again = learned_scores(retained, unseen, forget[::-1] * 3)
    assert np.array_equal(again[0], first[0])
    assert np.array_equal(again[1], first[1])


def test_the_score_of_a_forget_image_is_the_mean_of_five_attacks():
    retained, unseen, forget = groups(0.3, m=50, n=50, k=4)
    odds = []
    for fold in range(5):
        rest = np.arange(50) // 10 != fold
        shown = np.concatenate([retained[rest], unseen[rest]])
        mean, spread = shown.mean(0), shown.std(0)
        attack = LogisticRegression().fit((shown - mean) / spread, np.repeat([1, 0], 40))
        odds.append(((forget - mean) / spread) @ attack.coef_[0] + attack.intercept_[0])
    assert learned_scores(retained, unseen, forget)[2] == pytest.approx(np.mean(odds, axis=0))


def test_groups_of_unlike_size_weigh_the_same():
    retained, unseen, forget = learned_scores(*groups(0.0, m=500, n=50))
    assert abs(np.concatenate([retained, unseen, forget]).mean()) < 0.3  # else near log 10


@pytest.mark.parametrize(("auc", "m", "n"), [(0.8, 3, 9), (0.8, 9, 3), (0.35, 4, 6)])
def test_the_interval_against_a_slow_version(auc, m, n):
    inside = []
    for step in range(100_001):
        true = step / 100_000
        a = max(true, 1 - true)
        both = a / (2 - a)  # two members above an unseen image
        above = 2 * a * a / (1 + a)  # a member above two unseen images
        variance = (a * (1 - a) + (m - 1) * (both - a * a) + (n - 1) * (above - a * a)) / (m * n)
        if abs(auc - true) <= 1.96 * math.sqrt(variance):
            inside.append(true)
    assert auc_interval(auc, m, n) == pytest.approx((inside[0], inside[-1]), abs=6e-4)


def test_the_interval_holds_the_true_auc_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for shift in (0.0, 1.0, -2.0):
        true = 0.5 * (1 + math.erf(shift / 2))  # of two normal scores that are ``shift`` apart
        within = 0
        for _ in range(200):
            unseen = np.sort(rng.normal(size=500))
            auc = float(np.searchsorted(unseen, rng.normal(shift, size=16)).mean()) / 500
            low, high = auc_interval(auc, 16, 500)
            within += low <= true <= high
        assert within >= 180


@pytest.mark.parametrize("auc", [0.0, 0.1, 0.5, 0.73, 1.0])
def test_the_interval_turns_round_with_the_attack_and_shrinks_with_more_images(auc):
    low, high = auc_interval(auc, 16, 1000)
    assert 0 <= low <= auc <= high <= 1
    assert auc_interval(1 - auc, 16, 1000) == pytest.approx((1 - high, 1 - low), abs=1e-3)
    few, many = auc_interval(auc, 4, 1000), auc_interval(auc, 400, 1000)
    assert many[1] - many[0] < high - low < few[1] - few[0]
