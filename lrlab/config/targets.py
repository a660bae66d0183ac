"""Resolve a config node with ``_target_`` to the class it names and the arguments it takes."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lrlab import not_importable
from lrlab.config.schema import nearest
from lrlab.errors import UserError

HYDRA_KEYS = frozenset({"_target_", "_partial_", "_convert_", "_recursive_"})


@dataclass(frozen=True)
class Target:
    """The class or function that a config node names.

    Attributes:
        option: the ``_target_`` as the user would type it, to begin an error line with.
        call: the class or function.
        given: the node's arguments; nested nodes with a ``_target_`` are instantiated.
        defaults: the arguments that have a default and were not given.
    """

    option: str
    call: Callable[..., Any]
    given: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def name(self) -> str:
        return getattr(self.call, "__name__", self.option)

    @property
    def arguments(self) -> dict[str, Any]:
        return {**self.defaults, **self.given}


def read(
    group: str,
    node: Mapping[str, Any],
    base: type,
    withheld: Collection[str] = (),
    own_keys: Collection[str] = (),
) -> Target:
    """Look up a node's target and check its argument names.

    Args:
        group: the node's key in the config, ``optimizer`` or ``schedule``.
        node: ``_target_`` and arguments, as plain containers.
        base: the class from which a target should derive; suggestions are drawn from it.
        withheld: arguments that lrlab passes itself, so that a config may not.
        own_keys: keys of the node for the caller, which are no arguments.

    Raises:
        UserError: no such target, an unknown argument, or a required one is missing.
    """
    path = node.get("_target_")
    if not isinstance(path, str):
        raise UserError(
            f"{group}._target_={path}: must name a class, "
            f"for example {group}._target_={base.__module__}.{base.__name__}"
        )
    option = f"{group}._target_={path}"
    call = locate(option, path, base)
    try:
        parameters = list(inspect.signature(call).parameters.values())[1:]
    except (TypeError, ValueError) as error:
        raise UserError(f"{option}: its arguments cannot be read ({error})") from error
    named = {
        p.name: p
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in withheld
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    given = {k: v for k, v in node.items() if k not in HYDRA_KEYS and k not in own_keys}
    name = getattr(call, "__name__", path)
    for key, value in given.items():
        if key in withheld or (key not in named and not anything):
            raise lacking(f"{group}.{key}={value}", name, named, own_keys)
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in given:
            raise UserError(f"{group}.{key}: missing, {name} needs it; set {group}.{key}=VALUE")
    defaults = {
        k: p.default for k, p in named.items() if k not in given and p.default is not p.empty
    }
    return Target(option, call, {k: _resolved(option, v) for k, v in given.items()}, defaults)


def taken(call: Callable[..., Any]) -> list[str] | None:
    """Return the names of a callable's parameters, in order; None: any name, or unreadable."""
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return None
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return None if anything else list(parameters)


def check_taken(
    group: str, node: Mapping[str, Any], call: Callable[..., Any], known: Sequence[str]
) -> None:
    """Refuse settings of a node that its class or function does not take.

    Args:
        group: the node's key in the config.
        known: the settings that it takes.
    """
    for key, value in node.items():
        if key not in known and key not in HYDRA_KEYS:
            raise lacking(f"{group}.{key}={value}", call.__name__, known)


def lacking(typed: str, name: str, takes: Iterable[str], near: Iterable[str] = ()) -> UserError:
    """Return the line for a setting that a class or a function does not take.

    Args:
        typed: as GROUP.SETTING=VALUE.
        name: of the class or function.
        takes: the settings that it takes.
        near: further ones that may have been meant.
    """
    from lrlab.config.words import wishes

    setting = typed.partition("=")[0].rpartition(".")[2]
    known = list(dict.fromkeys(takes))
    told = wishes.instead(setting)
    return UserError(
        f"{typed}: {name} has no such option{nearest(setting, [*known, *near])}; "
        f"it takes {', '.join(known) or 'none'}{f'; {told}' if told else ''}"
    )


def failed(target: Target, error: BaseException) -> UserError:
    """Return the target's own error as one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):  # its text is the key alone
        text = f"{type(error).__name__}: {text}"
    return UserError(f"{target.option}: {text}")


def instantiate(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Call Hydra's ``instantiate`` on the user's target, unless Hydra considers it unsafe.

    Hydra 1.4 warns about a target that is on no list of the program's. lrlab has no such list,
    because the user chooses the classes to train with.
    """
    from hydra.utils import instantiate as made

    not_importable.check("_target_", node.get("_target_"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved", UserWarning)
        return made(node, **arguments)


def hydra_error() -> type[Exception]:
    """Return the exception that Hydra raises when it cannot make an object."""
    from hydra.errors import HydraException

    return HydraException


def located(path: str) -> Any:
    """Return the object of an import path, as Hydra finds it; raise Hydra's errors."""
    from hydra.utils import get_object

    return get_object(path)


@functools.cache
def locate(option: str, path: str, base: type) -> Callable[..., Any]:
    """Return the class or function of that import path.

    Args:
        option: what the user typed; an error line begins with it.
        path: its import path.
        base: the class from which it should derive.

    Raises:
        UserError: there is none, or it is something else.
    """
    # instantiate, not get_object: since 1.3.8 Hydra refuses unsafe targets there, and it prints
    # nothing itself
    try:
        not_importable.check(option.partition("=")[0], path)
        call = instantiate({"_target_": path, "_partial_": True}).func
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{option}: cannot be loaded{_suggestion(path, base)}") from error
    if isinstance(call, type) and not issubclass(call, base):
        raise UserError(f"{option}: is no {base.__name__}{_suggestion(path, base)}")
    return call


def _suggestion(path: str, base: type) -> str:
    module, _, _ = path.rpartition(".")
    try:
        found = vars(import_module(module or base.__module__))
    except Exception:
        return "; it must be an importable name such as package.module.Name"
    names = [k for k, v in found.items() if isinstance(v, type) and issubclass(v, base)]
    hint = nearest(path, [f"{module}.{k}" for k in names if not k.startswith("_")])
    return hint or f"; {module} has no {base.__name__} of that name"


def _resolved(option: str, value: Any) -> Any:
    if not (isinstance(value, Mapping) and "_target_" in value):
        return value
    try:
        return instantiate(value)
    except Exception as error:
        text = " ".join(str(error).split())
        raise UserError(f"{option}: its argument {dict(value)} cannot be built: {text}") from error
