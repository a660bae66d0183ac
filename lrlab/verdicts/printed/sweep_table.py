"""Write the table that ends a sweep, as aligned text: whole in a pipe, fitted to a terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pandas as pd

from lrlab import records
from lrlab.errors import printable
from lrlab.process.fitting import fitted, sentences
from lrlab.process.paths import display_path
from lrlab.tables.frames import varying
from lrlab.verdicts.printed.answer_words import HEAD
from lrlab.verdicts.printed.run_words import cell

_ERROR_WIDTH = 60  # characters of a failed run's error; the rest is in its run.log
# These states are counted below the table, so that a reader of 200 rows does not miss them.
_COUNTED = ("pruned", "diverged", "failed", "interrupted")

UNEVEN = 1.5  # report the most frequent class if its share exceeds this × that of even classes


class Best(NamedTuple):
    """The best setting of a sweep, as the end of the table shows it."""

    run: int  # with several seeds the one that represents them
    setting: str  # its swept options, as typed, for example ``lr=0.183 schedule=step``
    objective: str  # the quantity that decides, such as ``val_loss``
    value: float  # of that quantity, the median over the seeds
    seeds: int = 1  # how many seeds it was trained with


def results(
    runs: pd.DataFrame,
    folder: Path,
    best: Best | None = None,
    verdicts: pd.DataFrame | None = None,
    answer: str = "",
    width: int | None = None,
) -> str:
    """Return all runs of a sweep, one line each, sorted by run number, and where its files are.

    Columns: run, lr, schedule, every other setting that differs between the runs; the loss that
    decides (val_loss unless best says otherwise), the only one for a pruned run; train and test
    loss; test accuracy, if the data have classes and a test part; val accuracy, if there is no test
    part or only one run; state; and, with verdicts, the outcome and how the run stood at its end.
    The val loss is then their end_loss, so that table and answer show the same number.

    Args:
        runs: as from `frames.runs`.
        best: of a search, the best setting.
        verdicts: as from `judging.verdicts`.
        answer: as from `answer_words.text`; it is below the table.
        width: columns of the terminal. A narrow table leaves out the least important columns, and
            says so. None: lines of any width.
    """
    table = runs.sort_values(by="run")
    if best is not None:  # one run is no choice
        best = with_end_loss(best, table, verdicts) if len(table) > 1 else None
    cells, words = columns(table, best, verdicts)
    files = "runs.csv and verdicts.csv have" if verdicts is not None else "runs.csv has"
    where = f"{display_path(folder)}: {files}"
    lines = fitted(cells, words, width, _least(cells, varying(table)), where)
    lines.append("")
    lines += [*sentences(answer.splitlines(), width, HEAD), ""] if answer else []
    lines += sentences([*uneven(table), *failures(table)], width)
    if best is not None:
        lines += sentences([best_line(best)], width, len("best   "))
    lines.append(f"sweep  {printable(display_path(folder))}")
    traces = records.profile_folder(folder)
    if count := len(list(traces.glob("*.json.gz"))):
        told = "1 trace" if count == 1 else f"{count} traces"
        lines.append(f"trace  {display_path(traces)}: {told}, for ui.perfetto.dev or TensorBoard")
    return printable("\n".join(lines))


def columns(
    table: pd.DataFrame, best: Best | None = None, verdicts: pd.DataFrame | None = None
) -> tuple[dict[str, list[str]], set[str]]:
    """Return the cells of that table, a column by its name, and which columns hold words."""
    # Data without a test part, or without classes, leave no empty columns, once a run finished.
    ended = "finished" in set(table["state"])

    def has(name: str) -> bool:
        return name in table and not (ended and all(pd.isna(value) for value in table[name]))

    judged_by = "val_loss" if best is None else best.objective
    table = _with_end_losses(table, verdicts)
    settings = ["schedule", *(name for name in varying(table) if name != "schedule")]
    val_acc = {"val acc": _shares(table, "val_acc")} if has("val_acc") else {}
    found = {
        "run": [str(run) for run in table["run"]],
        "lr": [cell(lr) for lr in table["lr"]],
        **{name: [cell(value) for value in table[name]] for name in settings},
        **(_judged_by(table, judged_by) if has(judged_by) else {}),
        **(val_acc if len(table) == 1 else {}),
        "train loss": _losses(table, "train_loss"),
        **({"test loss": _losses(table, "test_loss")} if has("test_loss") else {}),
        **({"test acc": _shares(table, "test_acc")} if has("test_acc") else {}),
        **({} if has("test_loss") else val_acc),
        "state": [_state(row) for row in table.to_dict("records")],
        **_outcomes(table, verdicts),
    }
    left = {name for name in settings if not pd.api.types.is_numeric_dtype(table[name])}
    return found, left | {"state", "outcome", "at the end"}


def _least(cells: dict[str, list[str]], settings: Sequence[str]) -> list[str]:
    """Return the columns that a narrow table leaves out, the least important first.

    run, lr, the loss and the outcome stay; the settings that distinguish runs stay nearly as long.
    """
    judged = "outcome" in cells
    least = [] if "schedule" in settings else ["schedule"]
    least += ["state"] if judged and set(cells["state"]) == {"finished"} else []
    least += ["train loss", "test loss"]
    least += ["state"] if judged else []
    least += ["at the end", "test acc", "val acc"]
    return [*least, *reversed([name for name in settings if name != "lr"])]


def with_end_loss(best: Best, table: pd.DataFrame, verdicts: pd.DataFrame | None) -> Best:
    """Return the best setting with its end loss from the verdicts, the median over its seeds.

    The verdicts take the median of the last evaluations, the objective only the last one.
    """
    if best.objective != "val_loss" or verdicts is None or best.run not in set(table["run"]):
        return best
    table = _with_end_losses(table, verdicts)
    mine = table.loc[table["run"] == best.run].iloc[0]
    same = pd.Series(True, table.index)
    for name in ("lr", *(name for name in varying(table) if name != "seed")):
        same &= table[name].map(str) == str(mine[name])
    losses = [math.inf if pd.isna(loss) else loss for loss in table.loc[same, "val_loss"]]
    return best._replace(value=median(losses)) if len(losses) == best.seeds else best


def _with_end_losses(table: pd.DataFrame, verdicts: pd.DataFrame | None) -> pd.DataFrame:
    if verdicts is None or "val_loss" not in table or "judged_by" not in verdicts:
        return table
    rows = verdicts.loc[(verdicts["judged_by"] == "val_loss") & (verdicts["end_loss"] < math.inf)]
    ends = dict(zip(rows["run"], rows["end_loss"], strict=True))
    told = zip(table["run"], table["state"], table["val_loss"], strict=True)
    return table.assign(
        val_loss=[ends.get(run, v) if state == "finished" else v for run, state, v in told]
    )


def drawn(folder: Path) -> str:
    """Return where the figures and the report of a sweep are, to be printed after `results`."""
    lines = []
    plots = records.plot_folder(folder)
    if count := len(list(plots.glob("*.png"))):
        figures = "1 figure" if count == 1 else f"{count} figures"
        lines.append(f"plots  {display_path(plots)}: {figures}")
    if records.report_file(folder).is_file():
        lines.append(f"report {display_path(records.report_file(folder))}")
    return "\n".join(lines)


def _outcomes(table: pd.DataFrame, verdicts: pd.DataFrame | None) -> dict[str, list[str]]:
    if verdicts is None:
        return {}
    found = {}
    for name, column in (("outcome", "outcome"), ("at_end", "at the end")):
        words = dict(zip(verdicts["run"], verdicts[name], strict=True))
        found[column] = [str(words.get(run) or "-") for run in table["run"]]
    return found if set(found["at the end"]) != {"-"} else {"outcome": found["outcome"]}


def _judged_by(table: pd.DataFrame, name: str) -> dict[str, list[str]]:
    if name == "train_loss":  # it has a column of its own
        return {}
    if name.endswith("_loss"):
        cells = _losses(table, name)
    elif name.endswith("_acc"):
        cells = _shares(table, name)
    else:
        cells = ["-" if pd.isna(value) else f"{value:.4g}" for value in table[name]]
    return {name.replace("_", " "): cells}


def best_line(best: Best) -> str:
    """Return a line such as ``best   run 1: lr=0.1, val_loss 0.1267``."""
    is_share = best.objective.endswith("_acc")
    value = f"{best.value:.2%}" if is_share else f"{best.value:.4g}"
    seeds = f", the median of {best.seeds} seeds" if best.seeds > 1 else ""
    # Runs that differ only in their seeds have no setting to show.
    told = ", ".join(filter(None, (best.setting, f"{best.objective} {value}{seeds}")))
    return printable(f"best   run {best.run}: {told}")


def _shares(table: pd.DataFrame, name: str) -> list[str]:
    return ["-" if pd.isna(share) else f"{share:.2%}" for share in table[name]]


def _losses(table: pd.DataFrame, name: str) -> list[str]:
    # A summary holds null for a non-finite loss; only the state tells it from "not yet".
    missing = ["non-finite" if state == "diverged" else "-" for state in table["state"]]
    return [
        instead if pd.isna(loss) else f"{loss:.4g}"
        for loss, instead in zip(table[name], missing, strict=True)
    ]


def _state(row: dict[Any, Any]) -> str:
    state = str(row["state"])
    if state == "diverged" and not pd.isna(row["first_nonfinite_step"]):
        return f"diverged at step {int(row['first_nonfinite_step'])}"
    if state == "pruned" and not pd.isna(row.get("pruned_at_epoch", float("nan"))):
        return f"pruned after epoch {int(row['pruned_at_epoch'])}"
    if state == "failed" and row["error"]:
        error = " ".join(str(row["error"]).split())
        return f"failed: {error[:_ERROR_WIDTH]}{'...' if len(error) > _ERROR_WIDTH else ''}"
    return state


def uneven(table: pd.DataFrame) -> list[str]:
    """Return the accuracy of always answering the most frequent class, a line for each data set.

    There is none if no accuracy is shown, or if the share is near that of even classes.
    """
    if not {"majority_share", "num_classes"} <= set(table):
        return []
    shares: dict[str, list[float]] = {}
    for row in table.to_dict("records"):
        share, accuracy = float(row["majority_share"]), float(row.get("val_acc", math.nan))
        if not math.isnan(accuracy) and share > UNEVEN / row["num_classes"]:
            shares.setdefault(str(row.get("data")), []).append(share)
    told = "accuracy of always answering the most frequent class"
    several = "data" in table and len(set(table["data"])) > 1
    lines = []
    for data, found in shares.items():
        of = printable(f" (data={data})") if several else ""
        low, high = (f"{share:.2%}" for share in (min(found), max(found)))
        lines.append(f"{told}{of}: {low if low == high else f'{low} to {high}'}")
    return lines


def failures(table: pd.DataFrame) -> list[str]:
    """Return one line with how many runs did not finish, or nothing."""
    states = list(table["state"])
    told = [f"{states.count(name)} {name}" for name in _COUNTED if name in states]
    if not told:
        return []
    *firsts, last = told
    listed = f"{', '.join(firsts)} and {last}" if firsts else last
    return [f"{listed} of {len(table)} runs"]
