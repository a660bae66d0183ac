"""Update stacked parameters with optimizers; each lane has its own hyperparameters.

How to add an optimizer
-----------------------
Every class that derives from ``torch.optim.Optimizer`` works already, with
``optimizer._target_=package.Name``: then each lane has a torch optimizer of its own (``general``).
To update all lanes at once, which is faster:

1. Write its formula in a file of this folder, as a ``Rule`` (see ``rule``; ``adagrad`` is a short
   example): its buffers, the numbers of a step, the update, and which hyperparameters work. Of one
   that torch lacks write the ``torch.optim.Optimizer`` in the same file: it is the truth that the
   rule is compared with, and what configs name.
2. Name it in the table in ``known``.
3. Give it a name on the command line with a file ``conf/optimizer/NAME.yaml``.
4. Add it to ``CASES`` and ``SHIPPED`` of ``tests/test_optimizers.py``, which compare it with its
   class bit by bit; one that is not torch's by its import path. See ``BY_SIGN`` there, too.
5. If it has no momentum, say so in ``_PLAIN`` of ``lrlab/tables/tidy.py``, which judges curves
   without torch.

What a rule must keep to
------------------------
Each stacked update repeats the operations of torch's own single-tensor code, in the same order and
with the same roundings. ``p.addcmul_(g, lr, value=-1)`` with lr as a tensor rounds once, exactly
as ``p.add_(g, alpha=-lr)`` with lr as a number does. ``p.sub_(lr * g)`` rounds twice.

Everything is element by element. A lane's hyperparameter may switch off an operation that other
lanes need. Then the lane's own result is selected, and never multiplied by 0. So no lane's bits
depend on other lanes, even where those are NaN.

The files
---------
``protocol`` defines what every optimizer of a stack can do. ``lane_optimizers`` makes one from
configs, which it checks: a ``stacked`` one, or for other classes a ``general`` one, which
holds each lane's torch ``instance``. ``groups`` divides parameters by patterns of their names.
``around`` clips gradients before any of them, and averages weights after it.
"""
