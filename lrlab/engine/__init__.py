"""Lanes of networks and what trains them: tensors only, no config and no file."""
