"""lrlab: what does the learning rate do to this training run, and which one should I use?"""

__version__ = "0.1.0"
