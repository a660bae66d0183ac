"""Handle the process itself: its output, signals, progress, and the arguments of a verb.

Every package may import it. It imports only ``errors`` and ``_version``.
"""
