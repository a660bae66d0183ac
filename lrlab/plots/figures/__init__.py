"""Draw the figures, one file for each kind; ``lrlab.plots`` says how to add one."""
