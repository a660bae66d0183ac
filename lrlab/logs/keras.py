"""Read Keras's CSVLogger: one row an epoch, counted from 0."""

from __future__ import annotations

from dataclasses import replace

from lrlab.logs import generic
from lrlab.logs.columns import Wanted
from lrlab.logs.log import Log, log_of
from lrlab.tables.text_table import Table

PROGRAM = "Keras CSVLogger"


def takes(table: Table, wanted: Wanted) -> bool:
    """Return whether the columns are epoch, loss, and others sorted by name, as it writes them."""
    names = table.names
    if names[:1] != ["epoch"] or "loss" not in names or "step" in names or "run" in names:
        return False
    rest = [name for name in names[1:] if not name.startswith("val_")]
    return rest == sorted(rest) and generic.takes(table, wanted)


def read(table: Table, wanted: Wanted) -> list[Log]:
    """Return its one run. The loss of epoch 0 is the mean over the first one, so it stands at 1.

    Raises:
        UserError: a column holds what is no number.
    """
    roles = generic.roles_of(table, wanted)
    log = log_of(table, PROGRAM, roles)
    if not generic.is_from_0(log.rows):  # resumed, or of another program
        return [log]
    rows = log.rows.assign(epoch=log.rows["epoch"] + 1)
    took = {**log.took, "epoch": f"{roles['epoch']} + 1"}
    return [replace(log, rows=rows, took=took)]
