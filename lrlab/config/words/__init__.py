"""Read and spell the words of a command line, and explain errors about them.

``arguments`` parses a command, ``flags`` and ``spelling`` prepare it for Hydra, ``keywords`` makes
one from Python, and ``messages`` and ``wishes`` write the errors.
"""
