"""What the golden tests share."""

import pytest

from stakes import Classifier


@pytest.fixture
def network(trained: Classifier) -> Classifier:
    """A tiny trained network with BatchNorm, in double precision: small steps stay exact."""
    return trained.copy().double()
