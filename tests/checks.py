"""What a check of a network found, made by hand."""

import torch

from stakes.training.monitor import Check


def found(forgotten: bool, drift: float = 0.0) -> Check:
    """A check of one image that is forgotten or not, at this structural drift."""
    lead = torch.tensor([-1.0 if forgotten else 1.0])
    return Check(lead, lead, drift, view_margins=lead[:0], view_leads=lead[:0], needed=1.0)
