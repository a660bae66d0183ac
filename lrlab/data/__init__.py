"""Turn a data set into tensors: MNIST and those like it, and the user's own.

`Dataset` and `torchvision_images` are named so in configs and records.

May be imported by ``networks``, ``losses``, ``engine`` and everything in the writing wing above
them. It imports ``records`` and those below it.

``lrlab/own_data.py`` says how to add a kind of data. A function of your own needs nothing here:
``data._target_=package.function`` returns a `Dataset`, a pair (x, y) or a dict of parts.
"""

from lrlab.data.dataset import Dataset
from lrlab.data.mnist_like import torchvision_images

__all__ = ["Dataset", "torchvision_images"]
