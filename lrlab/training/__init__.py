"""Training: stacks of lanes, checkpoints, the pool."""
