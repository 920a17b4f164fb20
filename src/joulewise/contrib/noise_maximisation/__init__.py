"""Layer-wise noise maximisation: one operating point per tensor, learned with the weights.

memory       the training memory whose points move as blocks end
sensitivity  derivatives of the loss with respect to a point, and their average over blocks
balance      moves of the points, and the price of energy that leads to a budget
"""

from joulewise.contrib.noise_maximisation.memory import NoiseMaximisation

__all__ = ["NoiseMaximisation"]
