"""Data: labelled samples from disk or from user code, checked once and handed out in batches.

dataset       a split, a data set, and what both must fulfil
nested        tensors in tuples, lists and mappings
digits        scikit-learn's bundled 8 x 8 digits
cifar10       CIFAR-10 in the layouts that users have: binary, pickles, Parquet
idx           MNIST and everything else in its IDX format
safe_pickle   a pickle of plain values, read without running anything it asks for
loading       one word, folder or function name to a data set
"""

from joulewise.data.cifar10 import load_cifar10 as load_cifar10
from joulewise.data.dataset import Dataset as Dataset
from joulewise.data.dataset import Split as Split
from joulewise.data.digits import load_digits as load_digits
from joulewise.data.idx import load_idx as load_idx
from joulewise.data.loading import load_data as load_data
from joulewise.data.safe_pickle import read_pickle as read_pickle

__all__ = [
    "Dataset",
    "Split",
    "load_cifar10",
    "load_data",
    "load_digits",
    "load_idx",
    "read_pickle",
]
