"""Turn a data set into tensors: MNIST and those like it, and the user's own.

`Dataset` and `torchvision_images` are named so in configs and records.

May be imported by ``networks``, ``losses``, ``engine`` and everything in the writing wing above
them. It imports ``records`` and those below it.

How to add a kind of data
-------------------------
A function of your own works already, with ``data._target_=package.function``: it returns a
`Dataset`, or a pair (x, y), or a dict of parts. For one that ships with lrlab:

1. Write a function in ``lrlab/own_data.py`` that returns ``make(parts, ...)``. A long reader is a
   file in ``own/``.
2. Give it a name on the command line with a file ``conf/data/NAME.yaml``.
3. Name it among lrlab's own readers in ``lrlab/config/known.py``, if it never runs what it reads.
4. Add a case to ``tests/test_own_data.py``.
"""

from lrlab.data.dataset import Dataset
from lrlab.data.mnist_like import torchvision_images

__all__ = ["Dataset", "torchvision_images"]
