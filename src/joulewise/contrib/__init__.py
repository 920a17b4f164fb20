"""Methods for few: built on the core, never imported by it.

full_covariance   prediction by full means and covariances, for small networks
"""

from joulewise.contrib.full_covariance import FullCovariance as FullCovariance
from joulewise.prediction import register_method

__all__ = ["FullCovariance"]

register_method("moments", FullCovariance)
