"""Measure with extra training: the branch test, and the loss along a step and in a plane.

``branches`` tests other step lengths at a run's end; ``landscape`` replays three runs, with
``paths``, ``along_a_step`` and ``surface``.

May be imported by ``sweeping``, ``api`` and the verbs. It imports ``training`` and those below it.
"""
