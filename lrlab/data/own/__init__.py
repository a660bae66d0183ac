"""Check and convert a user's own data: arrays, tables, images.

``lrlab/own_data.py`` holds the readers that a config names, and calls this package.

``parts`` checks arrays of samples, ``split`` divides them into training and held-out samples, and
``float32`` finds what rounding would lose. ``csv_file`` reads a CSV as cells, ``tables`` makes
features and labels of them, and ``odd_columns`` finds columns that are no features. ``images``
reads image folders and torchvision's sets. ``from_python`` checks the ``data=`` of
``lrlab.run_sweep``.
"""
