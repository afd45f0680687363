"""Whose turn it is, by the clock."""

import pytest

from stakes.methods import StructGuard
from stakes.methods.structguard.cohorts import Cohorts
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task
from stakes.training.losses import feature_shift

PACE = 30


def starts(cohorts: Cohorts, steps: range) -> list[int]:
    """The steps at which more images have had their turn than before."""
    found, before = [], 0
    for step in steps:
        now = cohorts.started(step)
        if now > before:
            found.append(step)
        before = now
    return found


@pytest.mark.parametrize(("budget", "pace"), [(3000, PACE), (480, PACE), (160, 10), (8, 1)])
def test_by_the_clock_all_have_started_by_half_of_the_budget(budget, pace):
    cohorts = Cohorts(80, 8, max_steps=budget, pace=PACE)
    found = starts(cohorts, range(1, budget + 1))
    assert found == [1 + pace * turn for turn in range(8)]
    assert budget < 16 or found[-1] <= budget // 2
    assert cohorts.started(budget) == 80


def test_the_last_cohort_may_be_smaller():
    cohorts = Cohorts(9, 4, max_steps=3000, pace=1)
    assert [cohorts.started(step) for step in range(1, 6)] == [3, 5, 7, 9, 9]


@pytest.mark.parametrize(("criterion", "second"), [("exact", 16), ("views", 31), ("deep", 16)])
def test_images_of_the_second_cohort_are_pushed_later(
    criterion, second, classifier, forget, anchors
):
    stuck = {"lr": 1e-12, "precision": "float32", "probe_batch": 16, "max_steps": 200}
    method = StructGuard(criterion=criterion, cohorts=2, towards="second", patience=0, **stuck)
    history = method(classifier, forget, anchors=anchors, seed=0).history
    pushed = [row["term_deletion"] for row in history[1:]]
    changes = [step for step in range(2, 201) if abs(pushed[step - 1] - pushed[step - 2]) > 1e-3]
    assert changes == [second]


def test_images_that_wait_are_held_with_copies_of_them(classifier, forget, anchors, monkeypatch):
    held = []

    def noted(before, after):
        held.append(before)
        return feature_shift(before, after)

    monkeypatch.setattr("stakes.methods.structguard.objective.feature_shift", noted)
    settings = {"probes": "mixed", "cohorts": 2, "probe_batch": 16, "precision": "float32"}
    task = Task(classifier, forget, anchors)
    Objective(StructGuard(criterion="views", **settings), task).terms(1)
    waiting = classifier.features(task.forget.images[3:]).detach()
    assert len(held[0]) == 16 + 3 + 3 * 3  # three of six images wait, each with three copies
    nearest = (held[0][16:19, None] - waiting).norm(dim=2).amin(1)
    assert nearest.max() < 1e-3
