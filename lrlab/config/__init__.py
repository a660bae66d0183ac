"""Turn words and files into a checked config: schema, overrides, search space, targets, trust.

``schema`` has the options, ``words/`` reads the command line, ``space`` says what is swept,
``checks`` judges values, ``targets`` finds the named classes, and ``trust`` guards saved configs.

May be imported by ``records`` and everything above it, in both wings. It imports ``process`` and
``errors``.
"""
