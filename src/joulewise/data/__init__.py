"""Data: labelled samples, from disk or from users' code, checked once and read in batches.

dataset       splits and data sets, and scikit-learn's bundled digits
batches       batches of mappings, as language models take them
cifar         CIFAR-10 as binary records, pickles and Parquet
safe_pickle   restricted unpickling: plain values only, and no code is run
libraries     image data sets read by torchvision or Hugging Face datasets
loading       data sets by name, folder or function
"""

from joulewise.data.batches import Batches, check_entries
from joulewise.data.cifar import load_cifar10
from joulewise.data.dataset import Dataset, Split, load_digits
from joulewise.data.loading import load_data
from joulewise.data.safe_pickle import read_pickle

__all__ = [
    "Batches",
    "Dataset",
    "Split",
    "check_entries",
    "load_cifar10",
    "load_data",
    "load_digits",
    "read_pickle",
]
