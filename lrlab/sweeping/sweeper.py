"""Run a whole sweep: open the study, train its trials, each as a run, and end it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from lrlab.config import checks, passwords, schema, trust
from lrlab.config import space as spaces
from lrlab.config.space import Space
from lrlab.config.words import wishes
from lrlab.config.words.arguments import Command
from lrlab.engine import devices
from lrlab.errors import NotWritten, UserError
from lrlab.plan import compose
from lrlab.process import gc_pause, signals
from lrlab.study import sampler_checks
from lrlab.study.trial_source import tracker_settings
from lrlab.sweeping import ending, workers, working
from lrlab.sweeping.judged import Sweep, has_lanes, prunes
from lrlab.sweeping.opening import open_queue, open_sweep
from lrlab.sweeping.resuming import resume_command


def sweep(
    config: DictConfig,
    loader: Any,
    launcher: Any,
    typed: Sequence[str],
    command: Command = Command(),  # noqa: B008 (it is frozen)
) -> list[float]:
    """Run a whole sweep: check, train, record, print, draw.

    Args:
        typed: the command line's overrides.
        command: the rest of the parsed command line.

    Returns:
        The objective of each finished run.

    Raises:
        UserError: an option cannot work. Nothing was trained or written.
        NotWritten: a record could not be written.
        SystemExit: with 1, when a run or a figure failed; with 129, 130 or 143, when it was
            interrupted.
    """
    setup_globals()
    checks.check_folder(config)
    _check_trust(config)
    devices.make_deterministic()  # before the checks, because their networks multiply matrices
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(list(typed))
    params = config.hydra.sweeper.get("params")
    space = spaces.read(overrides, params, config, loader)
    if not config.hydra.sweeper.get("resume"):  # otherwise they were checked when it began
        wishes.refuse_unknown(config, typed, [*space.lists, *space.intervals])
    sampler_checks.check(config)
    url = _hide_password(config, space)
    server = _hide_tracking(config, space)
    worker = "LRLAB_WORKER" in os.environ
    current = Sweep(config, loader, launcher, space, url, worker, command)
    _check_launcher(current)
    node = tracker_settings(config)
    if node or len(config.tracking or ()) > 1:
        from lrlab import tracking

        plain = OmegaConf.to_container(config.tracking, resolve=True)
        assert isinstance(plain, dict)
        tracking.check({str(key): value for key, value in plain.items()})
    with passwords.tracking_kept(server):
        return _sweep(current, url, {override.get_key_element() for override in overrides})


def _sweep(current: Sweep, url: str, named: set[str]) -> list[float]:
    """Run the sweep after its options were checked.

    Args:
        url: the storage, with its password.
        named: the keys that were typed.
    """
    config = current.config
    with _remedied(current, begun=current.resumed):
        queue, first = open_sweep(current, named)
    current.command.opened(current.folder)
    gc_pause.resume()
    try:
        with _remedied(current, begun=True):
            count = working.worker_count(current, queue)
            if count > 1:
                working.announce(
                    current, first, f"{working.amount_of_runs(current, queue)} by {count} workers"
                )
                working.say_left_out(current, queue)
                places = math.ceil(max(len(working.runs_left(queue)), 1) / count)
                queue.close()
                threads = working.worker_threads(config, count)
                code = workers.run(
                    current.folder, count, places, config.device, threads, url, not current.guarded
                )
                queue = open_queue(current, first, "resume")
                if code:
                    working.say_interrupted(current, queue)
                    raise SystemExit(code)
            else:
                working.work(current, queue, first)
            return ending.finish(current, queue)
    except KeyboardInterrupt as error:  # at once, or where nothing could stop after a step
        told = "" if current.worker else f"; go on with {resume_command(current.folder)}"
        print(f"lrlab: interrupted{told}", file=sys.stderr)
        raise SystemExit(signals.exit_code(error)) from None
    finally:
        compose.forget()
        with contextlib.suppress(NotWritten, UserError):  # the sweep's error is already printed
            queue.close()


@contextlib.contextmanager
def _remedied(current: Sweep, begun: bool) -> Iterator[None]:
    """Turn a system error about a sweep's file into a line that ends the command, with a remedy.

    Args:
        begun: whether there is a sweep to go on with.

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
    """Return what to do when a record of the sweep cannot be written or read, in one line."""
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
    """Refuse to go on with a sweep whose config would call something unknown, before it is used."""
    sweeper = config.hydra.sweeper
    if not sweeper.get("resume") or sweeper.get("trust"):
        return
    folder = Path(config.hydra.sweep.dir)
    groups = (*schema.GROUPS, *schema.SWEEP_GROUPS)
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    trust.check(plain, groups, str(folder), f"{resume_command(folder)} {trust.TRUST}")


def _hide_password(config: DictConfig, space: Space) -> str:
    """Return the storage as given, and leave only its masked form visible.

    A word that names an environment variable stays unchanged in the records of the sweep.
    """
    url = _whole(str(config.storage), passwords.masked, passwords.VARIABLE)
    shown = passwords.masked(str(config.storage))
    if url is None:
        raise UserError(
            f"storage={shown}: its password is not in the records; give storage=… again, "
            "or leave the password to ~/.pgpass"
        )
    if shown != url:
        _leave_visible(config, space, "storage", shown)
    return url


def _hide_tracking(config: DictConfig, space: Space) -> str | None:
    """Return the tracking server's address, as ``_hide_password``; None: it has no password."""
    given = tracker_settings(config).get("uri")
    if not isinstance(given, str):
        return None
    uri = _whole(given, passwords.masked_tracking, passwords.TRACKING)
    shown = passwords.masked_tracking(given)
    if uri is None:
        raise UserError(
            f"tracking.uri={shown}: its password is not in the records; give tracking.uri=… "
            "again, or tracking.uri=null for that of MLFLOW_TRACKING_URI"
        )
    if shown == uri:
        return None
    _leave_visible(config, space, "tracking.uri", shown)
    return uri


def _whole(given: str, masked: Callable[[str], str], variable: str) -> str | None:
    """Return an address with its password; None if the password is unknown.

    A masked one, as in a record or from ``passwords.kept_apart``, is whole in the variable.
    """
    if given != masked(given) or "***" not in given:
        return given
    found = os.environ.get(variable, "")
    if "${" in found:  # in a word, next to a password
        found = str(OmegaConf.create({"url": found}).url)
    return found if masked(found) == given else None


def _leave_visible(config: DictConfig, space: Space, key: str, shown: str) -> None:
    """Put a masked address into the config and the words, from which runs are composed again."""
    with open_dict(config):
        OmegaConf.update(config, key, shown)
    words = [word for word in space.fixed if word.partition("=")[0].lstrip("+") != key]
    plus = "++" if "." in key else ""
    space.fixed[:] = [*words, f"{plus}{key}={spaces.quoted(shown)}"]


def _check_launcher(current: Sweep) -> None:
    if has_lanes(current):
        return
    name = current.config.hydra.runtime.choices["hydra/launcher"]
    if prunes(current.config):
        raise UserError(
            f"hydra/launcher={name}: trains each run by itself, so that none can be pruned; "
            "use pruner=none, or hydra/launcher=lanes"
        )
    if current.config.workers not in (1, "auto"):
        raise UserError(
            f"workers={current.config.workers}: hydra/launcher={name} starts the processes; "
            "use workers=1, or hydra/launcher=lanes"
        )
