"""joulewise: how much energy can a neural network save on unreliable memory?"""

__version__ = "0.1.0"
