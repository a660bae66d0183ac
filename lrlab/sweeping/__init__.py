"""Run a whole sweep: open it, work on it, end it.

``sweep`` starts Hydra, ``opening`` makes folder and study, ``working`` and ``launch`` train,
``ending`` writes the results, and ``resuming`` finds the command to go on.

May be imported by ``api`` and the verbs. It imports the writing wing below it and alone, lazily,
the reading wing: to print the table and to draw.
"""
