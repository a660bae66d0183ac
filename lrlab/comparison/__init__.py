"""Compare several sweeps: what differs, lr by lr, the best against the best.

``reading`` judges each sweep, ``differences``, ``by_lr`` and ``best`` compare, ``together`` joins
their tables for figures, and ``words`` prints.

May be imported by ``report`` and the verb ``compare``. It imports ``verdicts`` and those below it.
"""
