"""``python -m lrlab.sweep lr=0.001,0.1,1.0``: the entry point. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lrlab import completion, records
from lrlab._version import __version__
from lrlab.config import arguments, flags, messages, passwords, schema, trust
from lrlab.errors import NotWritten, UserError
from lrlab.process import gc_pause, signals, verbs
from lrlab.study import heartbeat

# Hydra 1.3 warns where it is left out, Hydra 1.4 where it is given.
BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

ConfigStore.instance().store(name="lrlab_schema", node=schema.Config, provider="lrlab")
# Hydra copies its one store with each look at its sources, a hundred times for --help, and then
# copies again what it takes out of it.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


def task(config: DictConfig) -> dict[str, Any]:
    """Train one run. Hydra's own launchers call this for each job; the lanes launcher does not."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from lrlab.config import wishes
    from lrlab.engine import devices
    from lrlab.plan import compose
    from lrlab.sweeping import launch

    heartbeat.end_with_parent()
    devices.make_deterministic()
    with open_dict(config):
        config.hydra = HydraConfig.get()
    try:
        if HydraConfig.get().mode != RunMode.MULTIRUN:  # of which the sweeper judged all runs
            wishes.refuse_unknown(config, arguments.noted(config, "task"))
        return launch.run_one(compose.spec(config))
    except UserError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # one run of many: the launcher notes it, and the others go on
        fail(error)


def main() -> None:
    """Run a sweep; bad input ends with one line and exit code 2."""
    verbs.begin()
    heartbeat.end_with_parent()
    bash = completion.answer(sys.argv[1:])
    if bash is not None:
        print(bash, end="")
        return
    if "--version" in sys.argv[1:]:  # Hydra would say its own
        print(f"lrlab {__version__}")
        return
    with gc_pause.put_off():
        guarded(lambda: run(sys.argv[1:]))


def guarded(work: Callable[[], None], interrupted: str = "lrlab: interrupted") -> None:
    """Do a command's work; what went wrong is one line, and the exit code says which way."""
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
    """Do a command's work; what the user can mend is a UserError, whoever found it.

    Raises:
        UserError: bad input; its cause is the error of Hydra or OmegaConf, if it was one.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, rather than to Hydra's own printer
    try:
        work()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # A ValueError of Hydra's own is data=5, or the same in a file's defaults; any other is a
        # bug, which must show its place.
        of_hydra = ("group override", "item value in defaults")
        if type(error) is ValueError and not any(part in str(error) for part in of_hydra):
            raise
        raise UserError(messages.one_line(error)) from error
    except OSError as error:  # of whoever looked for a file by a word of the command
        if not verbs.too_long(error):
            raise
        raise UserError(f"{error.filename}: is too long for a file's name or a path") from error
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def run(typed: list[str]) -> None:
    """Do what a command line says, by way of Hydra.

    Args:
        typed: the command line's words, without the program.
    """
    with passwords.kept_apart(_trusted(flags.first(typed))) as words:
        _run(words)


def _run(typed: list[str]) -> None:
    conf = str(schema.folder("conf"))
    application = hydra.main(**BASE, config_path=conf, config_name="config")(task)

    def start(*more: str, deferred: Sequence[str] = ()) -> None:
        program, before = sys.argv[0], sys.argv
        sys.argv = [program, *arguments.for_hydra(typed, deferred), *more]
        try:
            with _known_mode(typed):
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
            # Hydra finds the mode by composing, and takes it for one run where that fails. With
            # the flag it comes to what is really wrong.
            start("--multirun")
        else:
            raise


@contextlib.contextmanager
def _known_mode(typed: list[str]) -> Iterator[None]:
    """Spare Hydra to compose the whole config once more, only to find its mode: 0.2 s."""
    from hydra._internal.hydra import Hydra

    asks = getattr(Hydra, "get_mode", None)
    if asks is None or not arguments.says_no_mode(typed):  # another Hydra asks in another way
        yield
        return
    Hydra.get_mode = lambda *_, **__: RunMode.MULTIRUN  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = asks  # type: ignore[method-assign]


def _trusted(typed: list[str]) -> list[str]:
    """The words without ``trust=true``; without it a best.yaml may name only what is harmless.

    Raises:
        UserError: it names something else.
    """
    words, trusted = trust.without_trust(typed)
    file = trust.saved_config(words)
    if file is not None and not trusted:
        again = f"the same command with {trust.TRUST}"
        trust.refuse(trust.in_best(records.read_best(file.parent)), str(file), again)
    return words


def fail(error: Exception) -> NoReturn:
    """Print what the user can do in one line and exit with 2."""
    line = str(error) if isinstance(error, UserError) else messages.one_line(error)
    print(f"lrlab: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
