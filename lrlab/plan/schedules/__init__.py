"""Make learning rate schedules: step torch's own schedulers ahead once, into a table.

The table holds the lr that is used AT a step. It comes only from ``scheduler.step()`` over a dummy
optimizer. Other ways are wrong: ``StepLR.get_lr()`` jumps ahead at a boundary, and a scheduler that
is rebuilt with ``last_epoch=`` decays twice.

A schedule's clock starts at 0 after its warm-up of w steps. It ticks after every step
(interval=step) or at every epoch boundary (interval=epoch)::

    tick(t) = t // u − w // u       u = 1 for interval=step, steps_per_epoch for interval=epoch
    lr(t)   = schedule(tick(t))                           for t >= w
    lr(t)   = schedule(0) · (f + (1 − f) · t / w)         for t < w, f = warmup_start_factor

With ``total_iters=0``, torch's ConstantLR and LinearLR are at their end from the first tick on: lr
itself, and lr · end_factor. torch's own code steps past that end and stays at its start for ever.

Every torch scheduler works, with ``schedule._target_=package.Name``. ``lrlab/schedules.py`` says
how to add one that ships with lrlab; this folder stays as it is.

``lane_schedules`` makes the schedule of a lane, and ``reading`` checks its config. ``table`` steps
a scheduler over the optimizer of ``dummy``, which refuses rates that no run could follow.
"""
