"""End a sweep: write its results, print them, then draw."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lrlab import records
from lrlab.config import schema
from lrlab.errors import NotWritten, UserError
from lrlab.process import fitting, signals
from lrlab.process.cores import cores
from lrlab.process.paths import typed_path
from lrlab.study.heartbeat import Place
from lrlab.study.trial_source import label
from lrlab.sweeping import budget, launch, leftout, working
from lrlab.sweeping.judged import Sweep
from lrlab.sweeping.resuming import resume_command

if TYPE_CHECKING:
    import pandas as pd

    from lrlab.plots import Tables
    from lrlab.study.points import Run
    from lrlab.study.queue import Queue
    from lrlab.verdicts.printed.sweep_table import Best
    from lrlab.verdicts.recommend import Answer


def finish(current: Sweep, queue: Queue) -> list[float]:
    """Write the sweep's results, print them at once, then draw; return the runs' objectives."""
    if current.worker:
        return []
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from lrlab.plots import Tables
    from lrlab.tables import frames
    from lrlab.verdicts import loading, loss_kinds
    from lrlab.verdicts import recommend as answer
    from lrlab.verdicts.printed import answer_json, answer_words, sweep_table

    config, folder = current.config, current.folder
    trials = queue.trials()
    ended = [trial for trial in trials if trial.state in records.ENDED]
    elsewhere, gone = leftout.missing(folder, ended, queue.places())
    if not records.run_folders(folder):
        if not ended:  # timeout=0.1
            print(f"lrlab: no run was started; go on with {resume_command(folder)}")
            return []
        if elsewhere:
            print(f"lrlab: no run was trained here; others had begun all {len(trials)} of them")
        return _come_to(current, queue, trials, elsewhere, gone)
    if not queue.others():
        records.remove_parts(folder)
    _test_branches(current, trials)
    runs = frames.runs(folder)
    records.write_runs(folder, runs)
    figures = budget.draws(config, current.budget, current.command.started)
    # The curves of a thousand runs take gigabytes, so they are never all in memory.
    if figures:
        curves, verdicts = loading.drawn_and_judged(folder, target=config.target)
    else:
        curves, verdicts = None, loading.verdicts_of(folder, target=config.target)
    records.write_verdicts(folder, verdicts)
    answers = answer.recommend(verdicts)
    planned = current.budget or records.read_budget(folder)
    limited = None
    if planned is not None:
        not_trained = len(working.runs_left(queue))
        limited = budget.ended(current, planned, figures, not_trained)
    records.write_answer(folder, answer_json.of_sweep(answers, folder, limited))
    mixed = loss_kinds.of_best(runs, str(config.objective))
    best = None if mixed else _best(current, queue, trials)
    none = mixed or (_why_none(config) if best is None else _nothing_recommended(answers, runs))
    if none:
        best = None
    here = best is not None and (folder / str(best.run)).is_dir()
    if not here:
        records.remove_best(folder)  # from before the sweep was extended
    if best is not None and here:
        from lrlab.plan import best as best_run

        of = f"Best of {len(trials)} runs by {best.objective}: run {best.run}, {best.value:.6g}"
        of += f" (median of {best.seeds} seeds)" if best.seeds > 1 else ""
        try:
            records.write_best(folder, best_run.text(folder / str(best.run), of))
        except UserError as error:  # the run's own records are damaged; everything else is written
            records.remove_best(folder)
            print(f"lrlab: no best.yaml is written: {error}", flush=True)
    width, told = fitting.terminal_width(), answer_words.text(answers)
    print(sweep_table.results(runs, folder, best, verdicts, told, width), flush=True)
    if limited is not None:
        budget.say_left_out(current, limited)
    if best is None and "finished" in set(runs["state"]):
        print(f"lrlab: none is the best: {none}", flush=True)
    failed, unwritten = {}, None
    if curves is not None:
        try:
            tables = Tables(
                runs, curves, verdicts, answers=answers, objective=str(config.objective)
            )
            failed, unwritten = draw(config, folder, tables)
        except KeyboardInterrupt as error:
            _say_undrawn(folder)
            raise SystemExit(signals.exit_code(error)) from None
    if lines := sweep_table.drawn(folder):
        print(lines, flush=True)
    _say_failed(folder, failed)
    if unwritten is not None:
        raise unwritten
    return _come_to(current, queue, trials, elsewhere, gone, bool(failed))


def _come_to(
    current: Sweep,
    queue: Queue,
    trials: Sequence[Run],
    elsewhere: Mapping[Place, Sequence[Run]],
    gone: Sequence[int],
    failed: bool = False,
) -> list[float]:
    """Report missing results, then return the finished runs' objectives or exit with 1."""
    objective = str(current.config.objective)
    maximised = schema.direction(objective) == "maximize"
    for line in leftout.elsewhere_lines(elsewhere, len(trials), objective, maximised):
        print(f"lrlab: {line}", flush=True)
    if left := len(working.runs_left(queue)):
        print(f"lrlab: {left} runs have not ended; go on with {resume_command(current.folder)}")
        if current.config.timeout is None:  # the workers died
            raise SystemExit(1)
    if gone:
        word, its = ("run", "its") if len(gone) == 1 else ("runs", "their")
        numbers = ", ".join(map(str, gone))
        print(f"lrlab: the folder of {word} {numbers} is gone, and {its} results with it")
        raise SystemExit(1)
    if failed or any(trial.state == "failed" for trial in trials):
        raise SystemExit(1)
    return [trial.value for trial in trials if trial.value is not None]


def _test_branches(current: Sweep, trials: Sequence[Run]) -> None:
    """Make the missing branch tests, also those of an interrupted sweep.

    Raises:
        SystemExit: the user stopped it.
    """
    folders = [current.folder / str(trial.number) for trial in trials]
    waiting = [t for t, f in zip(trials, folders, strict=True) if records.end_file(f).is_file()]
    specs = [current.composed(trial.overrides, trial.number).spec for trial in waiting]
    launch.test_branches(specs, f"; go on with {resume_command(current.folder)}")


def _nothing_recommended(answers: Sequence[Answer], runs: pd.DataFrame) -> str:
    """Return why no answer recommends an lr, so that none of several runs is the best, or "".

    A single run is not chosen from others: it is the best whatever its result.
    """
    if len(runs) == 1 or not answers or any(not answer.refusal for answer in answers):
        return ""
    return answers[0].refusal


def _why_none(config: DictConfig) -> str:
    if str(config.objective).endswith("_to_target"):
        return f"no setting came to target={config.target}"
    return "in each setting, half of the seeds or more have not finished"


def _best(current: Sweep, queue: Queue, trials: Sequence[Run]) -> Best | None:
    from lrlab.verdicts.printed.sweep_table import Best

    found = queue.best()
    if found is None:
        return None
    setting, number, value = found
    swept = {k: text for k, text in trials[number].overrides.items() if k != "seed"}
    seeds = sum(trial.setting == setting for trial in trials)
    return Best(number, label(swept), str(current.config.objective), value, seeds)


# --- drawing --------------------------------------------------------------------------------------


def draw(
    config: DictConfig, folder: Path, tables: Tables
) -> tuple[dict[str, str], NotWritten | None]:
    """Draw all figures and the report; measure the loss around three of the runs meanwhile.

    Failed ones are left out.

    Returns:
        The figures that failed, "report" among them, and why; the first write error, if any.
    """
    from lrlab import plots, report
    from lrlab.plots.drawing import Drawing, described
    from lrlab.tables import frames

    failed: dict[str, str] = {}
    unwritten = []
    tables = replace(tables, branches=frames.branches(folder))
    first = [name for name in plots.NAMES if name not in plots.OF_LANDSCAPE]
    with Drawing(records.plot_folder(folder), free=cores() - 1) as drawing:
        drawing.add(first, tables)
        if schema.diagnostics(config) != "off":
            trusted = not config.hydra.sweeper.get("resume") or config.hydra.sweeper.get("trust")
            _measure_landscape(folder, tables, max(1, cores() - drawing.processes), bool(trusted))
        lines, surface, paths = frames.landscape(folder)
        tables = replace(tables, lines=lines, surface=surface, paths=paths)
        drawing.add(plots.OF_LANDSCAPE, tables)

        def pictures() -> dict[str, bytes | Path]:
            drawn = drawing.wait()
            failed.update(drawn.failed)
            unwritten.append(drawn.unwritten)
            return report.pictures(folder)

        try:
            report.write(folder, pictures, tables)
        except NotWritten as error:
            unwritten.append(error)
        except Exception as error:  # the runs are recorded, and their results printed
            failed["report"] = described(error)
    return failed, next((error for error in unwritten if error is not None), None)


def _measure_landscape(folder: Path, tables: Tables, threads: int, trusted: bool) -> None:
    best = next((a.best_run for a in tables.answers if a.best_run is not None), None)
    if best is None or tables.verdicts is None:
        return
    from lrlab.probes import landscape
    from lrlab.verdicts import three_runs

    runs = three_runs.choose(tables.verdicts, int(str(best)))
    if isinstance(runs, str):
        measured = landscape.nothing(runs)
    else:
        measured = landscape.measure(folder, runs, threads=threads, trusted=trusted)
    landscape.write(folder, measured)


def _say_failed(folder: Path, failed: Mapping[str, str]) -> None:
    if not failed:
        return
    for name, reason in failed.items():
        print(f"lrlab: {name} was not drawn: {reason}", file=sys.stderr)
    sweep = typed_path(folder)
    figures = [name for name in failed if name != "report"]
    again = [f"python -m lrlab.plots {sweep} --only {' '.join(figures)}"] if figures else []
    again.append(f"python -m lrlab.report {sweep}")  # it shows the figures that exist
    print(
        f"lrlab: the records are whole; draw what is missing with {', then '.join(again)}",
        file=sys.stderr,
    )


def _say_undrawn(folder: Path) -> None:
    sweep = typed_path(folder)
    print(
        "lrlab: interrupted while drawing, the records are whole; draw with "
        f"python -m lrlab.plots {sweep}, or all of it with {resume_command(folder)}",
        file=sys.stderr,
    )
