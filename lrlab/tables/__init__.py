"""Read records and other programs' logs as data frames.

May be imported by ``verdicts``, ``plots``, ``comparison``, ``report`` and, lazily, by ``sweeping``,
``api`` and the verbs. It imports ``records`` and those below it, and never torch.
"""
