"""Read records and CSVs of curves as data frames.

May be imported by ``logs``, ``verdicts``, ``plots``, ``comparison``, ``report`` and, lazily, by
``sweeping``, ``api`` and the verbs. It imports ``records`` and those below it, and never torch.
"""
