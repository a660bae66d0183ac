"""Run one command line of ``python -m lrlab.sweep`` through Hydra; an error is one line.

Hydra names its jobs after this file, which has the verb's name.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lrlab import records
from lrlab.config import hydra_store, passwords, schema, trust
from lrlab.config.hydra_store import BASE
from lrlab.config.words import arguments, flags, messages
from lrlab.errors import NotWritten, UserError
from lrlab.process import signals
from lrlab.study import heartbeat


def task(config: DictConfig) -> dict[str, Any]:
    """Train one run.

    Hydra's own launchers call this for each job; the lanes launcher does not.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from lrlab.config.words import wishes
    from lrlab.engine import devices
    from lrlab.plan import compose
    from lrlab.sweeping import launch

    heartbeat.end_with_parent()
    devices.make_deterministic()
    with open_dict(config):
        config.hydra = HydraConfig.get()
    try:
        if HydraConfig.get().mode != RunMode.MULTIRUN:  # the sweeper checked all its runs
            wishes.refuse_unknown(config, arguments.noted(config, "task"))
            if config.budget is not None:
                raise UserError(f"budget={config.budget}: is a sweep's; leave out hydra.mode=RUN")
        return launch.run_one(compose.spec(config))
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # one run of many: the launcher notes it, and the others go on
        fail(error)


@dataclass(frozen=True)
class Task:
    """The task that Hydra runs for each job, with its command line for the sweeper.

    In another process it is the task alone.
    """

    command: arguments.Command

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        return task(config)

    def __reduce__(self) -> tuple[Any, ...]:
        return _task, ()


def _task() -> Callable[[DictConfig], dict[str, Any]]:
    return task


def run(
    typed: list[str],
    *,
    carried: Path | None = None,
    began: Path | None = None,
    opened: Callable[[Path], object] = lambda folder: None,
) -> None:
    """Run a command line through Hydra.

    Args:
        typed: the command line's words, without the program.
        carried, began, opened: of `lrlab.config.words.arguments.Command`.
    """
    with passwords.kept_apart(_trusted(flags.first(typed))) as words:
        parse = partial(arguments.read, words, carried=carried, began=began, opened=opened)
        _run(words, parse)


def _run(typed: list[str], parse: Callable[..., arguments.Command]) -> None:
    conf = str(schema.folder("conf"))

    def start(*more: str, deferred: Sequence[str] = ()) -> None:
        command = parse(deferred)
        application = hydra.main(**BASE, config_path=conf, config_name="config")(Task(command))
        known = arguments.says_no_mode(typed)
        before = sys.argv
        sys.argv = [before[0], *command.for_hydra, *more]
        try:
            with hydra_store.ready(), hydra_store.mode_known() if known else nullcontext():
                application()
        finally:
            sys.argv = before

    try:
        start()
    except ConfigCompositionException as error:
        if not arguments.is_sweep(typed):
            raise
        group = messages.group_of_unknown_setting(error)
        if group is not None and any("experiments=" in word for word in typed):
            start(deferred=[group])  # the experiment may sweep the group
        elif "--multirun" in str(error):
            # Hydra finds the mode by composing, and assumes one run if that fails. With the flag it
            # gets to the real error.
            start("--multirun")
        else:
            raise


def _trusted(typed: list[str]) -> list[str]:
    """Return the words without ``trust=true``; otherwise a best.yaml may name only harmless things.

    Raises:
        UserError: it names something else.
    """
    words, trusted = trust.without_trust(typed)
    file = trust.saved_config(words)
    if file is not None and not trusted:
        again = f"the same command with {trust.TRUST}"
        trust.refuse(trust.in_best(records.read_best(file.parent)), str(file), again)
    return words


def guarded(work: Callable[[], None], interrupted: str = "lrlab: interrupted") -> None:
    """Run a command; print an error in one line, and return the exit code."""
    wanted = os.environ.get("HYDRA_FULL_ERROR")
    try:
        with signals.interruptible():
            told(work)
    except UserError as error:
        if wanted == "1":
            cause = error.__cause__
            if isinstance(cause, HydraException | OmegaConfBaseException | ValueError):
                raise cause  # noqa: B904 (it keeps the causes that it has)
            raise
        fail(error)
    except NotWritten as error:
        print(f"lrlab: {error}", file=sys.stderr)
        if error.remedy:
            print(f"lrlab: {error.remedy}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print(interrupted, file=sys.stderr)
        sys.exit(signals.exit_code(error))


def told(work: Callable[[], None]) -> None:
    """Run a command; turn every error that the user can correct into a UserError.

    Raises:
        UserError: bad input; its cause is the error of Hydra or OmegaConf, if it was one.
    """
    if not __debug__:
        raise UserError(
            "python -O: leaves out the assert statements with which Hydra reads options; "
            "run python without -O, and without PYTHONOPTIMIZE"
        )
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of to Hydra's own printer
    try:
        with warnings.catch_warnings():
            # torch's own word for an operation that vmap makes lane by lane, such as attention
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            work()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # A ValueError of Hydra's own is data=5, or the same in a file's defaults. Any other is a
        # bug, and must show its place.
        of_hydra = ("group override", "item value in defaults")
        if type(error) is ValueError and not any(part in str(error) for part in of_hydra):
            raise
        raise UserError(messages.one_line(error)) from error
    except OSError as error:  # from a search for a file named by a word of the command
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UserError(f"{error.filename}: is too long for a file's name or a path") from error
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def fail(error: Exception) -> NoReturn:
    """Print in one line what the user can do, and exit with 2."""
    line = str(error) if isinstance(error, UserError) else messages.one_line(error)
    print(f"lrlab: {line}", file=sys.stderr)
    sys.exit(2)
