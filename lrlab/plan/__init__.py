"""Turn a composed config into a run spec, and a spec into the objects that it names.

``compose`` makes a run's config, ``spec`` freezes it, ``build`` makes its network, loss, data and
schedule, and ``checks`` tries them once. ``notices`` warns, ``memory`` counts lanes.

May be imported by ``training``, ``study``, ``probes``, ``sweeping``, ``range_test``, ``api`` and
the verbs. It imports ``engine`` and those below it.
"""
