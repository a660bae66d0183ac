"""The words of a command line: how they are read and spelled, and what errors say of them."""
