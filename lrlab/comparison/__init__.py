"""Compare several sweeps: what differs, lr by lr, the best against the best.

``reading`` judges each sweep, ``differences`` and ``by_lr`` compare, ``together`` joins their
tables for figures, and ``words`` writes the text.

May be imported by ``report`` and the verb ``compare``. It imports ``verdicts`` and those below it.
"""
