"""The sweeper's work: what a command sweeps becomes the trials of a study, each trial a run."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lrlab import plan, records
from lrlab.config import arguments, checks, passwords, schema, trust, wishes
from lrlab.config import data_paths as places
from lrlab.config import space as spaces
from lrlab.config.space import Space
from lrlab.config.spelling import literal
from lrlab.engine import devices
from lrlab.errors import NotWritten, Stopped, UserError
from lrlab.plan import compose, memory, notices
from lrlab.process import fitting, gc_pause, profiling, progress, signals
from lrlab.study import heartbeat, leftout, sampler_checks, whereabouts
from lrlab.study.trial_source import StudySource, label, tracker_settings
from lrlab.sweeping import launch, workers
from lrlab.training import pool
from lrlab.training.pool import Start
from lrlab.verdicts import loss_kinds

if TYPE_CHECKING:
    import pandas as pd

    from lrlab.plots import Tables
    from lrlab.study import Queue, Run
    from lrlab.tables.table import Best
    from lrlab.verdicts.recommend import Answer

# How many runs train at once where more come later: a search learns from those that ended, and
# other workers want some too. Twice as many with a pruner, for most of them leave early, and the
# few that stay in a narrow stack cost nearly as much as a full one.
PLACES = {"cpu": 8, "cuda": 64, "mps": 16}
DEFAULT_TRIALS = 20

# What may differ when a sweep is resumed or joined, for it decides no run's numbers.
FREE = (
    *("name", "output", "lanes", "plots", "save_model", "device", "threads", "source"),
    *("n_trials", "timeout", "points", "storage", "workers", "lease", "checkpoint_every"),
    *("diagnostics", "tracking", "profile", "memory_limit", "pad", "capture"),
)


@dataclass
class _Sweep:
    """A command, judged: what it sweeps, and how its runs are made."""

    config: DictConfig
    loader: Any
    launcher: Any
    space: Space
    storage: str  # with its password, which no record has
    worker: bool  # a process of another lrlab, which says what came of it all
    folder: Path = Path()
    own: list[str] = field(default_factory=list)  # overrides of all runs that say where they lie

    judged: dict[int, compose.Job] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)  # said when the sweep is announced

    def job(self, point: Mapping[str, str], number: int) -> compose.Job:
        """A run. One that was judged before the sweep began is not composed again to train."""
        values = [f"{key}={text}" for key, text in point.items()]
        self._check_point(point)
        overrides = self.space.fixed + self.own + values
        if (judged := self.judged.pop(number, None)) and judged.overrides == overrides:
            return judged
        if self.guarded:
            # before it is composed, which reads the files that choices name
            trust.refuse(trust.in_words(self.space.fixed + values), f"run {number}", self.allow)
        job = compose.compose(self.config, self.loader, overrides, number)
        if self.guarded:
            groups = (*schema.GROUPS, *schema.SWEEP_GROUPS)
            found = [c for group in groups for c in trust.in_node(job.spec.config[group], group)]
            trust.refuse(found, f"run {number}", self.allow)
        return job

    def _check_point(self, point: Mapping[str, str]) -> None:
        """That a run, as the study has it, sets nothing but what this command sweeps.

        A study may be another's, and an override can call anything.
        """
        lists = {key.lstrip("+"): texts for key, texts in self.space.lists.items()}
        swept = {*lists, *(key.lstrip("+") for key in self.space.intervals), "seed"}
        for key, text in point.items():
            name = key.lstrip("+")
            if name not in swept:
                raise UserError(f"{name}={text}: is in the study, but not swept by this command")
            if trust.in_words([f"{key}={text}"]) and text not in lists.get(name, ()):
                raise UserError(f"{name}={text}: is in the study, but not named by this command")

    @property
    def guarded(self) -> bool:
        """Whether it goes on with records that may be another's."""
        return self.resumed and not self.config.hydra.sweeper.get("trust")

    @property
    def allow(self) -> str:
        return f"{resume_command(self.folder)} {trust.TRUST}"

    @property
    def shared(self) -> bool:
        """Whether other machines may work on it."""
        return self.storage != "journal"

    @property
    def resumed(self) -> bool:
        return bool(self.config.hydra.sweeper.get("resume"))


opened: Path | None = None  # the folder of the latest sweep here, for Hydra hands nothing back


def sweep(config: DictConfig, loader: Any, launcher: Any, typed: Sequence[str]) -> list[float]:
    """Run a whole sweep: check, train, record, print, draw.

    Args:
        config: the composed config, with Hydra's part.
        loader: Hydra's config loader.
        launcher: the Hydra launcher that trains a batch of runs.
        typed: the command line's overrides.

    Returns:
        The objective of each finished run.

    Raises:
        UserError: an option that cannot work. Nothing was trained or written then.
        NotWritten: a record could not be written.
        SystemExit: with 1, when a run or a figure failed; with 129, 130 or 143, when it was
            interrupted.
    """
    setup_globals()
    checks.check_folder(config)
    _check_trust(config)
    devices.make_deterministic()  # before the checks, whose networks multiply matrices
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(typed))
    params = config.hydra.sweeper.get("params")
    space = spaces.read(overrides, params, config, loader)
    if not config.hydra.sweeper.get("resume"):  # else they were judged when it began
        wishes.refuse_unknown(config, typed, [*space.lists, *space.intervals])
    sampler_checks.check(config)
    url = _hide_password(config, space)
    server = _hide_tracking(config, space)
    current = _Sweep(config, loader, launcher, space, url, "LRLAB_WORKER" in os.environ)
    _check_launcher(current)
    node = tracker_settings(config)
    if node or len(config.tracking or ()) > 1:
        from lrlab import tracking

        plain = OmegaConf.to_container(config.tracking, resolve=True)
        assert isinstance(plain, dict)
        tracking.check({str(key): value for key, value in plain.items()})
    with passwords.tracking_kept(server):
        return _sweep(current, url, {override.get_key_element() for override in overrides})


def _sweep(current: _Sweep, url: str, named: set[str]) -> list[float]:
    """The sweep, once its options are judged.

    Args:
        url: the storage, with its password.
        named: the keys that were typed.
    """
    config = current.config
    with _remedied(current, begun=current.resumed):
        queue, first = _open(current, named)
    global opened
    opened = current.folder
    gc_pause.resume()
    try:
        with _remedied(current, begun=True):
            count = _count(current, queue)
            if count > 1:
                _announce(current, first, f"{_amount(current, queue)} by {count} workers")
                _say_left_out(current, queue)
                places = math.ceil(max(len(_left(queue)), 1) / count)
                queue.close()
                threads = _threads(config, count)
                code = workers.run(
                    current.folder, count, places, config.device, threads, url, not current.guarded
                )
                queue = _open_queue(current, first, "resume")
                if code:
                    _say_interrupted(current, queue)
                    raise SystemExit(code)
            else:
                _work(current, queue, first)
            return _finish(current, queue)
    except KeyboardInterrupt as error:  # at once, or where nothing could stop after a step
        told = "" if current.worker else f"; go on with {resume_command(current.folder)}"
        print(f"lrlab: interrupted{told}", file=sys.stderr)
        raise SystemExit(signals.exit_code(error)) from None
    finally:
        compose.forget()
        with contextlib.suppress(NotWritten, UserError):  # what ended the sweep is said already
            queue.close()


@contextlib.contextmanager
def _remedied(current: _Sweep, begun: bool) -> Iterator[None]:
    """Make of what the system says about a sweep's file a line that ends the command, and a remedy.

    Args:
        begun: whether there is something to go on with.

    Raises:
        NotWritten: a record could not be written or read.
    """
    try:
        yield
    except NotWritten as error:
        if begun and not error.remedy:
            error.remedy = _remedy(current.folder, error)
        raise
    except OSError as error:
        file = error.filename
        if not isinstance(file, str) or not Path(file).absolute().is_relative_to(current.folder):
            raise
        unread = NotWritten(file, error, "read or written")
        if begun:
            unread.remedy = _remedy(current.folder, unread)
        raise unread from error
    except UserError as error:
        if not begun or current.folder.is_dir():
            raise
        gone = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        unread = NotWritten(current.folder, gone, "read or written")
        unread.remedy = _remedy(current.folder, unread)
        raise unread from error


def _remedy(folder: Path, error: NotWritten) -> str:
    """What to do where a record of the sweep cannot be written or read, in one line."""
    if not folder.is_dir():
        return (
            f"the folder {folder} is gone, and with it what it had recorded; begin the sweep "
            "again, or, where it was moved, name its new place to python -m lrlab.resume"
        )
    again = f"go on with {resume_command(folder)}"
    if error.number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"make the folder writable, then {again}"
    if error.number in (errno.ENOENT, errno.ENOTDIR):
        return f"it was removed; {again}, which trains anew a run that had not ended"
    return f"make room for it, then {again}"


def _check_trust(config: DictConfig) -> None:
    """Refuse to go on with a sweep whose config would call what is not known, before it is used."""
    sweeper = config.hydra.sweeper
    if not sweeper.get("resume") or sweeper.get("trust"):
        return
    folder = Path(config.hydra.sweep.dir)
    groups = (*schema.GROUPS, *schema.SWEEP_GROUPS)
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    trust.check(plain, groups, str(folder), f"{resume_command(folder)} {trust.TRUST}")


def _hide_password(config: DictConfig, space: Space) -> str:
    """The storage as given, of which from here on only its masked form is to be seen.

    A word that names an environment variable stays as it is in the records of the sweep.
    """
    url = str(config.storage)
    shown = passwords.masked(url)
    if url == shown and "***" in url:  # a record has it so, and ``passwords.kept_apart`` makes it
        url = os.environ.get(passwords.VARIABLE, "")
        if "${" in url:  # in a word, next to a password
            url = str(OmegaConf.create({"url": url}).url)
        if passwords.masked(url) != shown:
            raise UserError(
                f"storage={shown}: its password is not in the records; give storage=… again, "
                "or leave the password to ~/.pgpass"
            )
    if shown != url:
        with open_dict(config):
            config.storage = shown
        # also where no word says it, but a file: each run's config is composed from that again
        words = [word for word in space.fixed if word.partition("=")[0].lstrip("+") != "storage"]
        space.fixed[:] = [*words, f"storage={spaces.quoted(shown)}"]
    return url


def _hide_tracking(config: DictConfig, space: Space) -> str | None:
    """The tracking server's address as given, as ``_hide_password``; None: it has no password."""
    node = tracker_settings(config)
    uri = node.get("uri")
    if not isinstance(uri, str):
        return None
    shown = passwords.masked_tracking(uri)
    if uri == shown and "***" in uri:
        uri = os.environ.get(passwords.TRACKING, "")
        if "${" in uri:
            uri = str(OmegaConf.create({"uri": uri}).uri)
        if passwords.masked_tracking(uri) != shown:
            raise UserError(
                f"tracking.uri={shown}: its password is not in the records; give tracking.uri=… "
                "again, or tracking.uri=null for that of MLFLOW_TRACKING_URI"
            )
    if shown == uri:
        return None
    with open_dict(config):
        config.tracking.uri = shown
    words = [w for w in space.fixed if w.partition("=")[0].lstrip("+") != "tracking.uri"]
    space.fixed[:] = [*words, f"++tracking.uri={spaces.quoted(shown)}"]
    return uri


def _check_launcher(current: _Sweep) -> None:
    if _has_lanes(current):
        return
    name = current.config.hydra.runtime.choices["hydra/launcher"]
    if _prunes(current.config):
        raise UserError(
            f"hydra/launcher={name}: trains each run by itself, so that none can be pruned; "
            "use pruner=none, or hydra/launcher=lanes"
        )
    if current.config.workers not in (1, "auto"):
        raise UserError(
            f"workers={current.config.workers}: hydra/launcher={name} starts the processes; "
            "use workers=1, or hydra/launcher=lanes"
        )


def _has_lanes(current: _Sweep) -> bool:
    from hydra_plugins.lrlab_hydra import LaneLauncher

    return isinstance(current.launcher, LaneLauncher)


# --- the folder and the study ---------------------------------------------------------------------


def _open(current: _Sweep, named: set[str]) -> tuple[Queue, compose.Job]:
    """Judge every run, then make or find the sweep's folder and its study."""
    config = current.config
    create = "resume" if current.resumed else "join" if current.shared else "new"
    while True:
        current.folder = _folder(config, named, create)
        current.own = compose.own_overrides(current.folder)
        searched = current.space.searched
        points = spaces.corners(current.space) if searched else spaces.points(current.space)
        checked = [current.job(point, number) for number, point in enumerate(points)]
        current.judged = {} if searched else {job.number: job for job in checked}
        specs = [job.spec for job in checked]
        plan.check_runs(specs)
        _check_losses(current, specs)
        current.notices = notices.lines(specs)
        sharing = None if current.worker else workers.sharing(config.workers, config.device)
        memory.check(specs, sharing)
        queue = None
        if current.shared:
            queue = _open_queue(current, checked[0], create)
        made = create != "resume" and records.create_sweep(current.folder)
        if made or create != "new":
            break  # else another sweep took the name in between
    try:
        with open_dict(config), read_write(config.hydra):  # Hydra 1.4 locks its part
            config.hydra.sweep.dir = literal(str(current.folder))
            config.name = literal(current.folder.name)
        if made:
            _write_config(current)  # first of all: from here on the sweep can be resumed
            if places.carried is not None:
                records.take_along(current.folder, places.carried)
        if queue is None:
            queue = _open_queue(current, checked[0], create)
    except (UserError, NotWritten, KeyboardInterrupt):
        if made:
            shutil.rmtree(current.folder, ignore_errors=True)
        raise
    narrowed = create == "join" and any(not run.is_asked for run in queue.trials())
    # A worker was given a device, and threads.
    if (create == "resume" or narrowed) and not made and not current.worker:
        _write_config(current)
    return queue, checked[0]


def _check_losses(current: _Sweep, specs: Sequence[plan.RunSpec]) -> None:
    """Refuse to let runs of losses that do not compare compete while they train."""
    pruned, objective = _prunes(current.config), str(current.config.objective)
    if current.resumed or not (pruned or current.space.searched):
        return
    if why := loss_kinds.incomparable(map(plan.summary, specs), objective):
        what = "pruner" if pruned else "search"
        has_classes = all(plan.load_data(spec).num_classes for spec in specs)
        raise UserError(
            f"objective={objective}: {why}, and the {what} would be misled; "
            f"{loss_kinds.remedy(has_classes)}"
        )


def _folder(config: DictConfig, named: set[str], create: str) -> Path:
    """The folder of the sweep: the user's, or the default one, with -2, -3 ... if taken.

    Raises:
        UserError: the user named a folder that is there already.
    """
    folder = Path(config.hydra.sweep.dir).expanduser().absolute()
    if create == "resume":
        return folder
    given = "name" in named or str(config.hydra.sweep.dir) != f"{config.output}/{config.name}"
    if create == "join" and given:
        return folder
    return records.free_folder(folder, may_rename=not given)


def _write_config(current: _Sweep) -> None:
    """multirun.yaml, which says again how the sweep was begun; not that it was resumed."""
    config = current.config.copy()
    OmegaConf.copy_cache(from_config=current.config, to_config=config)
    with open_dict(config), read_write(config.hydra):
        config.hydra.sweeper.resume = False
        config.hydra.sweeper.trust = False
        if current.resumed and places.began is not None:
            config.hydra.runtime.cwd = literal(str(places.began))
    began = [o for o in arguments.noted(config, "hydra") if not o.startswith(records.RESUMING)]
    arguments.note(config, "hydra", began)
    records.write_sweep_config(current.folder, OmegaConf.to_yaml(config, resolve=False))


def _open_queue(current: _Sweep, first: compose.Job, create: str) -> Queue:
    from lrlab import study

    config, searched = current.config, current.space.searched
    n_trials = config.n_trials
    if searched and n_trials is None and config.timeout is None:
        n_trials = DEFAULT_TRIALS
    if create == "resume" and not current.shared and not records.run_folders(current.folder):
        create = "join"  # it was interrupted before its study was there, or all of it
    return study.open_queue(
        name=current.folder.name,
        storage=current.storage,
        journal=records.journal_file(current.folder),
        space=current.space,
        direction=schema.direction(config.objective),
        sampler=first.spec["sampler"],
        pruner=first.spec["pruner"],
        seed=config.seed,
        n_trials=n_trials,
        settings=_settings(current.space, first),
        lease=config.lease,
        create=create,
        words=leftout.asking(arguments.noted(config, "task"), current.space),
        takes_all=config.n_trials is None,
        place=whereabouts.here(current.folder) if current.shared else None,
    )


# What a sweep had before there was a choice: a record that lacks the setting is no other sweep.
_BEFORE = {
    "precision": "float32",
    "network.parametrisation": "standard",
    "network.base_width": 64,
    "data.stratify": False,
    "data.standardise_targets": False,
    "data.decimal": "point",
    "data.header": True,
    "data.check": False,
}


def _settings(space: Space, first: compose.Job) -> dict[str, Any]:
    """What all runs have in common and decides their numbers, flat: to compare a resume with."""
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
    # of a swept group the first choice's settings say nothing; what the user set in it does
    for override in space.fixed:
        key, _, text = override.partition("=")
        if key.lstrip("+").partition(".")[0] in swept:
            found[key.lstrip("+")] = text
    return found


# --- working on it --------------------------------------------------------------------------------


def _threads(config: DictConfig, workers: int) -> int | None:
    """Threads of each worker: they share the cores, for threads that wait for one another spin."""
    if config.threads is not None or devices.choose_device(config.device) != "cpu":
        return config.threads
    return max(1, (os.cpu_count() or 1) // workers)


def _work(current: _Sweep, queue: Queue, first: compose.Job) -> None:
    """Train what the queue has to give, until it has nothing more or the user stops it."""
    config, spec = current.config, first.spec
    with signals.stoppable() as stop:
        by_jobs = not _has_lanes(current)
        source = StudySource(queue, current.folder, config, current.job, stop, by_jobs)
        try:
            if not current.worker:
                _announce(current, first, _amount(current, queue))
                _say_left_out(current, queue)
            if not by_jobs:
                rows = [
                    progress.LaneRow(run.number, label(run.overrides), epochs=spec["epochs"])
                    for run in ([] if current.space.searched else _left(queue))
                ]
                traced = records.profile_folder(current.folder) if config.profile else None
                with (
                    records.written_by_owner(source.check_owned),
                    profiling.traces(traced),
                    progress.show(rows) as update,
                ):
                    row_of = {row.run: i for i, row in enumerate(rows)}
                    pool.run(source, _width(current), spec.device, update, row_of, stop)
            else:
                with records.written_by_owner(source.check_owned):
                    _launch(current, source)
        except Stopped:
            pass
        finally:
            source.close()
        if stop():
            _say_interrupted(current, queue)
            raise SystemExit(stop.exit_code)
    if config.timeout is not None and len(_left(queue)) and not current.worker:
        print(f"lrlab: timeout={config.timeout:g}: no new run was started after it", flush=True)


def _announce(current: _Sweep, first: compose.Job, runs: str) -> None:
    launch.announce(first.spec, runs)
    launch.announce_measuring([first.spec])
    for line in current.notices:
        print(f"lrlab: {line}", file=sys.stderr)


def _left(queue: Queue) -> list[Run]:
    """The runs that this command is to train, and that have not ended."""
    return [run for run in queue.trials() if run.is_asked and run.state not in records.ENDED]


def _taken(queue: Queue) -> list[Run]:
    """The runs that have ended, and those that this command is to train."""
    return [run for run in queue.trials() if run.is_asked or run.state in records.ENDED]


def _say_left_out(current: _Sweep, queue: Queue) -> None:
    """Say what an earlier command asked for and this one does not, in a line each."""
    all_asked = all(run.is_asked for run in queue.trials())
    resume = "" if all_asked else resume_command(current.folder)
    for line in leftout.lines(queue, current.space, resume):
        print(f"lrlab: {line}", file=sys.stderr)


def _count(current: _Sweep, queue: Queue) -> int:
    """How many workers there are, and no more than runs are left."""
    wanted = workers.count(current.config.workers, current.config.device)
    if current.worker or wanted == 1:
        return 1
    without_end = current.space.searched and current.config.n_trials is None
    return wanted if without_end and current.config.timeout else min(wanted, len(_left(queue)))


def _amount(current: _Sweep, queue: Queue) -> str:
    total, left = len(_taken(queue)), len(_left(queue))
    seeds = len(spaces.seeds(current.space))
    if current.space.searched and current.config.n_trials is None and current.config.timeout:
        what = f"a search for {current.config.timeout:g} s"
        return f"{what} more, {total - left} runs have ended" if total else what
    elif current.space.searched:
        what = f"a search with {total // max(seeds, 1)} settings"
        what += f" of {seeds} seeds each" if seeds > 1 else ""
    else:
        what = "1 run" if total == 1 else f"{total} runs"
    what = what if left == total else f"{what}, {left} to train"
    others = queue.others()
    shared = "another process" if others == 1 else f"{others} other processes"
    return f"{what}, shared with {shared}," if others else what


def _width(current: _Sweep) -> int | None:
    if current.config.lanes != "auto":
        return int(current.config.lanes)
    share = os.environ.get("LRLAB_PLACES")  # of a worker: not more than its share
    if not (current.space.searched or current.shared or share):
        return None
    kind = devices.choose_device(current.config.device).partition(":")[0]
    places = PLACES[kind] * (2 if _prunes(current.config) else 1)
    return min(places, int(share or places))


def _prunes(config: DictConfig) -> bool:
    target = OmegaConf.select(config, "pruner._target_", default="")
    return not str(target).endswith("NopPruner")


def _launch(current: _Sweep, source: StudySource) -> None:
    """Train with one of Hydra's own launchers: each run by itself, wherever that puts it."""
    size = _width(current) or sys.maxsize
    launcher = current.launcher
    if task := getattr(launcher, "task_function", None):
        launcher.task_function = launch.OwnersTask(task, source.queue.worker)
    while not source.stop():
        batch: list[Start] = []
        while len(batch) < size and (start := source.take(source.tick)):
            batch.append(start)
        if not batch and not source.wait():
            return
        for group in _consecutive(batch):
            overrides = [source.overrides[start.spec.number] for start in group]
            # Where machines share only the database, nobody else tells the jobs of this one.
            heart = heartbeat.Heart(current.config.lease, source.disown_lost)
            try:
                with heartbeat.as_parent():
                    returns = launcher.launch(overrides, initial_job_idx=group[0].spec.number)
            finally:
                heart.stop()
            for start, returned in zip(group, returns, strict=True):
                source.check_owned(records.summary_file(start.spec.folder))
                launch.note_failure(start.spec.folder, returned)
                source.ended(start.spec.number)
                source.disown(start.spec.number)


def _consecutive(batch: Sequence[Start]) -> list[list[Start]]:
    """Runs whose numbers follow one another: Hydra numbers the jobs of a launch like that."""
    groups: list[list[Start]] = []
    for start in batch:
        if groups and groups[-1][-1].spec.number + 1 == start.spec.number:
            groups[-1].append(start)
        else:
            groups.append([start])
    return groups


# --- the end --------------------------------------------------------------------------------------


def _say_interrupted(current: _Sweep, queue: Queue) -> None:
    if current.worker:
        return
    from lrlab.tables import frames

    left, total = len(_left(queue)), len(_taken(queue))

    if records.run_folders(current.folder):
        records.write_runs(current.folder, frames.runs(current.folder))
    what = (
        f"{left} of {total} runs have not ended" if left else "all runs have ended, none is judged"
    )
    print(
        f"lrlab: interrupted, {what}; what was trained is recorded\n"
        f"lrlab: go on with {resume_command(current.folder)}",
        file=sys.stderr,
    )


def resume_command(folder: Path) -> str:
    """How to go on with a sweep, as one would type it here."""
    from lrlab import resume

    return resume.command(folder)


def _finish(current: _Sweep, queue: Queue) -> list[float]:
    """Write what the sweep came to, say it at once, then draw; the exit code says how it went."""
    if current.worker:
        return []
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from lrlab.plots import Tables
    from lrlab.tables import frames, table
    from lrlab.verdicts import answer_words
    from lrlab.verdicts import recommend as answer

    config, folder = current.config, current.folder
    trials = queue.trials()
    ended = [trial for trial in trials if trial.state in records.ENDED]
    elsewhere, gone = whereabouts.missing(folder, ended, queue.places())
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
    # A thousand runs' curves take gigabytes, so they are never all in memory.
    if config.plots:
        curves, verdicts = frames.drawn_and_judged(folder, target=config.target)
    else:
        curves, verdicts = None, frames.verdicts_of(folder, target=config.target)
    records.write_verdicts(folder, verdicts)
    answers = answer.recommend(verdicts)
    mixed = loss_kinds.of_best(runs, str(config.objective))
    best = None if mixed else _best(current, queue, trials)
    none = mixed or (_why_none(config) if best is None else _nothing_recommended(answers, runs))
    if none:
        best = None
    here = best is not None and (folder / str(best.run)).is_dir()
    if not here:
        records.remove_best(folder)  # of before the sweep was extended
    if best is not None and here:
        from lrlab.plan import best as best_run

        of = f"Best of {len(trials)} runs by {best.objective}: run {best.run}, {best.value:.6g}"
        of += f" (median of {best.seeds} seeds)" if best.seeds > 1 else ""
        try:
            records.write_best(folder, best_run.text(folder / str(best.run), of))
        except UserError as error:  # the run's own records are damaged; all else is written
            records.remove_best(folder)
            print(f"lrlab: no best.yaml is written: {error}", flush=True)
    width, told = fitting.terminal_width(), answer_words.text(answers)
    print(table.results(runs, folder, best, verdicts, told, width), flush=True)
    if best is None and "finished" in set(runs["state"]):
        print(f"lrlab: none is the best: {none}", flush=True)
    failed, unwritten = {}, None
    if curves is not None:
        try:
            tables = Tables(
                runs, curves, verdicts, answers=answers, objective=str(config.objective)
            )
            failed, unwritten = _draw(config, folder, tables)
        except KeyboardInterrupt as error:
            _say_undrawn(folder)
            raise SystemExit(signals.exit_code(error)) from None
    if lines := table.drawn(folder):
        print(lines, flush=True)
    _say_failed(folder, failed)
    if unwritten is not None:
        raise unwritten
    return _come_to(current, queue, trials, elsewhere, gone, bool(failed))


def _come_to(
    current: _Sweep,
    queue: Queue,
    trials: Sequence[Run],
    elsewhere: Mapping[whereabouts.Place, Sequence[Run]],
    gone: Sequence[int],
    failed: bool = False,
) -> list[float]:
    """Say what is not at hand; the objectives of the finished runs, or the exit code."""
    objective = str(current.config.objective)
    maximised = schema.direction(objective) == "maximize"
    for line in whereabouts.lines(elsewhere, len(trials), objective, maximised):
        print(f"lrlab: {line}", flush=True)
    if left := len(_left(queue)):
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


def _draw(
    config: DictConfig, folder: Path, tables: Tables
) -> tuple[dict[str, str], NotWritten | None]:
    """All figures and the report; the loss around three of the runs is measured meanwhile.

    What fails is left out.

    Returns:
        The figures that failed, "report" among them, and why; what could not be written, if
        anything.
    """
    from lrlab import plots, report
    from lrlab.plots.drawing import Drawing, cores, described
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
        except Exception as error:  # the runs are recorded, and what they came to is said
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
    from lrlab.tables.table import typed_path

    sweep = typed_path(folder)
    figures = [name for name in failed if name != "report"]
    again = [f"python -m lrlab.plots {sweep} --only {' '.join(figures)}"] if figures else []
    again.append(f"python -m lrlab.report {sweep}")  # which shows the figures that there are
    print(
        f"lrlab: the records are whole; draw what is missing with {', then '.join(again)}",
        file=sys.stderr,
    )


def _say_undrawn(folder: Path) -> None:
    from lrlab.tables.table import typed_path

    sweep = typed_path(folder)
    print(
        "lrlab: interrupted while drawing, the records are whole; draw with "
        f"python -m lrlab.plots {sweep}, or all of it with {resume_command(folder)}",
        file=sys.stderr,
    )


def _test_branches(current: _Sweep, trials: Sequence[Run]) -> None:
    """Make the branch tests that are still to be made, those of an interrupted sweep among them.

    Raises:
        SystemExit: the user stopped it.
    """
    folders = [current.folder / str(trial.number) for trial in trials]
    waiting = [t for t, f in zip(trials, folders, strict=True) if records.end_file(f).is_file()]
    specs = [current.job(trial.overrides, trial.number).spec for trial in waiting]
    launch.test_branches(specs, f"; go on with {resume_command(current.folder)}")


def _nothing_recommended(answers: Sequence[Answer], runs: pd.DataFrame) -> str:
    """Why no answer recommends an lr, so that none of several runs is the best; "": one does.

    A single run is not chosen from others: it is the best whatever it came to.
    """
    if len(runs) == 1 or not answers or any(not answer.refusal for answer in answers):
        return ""
    return answers[0].refusal


def _why_none(config: DictConfig) -> str:
    if str(config.objective).endswith("_to_target"):
        return f"no setting came to target={config.target}"
    return "in each setting, half of the seeds or more have not finished"


def _best(current: _Sweep, queue: Queue, trials: Sequence[Run]) -> Best | None:
    from lrlab.tables.table import Best

    found = queue.best()
    if found is None:
        return None
    setting, number, value = found
    swept = {k: text for k, text in trials[number].overrides.items() if k != "seed"}
    seeds = sum(trial.setting == setting for trial in trials)
    return Best(number, label(swept), str(current.config.objective), value, seeds)
