"""The figures, one file for each kind.

How to add a figure
-------------------
1. Write it in a file of this folder: a function that takes tables of `lrlab.tables.frames` and
   returns a Figure; `heat` is a short example. What its table lacks it says with `NothingToDraw`.
   What figures over the lr share is in ``plots/over_lr/``.
2. Say what it shows, and how to read it, in ``SUMMARIES`` and ``CAPTIONS`` of ``plots/tables.py``.
   Their order is that of the report.
3. Say what it is drawn of in ``_FIGURES`` of ``plots/writing.py``, in the same order.
4. Name it in ``plots/__init__.py``: its import, ``__all__``, ``_HOMES``.
5. Test it in ``tests/test_plots*.py``, with the tables of ``tests/helpers/made_tables.py``.

Then ``--only NAME``, the report and `lrlab.Result.plot` know it.
"""
