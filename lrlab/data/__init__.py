"""A data set as tensors: MNIST and those like it, and users' own.

`Dataset` and `torchvision_images` are named so in configs and records.
"""

from lrlab.data.dataset import Dataset
from lrlab.data.mnist_like import torchvision_images

__all__ = ["Dataset", "torchvision_images"]
