import math

import pytest
import torch

from stakes.report.run_folder import CUT_SHORT
from stakes.rows import Outcome
from stakes.training.loop import FORGOTTEN
from stakes.training.monitor import Check
from stakes.training.search import escalate


class Scripted:
    """A watch that sees one margin: what a network at this strength would show."""

    def __init__(self, margin):
        self.margin = margin
        self.strength = 0.0

    def change(self, strength):
        self.strength = strength

    def check(self, live):
        margins = torch.tensor([-1.0, self.margin(self.strength)])
        none = torch.empty(0)
        return Check(margins, margins, self.strength, none, none, needed=1.0)


def test_it_stops_at_the_weakest_that_is_enough(classifier):
    monitor, notes = Scripted(lambda s: 2.5 - s), []
    history, ending = escalate(
        classifier,
        monitor.change,
        [1.0, 2.0, 3.0, 4.0],
        monitor,
        progress=lambda phase, done, total, note="": notes.append((phase, done, total, note)),
    )
    assert ending == FORGOTTEN
    assert history == [
        {"step": 0, "forget_accuracy": 50, "drift": 0},
        {"step": 1, "strength": 1, "forget_accuracy": 50, "drift": 1},
        {"step": 2, "strength": 2, "forget_accuracy": 50, "drift": 2},
        {"step": 3, "strength": 3, "forget_accuracy": 0, "drift": 3},
    ]
    assert monitor.strength == 3.0
    assert notes[0] == ("unlearning", 1, 4, "50 % still recognised")
    assert len(notes) == 3


@pytest.mark.parametrize("margin", [1.0, 0.0, math.nan])
def test_the_end_of_the_range_is_a_limit_and_reads_as_one(classifier, margin):
    monitor = Scripted(lambda strength: margin)
    history, ending = escalate(classifier, monitor.change, [0.5, 1.0], monitor)
    assert ending.sentence == "limit: 2 strengths up to 1 tried before every image was forgotten"
    assert ending.outcome is Outcome.LIMIT
    assert ending.outcome in CUT_SHORT
    assert history[-1]["strength"] == monitor.strength == 1.0


def test_a_single_strength_is_all_that_is_prescribed(classifier):
    monitor = Scripted(lambda strength: 1.0)
    _, ending = escalate(classifier, monitor.change, [1e-6], monitor)
    assert ending.outcome is Outcome.COMPLETE
    assert (
        ending.sentence == "complete: its one strength, 1e-06, 50 % of the images still recognised"
    )
