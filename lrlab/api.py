# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=false
"""lrlab from Python and notebooks: ``lrlab.run_sweep`` trains a sweep, ``lrlab.load`` reads one.

``run_sweep`` turns its arguments into the words of ``python -m lrlab.sweep``. From there on the
code, the folder and the bits are those of the command.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from lrlab import not_importable, records
from lrlab.config.schema import direction, no_such
from lrlab.errors import UserError
from lrlab.plots.tables import NAMES, NothingToDraw, Tables
from lrlab.tables import frames, missing, sweep_folder, sweep_settings
from lrlab.verdicts import loading, loss_kinds
from lrlab.verdicts import recommend as answers_of
from lrlab.verdicts.printed import sweep_table
from lrlab.verdicts.printed.judged import Recommendation, judge

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Recommendation", "Result", "judge", "load", "run_sweep"]

# Drawn where no name is given: the first of these for which there is data.
MAIN = ("lr_against_loss", "loss_curves")


def run_sweep(
    *,
    progress: bool = False,
    network: Any = None,
    data: Any = None,
    loss: Any = None,
    optimizer: Any = None,
    schedule: Any = None,
    lr: Any = None,
    epochs: Any = None,
    **options: Any,
) -> Result:
    """Train a sweep and return its result: ``python -m lrlab.sweep``, from Python.

        lrlab.run_sweep(lr=[0.001, 0.1, 1.0])
        lrlab.run_sweep(lr="1e-4..1", n_trials=20, pruner="asha")
        lrlab.run_sweep(network=mine.Net, network__width=[32, 64], optimizer=torch.optim.NAdam)

    Each option of the command is a keyword with the same default. Write a setting's dot as two
    underscores (``optimizer__momentum=0.9``). A list makes a run of each value, several lists make
    a grid. A string is read as the command reads the text after ``=``. If a setting has several
    parts, a tuple is one value: ``network__hidden=[(64, 64), (128,)]`` is two runs. The value of a
    group (network, optimizer, ...) may also be a mapping of settings, your own class or function,
    or a ``functools.partial`` of it. A network or a loss may also be an object, of which each run
    trains a copy. What another process cannot import, such as a class of a notebook's cell, trains
    too, but its runs cannot be resumed or reproduced later; a note says so. ``config_dir`` and
    ``config_name`` name your own configs, as the command's flags do.

    The call blocks until the sweep has ended. Ctrl-C stops after the current step, with everything
    recorded, and raises KeyboardInterrupt. Then ``lrlab.load`` reads the records, and ``python -m
    lrlab.resume`` finishes the sweep. Random numbers, torch's threads, logging and Hydra are
    restored at the end. To get the command's bits, call it before any other torch work of this
    process: MKL accepts its setting for exact results only before its first product.

    Args:
        progress: show what the command prints, with the live table; otherwise nothing is printed.
        network, data, loss, optimizer, schedule: a choice, a mapping of settings, or your own code;
            None, here and below: the command's default. data also takes arrays or tensors, as a
            pair (inputs, targets) or a dict with x and y and, if you have them, val_x, val_y,
            test_x, test_y, next to its settings; several inputs are a dict or a tuple. They are
            written into the sweep's folder as data-<hash>.pt, and its runs can be trained again
            from that file.
        lr: initial learning rate.
        epochs: passes over the training data.
        options: any other option.

    Returns:
        The sweep. A run that failed is one of its rows; ``result.notes`` has the command's
        warnings.

    Raises:
        UserError: an option cannot work, in the command's words; nothing was trained or written.
        NotWritten: a record could not be written.
        KeyboardInterrupt: it was interrupted; the message says how to go on.
    """
    own = {"network": network, "data": data, "loss": loss, "optimizer": optimizer}
    own |= {"schedule": schedule, "lr": lr, "epochs": epochs}
    given = {key: value for key, value in own.items() if value is not None}
    try:
        return _trained(progress, {**given, **options})
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        # The error's line says what to do; a notebook would show 30 frames of Hydra's above it.
        raise error.with_traceback(None) from None


def _trained(progress: bool, options: Mapping[str, Any]) -> Result:
    from lrlab.config import targets
    from lrlab.config.words import keywords
    from lrlab.plan import build
    from lrlab.sweeping import sweep

    targets.locate.cache_clear()  # a module of the user's may have been reloaded
    build.forget_data()
    code, said = 0, ""
    opened: list[Path] = []
    with _as_found(), _output(progress) as errors, _arrays_written(options) as (told, carried):
        words = keywords.words(told)
        _keep_code(not_importable.named_in(words), words, carried)
        try:
            sweep.told(lambda: sweep.run(words, carried=carried, opened=opened.append))
        except SystemExit as end:
            code = end.code
        finally:
            said = errors.getvalue()
    if code in (129, 130, 143):
        raise _interrupted(int(code), said)
    if not opened:
        raise UserError("hydra: this command trains no sweep; use python -m lrlab.sweep for it")
    return load(opened[-1], _notes(said))


def load(folder: str | Path, notes: tuple[str, ...] = ()) -> Result:
    """Load a sweep that exists, as far as it has come; it may still run.

    Args:
        folder: the sweep's.
        notes: warnings about it.

    Raises:
        UserError: the folder is no sweep's, or holds no run.
    """
    folder = Path(folder).expanduser()
    if folder.is_dir():
        sweep_folder.check_sweep(folder)
    unread = missing.unread_notes(folder, frames.runs(folder))
    return Result(folder.absolute(), (*notes, *unread))


@dataclass(frozen=True, repr=False)
class Result:
    """A sweep's tables and pictures, each read or drawn when it is first asked for, then kept.

    Attributes:
        folder: the sweep's folder.
        notes: the command's warnings, a line each.
    """

    folder: Path
    notes: tuple[str, ...] = ()

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run: settings, final losses and accuracies, state; see `frames.runs`."""
        return frames.runs(self.folder)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row a recorded step of all runs; see `frames.curves`."""
        return frames.curves(self.folder)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row a run: outcome, step mode, the evidence; see `judging.verdicts`."""
        return loading.verdicts_of(self.folder, target=self._target)

    @cached_property
    def answer(self) -> Recommendation:
        """Recommend an lr."""
        return Recommendation(tuple(answers_of.recommend(self.verdicts)))

    @cached_property
    def best(self) -> pd.Series | None:
        """The row of the best run by the sweep's objective, as best.yaml holds it, or None.

        It is None where losses of different kinds were trained and compared by a loss. This is the
        best of the trained runs; ``answer`` also weighs seeds, failures and ranges.
        """
        mixed = loss_kinds.of_best(self.runs, self._objective)
        number = None if mixed else records.best_run(self.folder)
        rows = self.runs[self.runs["run"] == number]
        return None if rows.empty else rows.iloc[0]

    def plot(self, name: str | None = None) -> Figure:
        """Draw one of the sweep's figures.

        Args:
            name: one of `lrlab.plots.NAMES`; None: end loss against lr or, where there is none,
                the loss curves.

        Raises:
            UserError: there is no such figure, or the sweep lacks its data.
        """
        from lrlab.plots import figure

        if name is not None and name not in NAMES:
            raise UserError(no_such(f"plot={name}", "plot", name, NAMES))
        reasons = []
        for each in MAIN if name is None else (name,):
            try:
                drawn = figure(each, self._tables)
            except NothingToDraw as reason:
                reasons.append(f"{each}: {reason}")
                continue
            # A notebook shows a figure unasked only where pyplot was imported.
            drawn._repr_png_ = partial(_png, drawn)  # type: ignore[attr-defined]
            return drawn
        raise UserError(f"plot={name}: nothing to draw, {'; '.join(reasons)}")

    def report(self) -> Path:
        """Return the path of report.html, one page that opens offline; write it if missing."""
        file = records.report_file(self.folder)
        if not file.is_file():
            from lrlab import plots, report

            plots.draw(self._tables, records.plot_folder(self.folder), formats=["png"])
            report.write(self.folder, tables=self._tables)
        return file

    def __repr__(self) -> str:
        text = self.answer.text
        said = sweep_table.results(self.runs, self.folder, self._best, self.verdicts, text)
        return "\n".join([said, *self.notes])

    def _repr_html_(self) -> str:
        """Return a notebook's view: the runs with their outcomes, the answer, the main picture."""
        from lrlab.report import notebook

        try:
            picture = _png(self.plot())
        except UserError:
            picture = None
        text = self.answer.text
        return notebook.html(
            self.folder, self.runs, self.verdicts, text, self.notes, self._best, picture
        )

    @cached_property
    def _tables(self) -> Tables:
        lines, surface, paths = frames.landscape(self.folder)
        curves, verdicts = loading.drawn_and_judged(self.folder, target=self._target)
        return Tables(
            self.runs,
            curves,
            verdicts,
            branches=frames.branches(self.folder),
            lines=lines,
            surface=surface,
            paths=paths,
            answers=self.answer.answers,
            objective=self._objective,
        )

    @cached_property
    def _best(self) -> sweep_table.Best | None:
        """Return the best setting in the words with which the command ends."""
        objective = self._objective
        if self.best is None or objective not in self.runs:
            return None
        rows: list[dict[Any, Any]] = self.runs.to_dict("records")
        best = next(row for row in rows if row["run"] == self.best["run"])
        varying = [name for name in frames.varying(self.runs) if name != "seed"]
        varying = ["lr", *varying] if len(set(self.runs["lr"])) > 1 else varying
        key = {name: _number(best[name]) for name in varying}
        # Unset is NaN, which equals nothing, so compare texts.
        alike = [row for row in rows if row["lr"] == best["lr"]]
        alike = [row for row in alike if {name: _number(row[name]) for name in key} == key]
        # A search may draw a setting twice, and the table does not show all options.
        seeds = {row["seed"]: row for row in [*alike, best]}.values()
        worst = math.inf if direction(objective) == "minimize" else -math.inf
        values = [row[objective] if row["state"] == "finished" else worst for row in seeds]
        value = median(worst if value != value else value for value in values)
        setting = " ".join(f"{name}={text}" for name, text in key.items())
        return sweep_table.Best(int(best["run"]), setting, objective, float(value), len(seeds))

    @property
    def _objective(self) -> str:
        return sweep_settings.objective(self.folder)

    @property
    def _target(self) -> float | None:
        """The val_loss that the sweep was to reach."""
        target = self._config.get("target")
        return float(target) if isinstance(target, int | float) else None

    @cached_property
    def _config(self) -> dict[str, Any]:
        """The sweep's config as saved; {} where it cannot be read."""
        import yaml

        try:
            saved = records.plain_yaml(records.read_sweep_config(self.folder))
        except (UserError, OSError, ValueError, yaml.YAMLError, RecursionError):
            return {}
        return saved if isinstance(saved, dict) else {}


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


# --- a command within a process -------------------------------------------------------------------


@contextlib.contextmanager
def _arrays_written(
    options: Mapping[str, Any],
) -> Generator[tuple[dict[str, Any], Path], None, None]:
    """Write arrays given as data= to a file.

    Yield the options that name it, and the folder with what the sweep takes along.
    """
    from lrlab.config import data_paths
    from lrlab.data.own import from_python
    from lrlab.data.own.split import SPLIT

    told = dict(options)
    data = told.get("data")
    if "data" in told:
        from_python.check(data)
    if not from_python.is_arrays(data):
        with tempfile.TemporaryDirectory(prefix="lrlab-") as folder:
            yield told, Path(folder)
        return
    made, settings = told.pop("data"), {}
    if isinstance(made, Mapping):
        settings = {f"data.{key}": made[key] for key in made if key in SPLIT}
        made = {key: value for key, value in made.items() if key not in SPLIT}
    with tempfile.TemporaryDirectory(prefix="lrlab-") as folder, data_paths.found_in(Path(folder)):
        exact = "float64" in str(told.get("precision"))
        name, said = from_python.write(made, Path(folder), exact)
        for line in said:
            print(f"lrlab: {line}", file=sys.stderr)
        yield {"data": "arrays", "data.path": name, **settings, **told}, Path(folder)


def _keep_code(own: Mapping[str, not_importable.Entry], words: list[str], folder: Path) -> None:
    """Write the source of what no other process can import, and print a line about each."""
    for word in words:
        key, _, value = word.partition("=")
        in_processes = key == "workers" and value != "1"
        if own and (in_processes or (key == "hydra/launcher" and value not in ("lanes", "basic"))):
            name = next(iter(own.values())).shown
            raise UserError(
                f"{word}: other processes train the runs, and they cannot import {name}, which was "
                "defined in this one; leave it out, or put the code into a file and import it"
            )
    for name, entry in own.items():
        text = entry.source or f"# Python has no source of {entry.shown}.\n"
        records.write_bytes(records.code_file(folder, name), text.encode())
        print(
            f"lrlab: {entry.shown} cannot be imported by another process, so resume and reproduce "
            f"cannot train its runs again; {records.code_file(Path(), name)} keeps its source",
            file=sys.stderr,
        )
        if entry.has_weights:
            print(
                f"lrlab: each run starts from the weights of the given {entry.shown}; "
                "seed changes only the order of the samples",
                file=sys.stderr,
            )


@contextlib.contextmanager
def _output(shown: bool) -> Generator[io.StringIO, None, None]:
    """Show or hide what the command prints; yield its stderr."""
    errors = io.StringIO()
    if shown:
        yield errors
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        yield errors


def _notes(said: str) -> tuple[str, ...]:
    return tuple(line for line in said.splitlines() if line)


def _interrupted(code: int, said: str) -> BaseException:
    """Return the exception to raise after a signal: only Ctrl-C leaves the program running."""
    if code != 130:
        return SystemExit(code)
    lines = [line.removeprefix("lrlab: ") for line in _notes(said)]
    return KeyboardInterrupt("; ".join(lines[-2:]) or "the sweep's folder has what was trained")


@contextlib.contextmanager
def _as_found() -> Generator[None, None, None]:
    """Restore Hydra, logging, random numbers, torch's settings and sys.argv at the end."""
    from lrlab.config import hydra_store

    with hydra_store.kept(), _logging_kept(), _torch_kept():
        argv, state = sys.argv, random.getstate()
        try:
            yield
        finally:
            sys.argv = argv
            random.setstate(state)


@contextlib.contextmanager
def _logging_kept() -> Generator[None, None, None]:
    import logging

    import matplotlib

    with warnings.catch_warnings():  # in a notebook without ipywidgets, which lrlab does not use
        warnings.filterwarnings("ignore", message="IProgress not found")
        import optuna

    assert matplotlib and optuna  # they set up their loggers when they are imported
    loggers = [each for each in logging.root.manager.loggerDict.values() if hasattr(each, "level")]
    levels: list[tuple[Any, int]] = [(each, each.level) for each in [logging.root, *loggers]]  # type: ignore[union-attr]
    handlers = list(logging.root.handlers)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
        logging.root.handlers[:] = handlers


@contextlib.contextmanager
def _torch_kept() -> Generator[None, None, None]:
    import numpy as np
    import torch

    threads, numpy = torch.get_num_threads(), np.random.get_state()
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = [(products, "allow_tf32")]
    switches += [(convolutions, name) for name in ("allow_tf32", "benchmark", "deterministic")]
    before = [getattr(module, name) for module, name in switches]
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        np.random.set_state(numpy)
        torch.set_num_threads(threads)
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)
