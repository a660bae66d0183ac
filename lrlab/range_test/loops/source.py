"""Read mini-batches from any iterable, and leave it and all random numbers as they were."""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lrlab.data.random_state import random_state_kept
from lrlab.errors import UserError

_NEVER_ENTERED = (Tensor, np.ndarray, nn.Module, torch.optim.Optimizer, type, types.ModuleType)
_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy"}
_MOST_ITEMS = 100  # of a list or dict that is searched for generators; longer ones are data
_MOST_OBJECTS = 10_000
_OF_LOADERS = ("generator", "sampler", "batch_sampler")


@contextmanager
def untouched(device: str, *given: Any) -> Iterator[ExitStack]:
    """Restore all random numbers, and the attributes of what is given, at the end.

    Its value is a stack for what is to be closed before that.
    """
    cuda = [torch.device(device)] if device.startswith("cuda") else []
    if torch.cuda.is_initialized():  # torch.manual_seed seeds all of them
        cuda = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    put_back = [back for each in given for back in _states(each)]
    try:
        with random_state_kept(cuda), warnings.catch_warnings(), ExitStack() as ends:
            # torch's own word for an operation that vmap makes lane by lane
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            yield ends
    finally:
        for back in put_back:
            back()


class Source:
    """The mini-batches of an iterable, pass after pass; an iterator gives one pass.

    A data loader is read through a copy: the position, the workers and the sampler of the loader
    itself do not move. What is drawn while reading continues from the random numbers at the start,
    whatever the training draws meanwhile: as in a loop whose network draws none.
    """

    def __init__(self, data: Iterable[Any], option: str) -> None:
        self._data, self._option = copied_loader(data, option), option
        self._is_iterator = isinstance(data, Iterator)
        self._iterator: Any = None
        self._drawn = _global_states()
        self._peeked: list[Any] = []

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        self._end_pass()

    def peek(self) -> Any:
        """Return the first mini-batch, without taking it.

        Raises:
            UserError: there is none.
        """
        if not self._peeked:
            self._peeked = self.take()
        if not self._peeked:
            raise UserError(f"{self._option}: gives no mini-batch")
        return self._peeked[0]

    def take(self) -> list[Any]:
        """Return a list of the next mini-batch; an empty one at the end of a pass."""
        if self._peeked:
            return [self._peeked.pop()]
        with random_state_kept():
            _set_global_states(self._drawn)
            try:
                if self._iterator is None:
                    self._iterator = iter(self._data)
                try:
                    return [fresh(next(self._iterator))]
                except StopIteration:
                    if not self._is_iterator:
                        self._end_pass()
                    return []
            finally:
                self._drawn = _global_states()

    def _end_pass(self) -> None:
        """End the workers and the generator of this pass, unless the iterator is the user's."""
        iterator, self._iterator = self._iterator, None
        if self._is_iterator:
            return
        if isinstance(self._data, DataLoader):
            vars(self._data)["_iterator"] = None  # of persistent workers
        for name in ("_shutdown_workers", "close"):
            if callable(end := getattr(iterator, name, None)):
                end()


def fresh(batch: Any, device: torch.device | None = None) -> Any:
    """Return a copy of a mini-batch of any structure, on the device.

    So a loss may take parts out of its batch, or change them, as in a loop that sees it once.
    """
    if isinstance(batch, Tensor):
        copied = batch.detach().to(device or batch.device, copy=True)
        return copied.requires_grad_() if batch.requires_grad else copied  # vmap refuses the former
    if isinstance(batch, MutableMapping):
        made = copy.copy(batch)
        for key, value in batch.items():
            made[key] = fresh(value, device)
        return made
    if type(batch) in (list, tuple):
        return type(batch)(fresh(each, device) for each in batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields") and not hasattr(batch, "to"):
        return type(batch)(*(fresh(each, device) for each in batch))
    try:
        made = copy.deepcopy(batch)
    except Exception:  # it holds something that cannot be copied, such as a file
        made = batch
    move = getattr(made, "to", None)
    return made if device is None or not callable(move) else move(device)


def size(batch: Any, depth: int = 3) -> int:
    """Return the number of samples: the length of the first tensor or array with a dimension.

    Args:
        depth: how deep to look into dicts, lists and attributes; 0 where there is none.
    """
    if isinstance(batch, Tensor | np.ndarray):
        return len(batch) if batch.ndim else 0
    parts: Iterable[Any] = ()
    if not depth:
        return 0
    if isinstance(batch, Mapping):
        parts = batch.values()
    elif isinstance(batch, list | tuple):
        parts = batch
    elif hasattr(batch, "__dict__"):
        parts = vars(batch).values()
    return next((found for part in parts if (found := size(part, depth - 1))), 0)


def copied_loader(data: Any, option: str) -> Any:
    """Return a copy of a data loader with samplers and generators of its own; others as they are.

    The copy shares the data set, and has no workers yet.

    Raises:
        UserError: the sampler cannot be copied.
    """
    if not isinstance(data, DataLoader):
        return data
    own = {name: vars(data)[name] for name in _OF_LOADERS if name in vars(data)}
    try:
        own = copy.deepcopy(own, {id(data.dataset): data.dataset})
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise UserError(
            f"{option}: the loader's sampler cannot be copied ({why}), so it could not be put "
            f"back; give iter(loader), which is consumed"
        ) from error
    made = copy.copy(data)
    vars(made).update(own, _iterator=None)
    return made


def _global_states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_global_states(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _states(root: Any) -> Iterator[Callable[[], object]]:
    """Yield functions that put generators and attributes back, of all that root leads to.

    An iterator is not put back: half of it, such as a counter next to a generator, would be wrong.
    """
    waiting, seen = [root], set[int]()
    alive = []  # so that no id is given twice
    while waiting and len(seen) < _MOST_OBJECTS:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _NEVER_ENTERED):
            continue
        seen.add(id(one))
        alive.append(one)
        if isinstance(one, torch.Generator):
            yield functools.partial(one.set_state, one.get_state())
        elif isinstance(one, random.Random):
            yield functools.partial(one.setstate, one.getstate())
        elif isinstance(one, np.random.Generator):
            yield functools.partial(setattr, one.bit_generator, "state", one.bit_generator.state)
        elif isinstance(one, np.random.RandomState):
            yield functools.partial(one.set_state, one.get_state())
        else:
            own = None if isinstance(one, Iterator) else _own_attributes(one)
            if own is not None:
                yield functools.partial(_put_back, own, dict(own))
            waiting += _parts(one)


def _own_attributes(one: Any) -> dict[str, Any] | None:
    """Return the dict of attributes of an object that is not of Python's own library."""
    if type(one).__module__.partition(".")[0] in sys.stdlib_module_names:
        return None
    own = getattr(one, "__dict__", None)
    return own if type(own) is dict else None


def _put_back(own: dict[str, Any], before: dict[str, Any]) -> None:
    if list(own) != list(before) or any(own[name] is not before[name] for name in before):
        own.clear()
        own.update(before)


def _parts(one: Any) -> list[Any]:
    """Return what an object holds, where random generators may be."""
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if isinstance(one, types.MethodType):
        return [one.__self__]
    if isinstance(one, types.FunctionType):
        cells = [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
        return cells + _named_generators(one.__code__, one.__globals__)
    if isinstance(one, list | tuple):
        return list(one) if len(one) <= _MOST_ITEMS else []
    if isinstance(one, Mapping):
        return list(one.values()) if len(one) <= _MOST_ITEMS else []
    return [*(_own_attributes(one) or {}).values(), *_of_methods(type(one))]


def _named_generators(code: types.CodeType, names: Mapping[str, Any]) -> list[Any]:
    """Return the generators that a function takes from the variables of its module."""
    found = [names[name] for name in code.co_names if isinstance(names.get(name), _GENERATORS)]
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return found + [each for part in inner for each in _named_generators(part, names)]


def _of_methods(kind: type) -> list[Any]:
    """Return the generators that methods of a class take from the variables of their module."""
    own = [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in _LIBRARIES]
    values = (value for each in own for value in vars(each).values())
    methods = (value for value in values if isinstance(value, types.FunctionType))
    return [g for each in methods for g in _named_generators(each.__code__, each.__globals__)]


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
