"""Decide which runs a sweep has and who trains them: a study that workers share.

``queue`` is the way in: ``points`` lists the runs, ``claims`` says who trains which, and ``draws``
asks the sampler and the pruner. ``storage`` keeps it all in a ``journal`` or a ``database``.

May be imported by ``probes``, ``sweeping``, ``api`` and the verbs. It imports ``training`` and
those below it.
"""
