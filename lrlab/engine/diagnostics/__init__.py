"""What the steps do, measured while training; no bit of the training is changed by it.

All lanes of a stack are measured at once, on copies of their parameters. By default measuring has
a budget: at any step it has cost at most a quarter of the steps so far. Costs are counted in steps,
by a formula, and never timed: which steps are measured depends on the run's settings alone, so that
a record is the same on every machine.

``cadence`` names the steps, ``meter`` measures there with ``curvature`` and ``vectors``, and
``quantities`` turns a measurement into what is recorded. A new quantity is a column of ``RAW`` that
``Meter.after`` fills and ``quantities.table`` hands on.
"""
