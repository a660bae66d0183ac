"""Read and write the files of a sweep and of a run. No other code knows these files.

    <sweep>/multirun.yaml  best.yaml  study.journal  runs.csv  verdicts.csv
            answer.json  budget.json  lines.csv  surface.csv  paths.csv  report.html
            plots/*.png  data-<hash>.pt  code-<name>.py
    <sweep>/<run number>/.hydra/{config,hydra,overrides}.yaml  metrics.csv  summary.json  run.log
                         diagnostics.csv  branches.csv

Import the functions from here: ``records.read_config(run)``. ``names`` has the files' names and
columns, ``reading`` and ``writing`` their contents, ``files`` how one file is written, ``folders``
the folders, and ``owner`` which process may write. A file is written whole and then renamed, or
appended to so that a torn last line is recognised.

Both wings may import this package. It imports ``config``, ``process`` and ``errors``, and never
torch.

How to add a column to metrics.csv
----------------------------------
1. Name it, with its format, in ``names.METRICS``. Records that lack it read as NaN.
2. Give it its values in ``_write_rows`` of ``lrlab.training.recording``.
3. Add it to ``docs/files.md`` and to ``tests/test_records.py``.
"""

from __future__ import annotations

from lrlab.records.files import is_asked_for as is_asked_for
from lrlab.records.files import remove as remove
from lrlab.records.files import write_bytes as write_bytes
from lrlab.records.files import write_whole as write_whole
from lrlab.records.files import written_by_owner as written_by_owner
from lrlab.records.folders import create_run as create_run
from lrlab.records.folders import create_sweep as create_sweep
from lrlab.records.folders import free_folder as free_folder
from lrlab.records.folders import make_folder as make_folder
from lrlab.records.folders import remove_parts as remove_parts
from lrlab.records.folders import take_along as take_along
from lrlab.records.names import BRANCHES as BRANCHES
from lrlab.records.names import DIAGNOSTICS as DIAGNOSTICS
from lrlab.records.names import ENDED as ENDED
from lrlab.records.names import LANDSCAPE as LANDSCAPE
from lrlab.records.names import METRICS as METRICS
from lrlab.records.names import MULTIPLIERS as MULTIPLIERS
from lrlab.records.names import RESUMING as RESUMING
from lrlab.records.names import VAL_PARTS as VAL_PARTS
from lrlab.records.names import answer_file as answer_file
from lrlab.records.names import budget_file as budget_file
from lrlab.records.names import checkpoint_file as checkpoint_file
from lrlab.records.names import code_file as code_file
from lrlab.records.names import end_file as end_file
from lrlab.records.names import journal_file as journal_file
from lrlab.records.names import model_file as model_file
from lrlab.records.names import plot_folder as plot_folder
from lrlab.records.names import profile_folder as profile_folder
from lrlab.records.names import report_file as report_file
from lrlab.records.names import run_folders as run_folders
from lrlab.records.names import summary_file as summary_file
from lrlab.records.owner import check_owner as check_owner
from lrlab.records.owner import disown as disown
from lrlab.records.owner import take_over as take_over
from lrlab.records.reading import best_run as best_run
from lrlab.records.reading import check_contained as check_contained
from lrlab.records.reading import options as options
from lrlab.records.reading import plain_yaml as plain_yaml
from lrlab.records.reading import read_answer as read_answer
from lrlab.records.reading import read_best as read_best
from lrlab.records.reading import read_branches as read_branches
from lrlab.records.reading import read_budget as read_budget
from lrlab.records.reading import read_choices as read_choices
from lrlab.records.reading import read_config as read_config
from lrlab.records.reading import read_diagnostics as read_diagnostics
from lrlab.records.reading import read_landscape as read_landscape
from lrlab.records.reading import read_metrics as read_metrics
from lrlab.records.reading import read_summary as read_summary
from lrlab.records.reading import read_sweep_config as read_sweep_config
from lrlab.records.reading import read_texts as read_texts
from lrlab.records.reading import recorded_pad as recorded_pad
from lrlab.records.writing import append_diagnostics as append_diagnostics
from lrlab.records.writing import append_metrics as append_metrics
from lrlab.records.writing import append_probe as append_probe
from lrlab.records.writing import csv_text as csv_text
from lrlab.records.writing import cut_diagnostics as cut_diagnostics
from lrlab.records.writing import cut_metrics as cut_metrics
from lrlab.records.writing import log as log
from lrlab.records.writing import mark_failed as mark_failed
from lrlab.records.writing import remove_best as remove_best
from lrlab.records.writing import start_metrics as start_metrics
from lrlab.records.writing import write_answer as write_answer
from lrlab.records.writing import write_best as write_best
from lrlab.records.writing import write_branches as write_branches
from lrlab.records.writing import write_budget as write_budget
from lrlab.records.writing import write_landscape as write_landscape
from lrlab.records.writing import write_provenance as write_provenance
from lrlab.records.writing import write_runs as write_runs
from lrlab.records.writing import write_summary as write_summary
from lrlab.records.writing import write_sweep_config as write_sweep_config
from lrlab.records.writing import write_verdicts as write_verdicts
