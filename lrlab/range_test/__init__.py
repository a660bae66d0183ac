"""Run the range test: find's inputs, training, reading, files and figure.

``command`` is the verb's work, ``both`` trains the ramp and the constant lrs, ``ramp`` and
``constants`` read them, and ``words`` and ``figure`` show the result. ``loops`` takes what a user's
own loop has.

May be imported by ``find`` and ``api``. It imports the writing wing below ``sweeping``.
"""
