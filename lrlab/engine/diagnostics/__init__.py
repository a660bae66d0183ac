"""Measure the steps while training, without changing a bit of the training.

All lanes of a stack are measured at once, on copies of their parameters. By default measuring has a
budget: at any step it has cost at most a quarter of the steps so far. Costs are counted in steps,
by a formula, and never timed. So the measured steps depend only on the run's settings, and a record
is the same on every machine.

``cadence`` names the steps, ``meter`` measures there with ``curvature`` and ``vectors``, and
``quantities`` turns a measurement into the recorded numbers. A new quantity is a column of ``RAW``
that ``Meter.after`` fills and ``quantities.table`` hands on.
"""
