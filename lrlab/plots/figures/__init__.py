"""The figures, one file for each kind.

How to add a figure
-------------------
1. Write a file in this folder: a function that takes tables of `lrlab.tables.frames` and returns a
   Figure; `heat` is a short example. It raises `NothingToDraw` if a table lacks its data.
   Figures over the lr share ``plots/over_lr/``.
2. Add what it shows to ``SUMMARIES`` of ``plots/tables.py``, and how to read it to ``CAPTIONS``.
   The report shows figures in this order.
3. Add the tables that it takes to ``_FIGURES`` of ``plots/writing.py``, in the same order.
4. Add its name to ``plots/__init__.py``: the import and ``__all__``.
5. Test it in ``tests/test_plots*.py``, with the tables of ``tests/helpers/made_tables.py``.

Then ``--only NAME``, the report and `lrlab.Result.plot` draw it.
"""
