"""Open a sweep: check its runs, then make or find its folder and its study."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lrlab import records
from lrlab.config import schema
from lrlab.config import space as spaces
from lrlab.config.space import Space
from lrlab.config.words import arguments
from lrlab.config.words.spelling import literal
from lrlab.errors import NotWritten, UserError
from lrlab.plan import build, checks, compose, memory, notices
from lrlab.plan.spec import RunSpec, new_summary
from lrlab.study import heartbeat
from lrlab.sweeping import budget, leftout, workers
from lrlab.sweeping.judged import DEFAULT_TRIALS, FREE, Sweep, prunes

if TYPE_CHECKING:
    from lrlab.study.queue import Queue


def open_sweep(current: Sweep, named: set[str]) -> tuple[Queue, compose.Job]:
    """Check every run, then make or find the sweep's folder and its study."""
    config = current.config
    create = "resume" if current.resumed else "join" if current.shared else "new"
    while True:
        current.folder = _folder(config, named, create)
        current.own = compose.own_overrides(current.folder)
        searched = current.space.searched
        points = spaces.corners(current.space) if searched else spaces.points(current.space)
        checked = [current.composed(point, number) for number, point in enumerate(points)]
        current.judged = {} if searched else {job.number: job for job in checked}
        specs = [job.spec for job in checked]
        checks.check_runs(specs)
        _check_losses(current, specs)
        current.notices = notices.lines(specs)
        sharing = None if current.worker else workers.sharing(config.workers, config.device)
        memory.check(specs, sharing)
        if not current.worker and budget.fit(current, specs):
            continue  # with the epochs that fit
        queue = None
        if current.shared:
            queue = open_queue(current, checked[0], create)
        made = create != "resume" and records.create_sweep(current.folder)
        if made or create != "new":
            break  # otherwise another sweep took the name in between
    try:
        with open_dict(config), read_write(config.hydra):  # Hydra 1.4 locks its part
            config.hydra.sweep.dir = literal(str(current.folder))
            config.name = literal(current.folder.name)
        if made:
            _write_config(current)  # before anything else: from here on the sweep can be resumed
            if current.budget is not None:
                records.write_budget(current.folder, current.budget)
            if current.command.carried is not None:
                records.take_along(current.folder, current.command.carried)
        if queue is None:
            queue = open_queue(current, checked[0], create)
    except (UserError, NotWritten, KeyboardInterrupt):
        if made:
            shutil.rmtree(current.folder, ignore_errors=True)
        raise
    narrowed = create == "join" and any(not run.is_asked for run in queue.trials())
    # A worker was given a device, and threads.
    if (create == "resume" or narrowed) and not made and not current.worker:
        _write_config(current)
    return queue, checked[0]


def _check_losses(current: Sweep, specs: Sequence[RunSpec]) -> None:
    """Refuse a sweep in which runs with incomparable losses would compete while they train."""
    pruned, objective = prunes(current.config), str(current.config.objective)
    if current.resumed or not (pruned or current.space.searched):
        return
    from lrlab.verdicts import loss_kinds

    if why := loss_kinds.incomparable(map(new_summary, specs), objective):
        what = "pruner" if pruned else "search"
        has_classes = all(build.load_data(spec).num_classes for spec in specs)
        raise UserError(
            f"objective={objective}: {why}, and the {what} would be misled; "
            f"{loss_kinds.remedy(has_classes)}"
        )


def _folder(config: DictConfig, named: set[str], create: str) -> Path:
    """Return the folder of the sweep: the user's, or the default one, with -2, -3 ... if taken.

    Raises:
        UserError: the user named an existing folder.
    """
    folder = Path(config.hydra.sweep.dir).expanduser().absolute()
    if create == "resume":
        return folder
    given = "name" in named or str(config.hydra.sweep.dir) != f"{config.output}/{config.name}"
    if create == "join" and given:
        return folder
    return records.free_folder(folder, may_rename=not given)


def _write_config(current: Sweep) -> None:
    """Write multirun.yaml: how the sweep was begun, not that it was resumed."""
    config = current.config.copy()
    OmegaConf.copy_cache(from_config=current.config, to_config=config)
    with open_dict(config), read_write(config.hydra):
        config.hydra.sweeper.resume = False
        config.hydra.sweeper.trust = False
        if current.resumed and current.command.began is not None:
            config.hydra.runtime.cwd = literal(str(current.command.began))
    began = [o for o in arguments.noted(config, "hydra") if not o.startswith(records.RESUMING)]
    arguments.note(config, "hydra", began)
    records.write_sweep_config(current.folder, OmegaConf.to_yaml(config, resolve=False))


def open_queue(current: Sweep, first: compose.Job, create: str) -> Queue:
    from lrlab.study import queue
    from lrlab.study.points import Request

    config, searched = current.config, current.space.searched
    n_trials = config.n_trials
    if searched and n_trials is None and config.timeout is None:
        n_trials = DEFAULT_TRIALS
    if create == "resume" and not current.shared and not records.run_folders(current.folder):
        create = "join"  # interrupted before its study existed, or all of it
    request = Request(
        space=current.space,
        direction=schema.direction(config.objective),
        sampler=first.spec["sampler"],
        pruner=first.spec["pruner"],
        seed=config.seed,
        n_trials=n_trials,
        settings=_settings(current.space, first),
        lease=config.lease,
        words=leftout.asking(arguments.noted(config, "task"), current.space),
        takes_all=config.n_trials is None,
    )
    return queue.open_queue(
        name=current.folder.name,
        storage=current.storage,
        journal=records.journal_file(current.folder),
        request=request,
        create=create,
        place=heartbeat.here(current.folder) if current.shared else None,
    )


# The value before a setting existed: a record without the setting is the same sweep.
_BEFORE = {
    "precision": "float32",
    **schema.NEUTRAL,
    "network.parametrisation": "standard",
    "network.base_width": 64,
    "data.stratify": False,
    "data.standardise_targets": False,
    "data.decimal": "point",
    "data.header": True,
    "data.check": False,
}


def _settings(space: Space, first: compose.Job) -> dict[str, Any]:
    """Return, flat, the settings that all runs share and that decide their numbers."""
    swept = [*space.lists, *space.intervals]
    found: dict[str, Any] = {}

    def add(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            name = f"{prefix}{key}"
            if name in swept or name in FREE or _BEFORE.get(name) == value:
                continue
            if isinstance(value, Mapping):
                add(value, f"{name}.")
            else:
                found[name] = value

    add(first.spec.config, "")
    # in a swept group the first choice's settings say nothing; those that the user set do
    for override in space.fixed:
        key, _, text = override.partition("=")
        if key.lstrip("+").partition(".")[0] in swept:
            found[key.lstrip("+")] = text
    return found
