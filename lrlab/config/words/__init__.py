"""The words of a command line: how they are read, spelled for Hydra, and what errors say of them."""
