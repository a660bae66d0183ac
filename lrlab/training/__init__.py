"""Train runs: the one loop, stacks of runs, their checkpoints, and the pool that schedules them.

``loop`` advances lanes. ``train`` takes a ``stack`` of runs through an epoch, ``recording`` writes
its rows, and ``pool`` does so for all stacks.

May be imported by ``study``, ``probes``, ``sweeping``, ``range_test``, ``api`` and the verbs. It
imports ``plan``, ``engine`` and those below them.
"""
