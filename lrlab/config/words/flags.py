# pyright: strict
"""Find Hydra's flags anywhere among the words of a command, and refuse others in one line.

Hydra's own parser takes no word after a flag that follows words, and prints its usage.
"""

from __future__ import annotations

from collections.abc import Sequence

from lrlab.errors import UserError
from lrlab.process.verbs import near

_SHORT = {
    **{"-h": "--help", "-c": "--cfg", "-p": "--package", "-r": "--run", "-m": "--multirun"},
    **{"-sc": "--shell-completion", "-cp": "--config-path", "-cn": "--config-name"},
    **{"-cd": "--config-dir", "-i": "--info"},
}
_CFG = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# Each flag that takes a value, with its allowed values; (): any.
_VALUES: dict[str, tuple[str, ...]] = {
    **{"--cfg": _CFG, "--info": _INFO, "--package": (), "--config-path": ()},
    **{"--config-name": (), "--config-dir": (), "--experimental-rerun": ()},
}
_EXAMPLES = {
    **{"--package": "optimizer", "--config-path": "FOLDER", "--config-dir": "FOLDER"},
    **{"--config-name": "NAME", "--experimental-rerun": "FILE", "--cfg": "job"},
}
_BARE = (
    *("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun"),
    "--shell-completion",
)
FLAGS = (*_BARE, *_VALUES)
_COMMANDS = ("--run", "--multirun", "--cfg", "--info", "--shell-completion")
_OF_CFG = ("--resolve", "--package")


def first(typed: Sequence[str]) -> list[str]:
    """Return the command line with its flags first, in full, each with its value in the same word.

    Args:
        typed: without the program's name.

    Raises:
        UserError: a flag that Hydra does not have, without its value, or with one that it does not
            take; flags that do not go together.
    """
    flags: dict[str, str | None] = {}
    words: list[str] = []
    left = list(typed)
    while left:
        word = left.pop(0)
        if word == "--":
            words += left
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = _known(flag, word)
        if flag in flags and flag in _VALUES:
            raise UserError(f"{flag}: is given twice; keep one")
        if flag not in _VALUES:
            if equals:
                raise UserError(f"{word}: takes no value; write {flag}")
            flags[flag] = None
        elif flag == "--info" and not equals and (not left or left[0][:1] == "-" or "=" in left[0]):
            flags[flag] = "all"  # no value of --info follows
        else:
            flags[flag] = _checked(flag, value if equals else _taken(flag, left))
    _check_together(flags, words)
    if "--hydra-help" in flags:  # it would look for the options in Hydra's own config
        words = [word for word in words if word.startswith("hydra")]
    return [flag if value is None else f"{flag}={value}" for flag, value in flags.items()] + words


def split(ordered: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the result of `first` as its flags and its words."""
    flags = [word for word in ordered if word.startswith("-")]
    return flags, list(ordered[len(flags) :])


def _known(flag: str, word: str) -> str:
    """Return a flag in full; argparse also accepts its beginning."""
    if flag in FLAGS:
        return flag
    if flag in _SHORT:
        return _SHORT[flag]
    begun = [each for each in FLAGS if flag.startswith("--") and each.startswith(flag)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise UserError(f"{word}: is the beginning of {', '.join(begun)}; write one of them")
    from lrlab.config.schema import known_keys

    option = flag.lstrip("-").replace("-", "_")
    if option in known_keys():
        value = word.partition("=")[2]
        raise UserError(f"{word}: options have no dashes; write {option}={value or '...'}")
    raise UserError(
        f"{word}: no such flag{near(flag, [*FLAGS, '--json'])}; options are written option=value, "
        "without dashes, and --help lists them"
    )


def _taken(flag: str, left: list[str]) -> str:
    if left and not left[0].startswith("-"):
        return left.pop(0)
    raise UserError(f"{flag}: needs a value{_choices(flag)}")


def _checked(flag: str, value: str) -> str:
    choices = _VALUES[flag]
    if not value:
        raise UserError(f"{flag}: needs a value{_choices(flag)}")
    if choices and value not in choices:
        raise UserError(f"{flag}={value}: no such choice{_choices(flag)}")
    return value


def _choices(flag: str) -> str:
    if choices := _VALUES[flag]:
        return f"; choose from {', '.join(choices)}"
    return f", as {flag} {_EXAMPLES[flag]}"


def _check_together(flags: dict[str, str | None], words: Sequence[str]) -> None:
    asked = [flag for flag in _COMMANDS if flag in flags]
    if len(asked) > 1:
        raise UserError(f"{asked[1]}: does not go with {asked[0]}; leave one of them out")
    for flag in _OF_CFG:
        if flag in flags and "--cfg" not in flags:
            raise UserError(f"{flag}: goes with --cfg, as --cfg job {flag}")
    if "--multirun" in flags and "hydra.mode=RUN" in words:
        raise UserError("--multirun: does not go with hydra.mode=RUN; leave one of them out")
    does = ("install=", "uninstall=", "query=")
    if "--shell-completion" in flags and not any(word.startswith(does) for word in words):
        raise UserError(f"--shell-completion: needs one of {', '.join(does)}, as install=bash")
