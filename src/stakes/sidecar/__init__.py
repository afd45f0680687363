"""A sidecar: what may be kept of training data once the data is gone, and stands in for it."""

from stakes.sidecar.contents import Sidecar
from stakes.sidecar.make import make
from stakes.sidecar.membership import membership

__all__ = ["Sidecar", "make", "membership"]
