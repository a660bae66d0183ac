"""Read other programs' logs as tidy tables of curves: a file or folder becomes runs.

``reading.read`` finds out which program wrote a path and hands it to that program's module. Each
has one function that returns `log.Log`: rows in lrlab's column names, and what it took for which
column. ``rates`` finds the learning rate of each run, from the log, an option or a name.

May be imported by ``verdicts``, ``plots``, ``comparison`` and the verbs. It imports ``tables``,
``records`` and those below them, and never torch. A log may be another's: links are not followed,
and nothing is unpickled.

How to add a program
--------------------
1. A module here: for a CSV ``takes(table)`` and ``read(table, wanted)``, else ``read(path, ...)``.
2. Its line in ``reading._CSV``, or in ``reading.read_file`` or ``reading.read_folder``.
3. A small export in ``tests/cases_of_logs/``, and its case in ``tests/test_logs.py``.
4. Its section in ``docs/logs.md``.
"""
