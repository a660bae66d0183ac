"""Judge runs: from data frames to outcomes, evidence and a recommended lr.

``loading`` reads, ``evidence`` measures, ``judging`` gives each run its outcome, ``recommend``
answers which lr to use, and ``printed/`` turns both into words. ``end_losses`` judges tables
without curves.

May be imported by ``plots``, ``comparison``, ``report`` and, lazily, by ``sweeping``, ``api`` and
the verbs. It imports ``logs``, ``tables``, ``records`` and those below them, and never torch.

How to add an outcome
---------------------
1. Write its word into ``outcomes.Outcome``, at its place in the order; it may belong in ``FAILED``.
2. Return it from its rule in ``judging._outcome``; a threshold goes to ``records.thresholds``.
3. Give it a colour and a shape in ``plots.style``.
4. Add a curve that has it to ``tests/test_verdicts.py``.
"""
