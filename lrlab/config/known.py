"""List the names that a record may use without trust, because they can only train."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

from lrlab.config.schema import GROUPS, SWEEP_GROUPS

# A name must be found within one of these, and be defined in one of them.
PACKAGES = (
    *("lrlab", "torch.nn", "torch.optim", "torchvision.models"),
    *("optuna.samplers", "optuna.pruners"),
)
_NOT_OF_THEM = ("torchvision.models.feature_extraction",)  # turns texts into programs

# lrlab's own readers; none of them runs what it reads.
READERS = (
    "lrlab.data.torchvision_images",
    *(f"lrlab.own_data.{name}" for name in ("arrays", "table", "image_folder", "torchvision_set")),
)
# Sets of torchvision that are read as numbers and images, or as pickles with a known hash. Some of
# the others unpickle any file in data.root.
SETS = (
    *("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "USPS", "CIFAR10", "CIFAR100"),
    *("SVHN", "STL10", "ImageFolder", "FakeData"),
)
TRACKERS = ("lrlab.tracking.TensorBoard", "lrlab.tracking.MLflow")


def is_known(path: str, group: str) -> bool:
    """Return whether an import path names something of the group's kind that can only train.

    It must be a class or function that is defined in one of ``PACKAGES``. Being reachable through
    one of them is not enough, because modules hold their imports (torch.nn.modules.os).

    Args:
        path: a ``_target_``.
        group: where it is; ``""`` for one within another.
    """
    if group in ("data", "tracking"):
        return path in (READERS if group == "data" else TRACKERS)
    found = located(path)
    kinds = set() if found is None else _kinds(found)
    return group in kinds if group in (*GROUPS, *SWEEP_GROUPS) else bool(kinds)


def located(path: str) -> Any:
    """Return the class or function, or None if there is none or it is defined elsewhere."""
    names = path.split(".")
    if not all(name.isidentifier() and not name.startswith("_") for name in names):
        return None
    package = next((each for each in PACKAGES if path.startswith(f"{each}.")), None)
    if package is None or path.startswith(_NOT_OF_THEM):
        return None
    try:
        found: Any = import_module(package)
        for name in names[package.count(".") + 1 :]:
            # only modules are walked, and none of another package
            if not isinstance(found, ModuleType) or not is_within(found.__name__):
                return None
            module, found = found, getattr(found, name, None)
            found = import_module(f"{module.__name__}.{name}") if found is None else found
    except Exception:  # any error of importing a missing module
        return None
    is_one = isinstance(found, type) or inspect.isfunction(found)
    home = str(getattr(found, "__module__", ""))
    if not is_one or not is_within(home) or home.startswith(_NOT_OF_THEM):
        return None
    return found if found.__qualname__ == found.__name__ else None


def is_within(module: str) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in PACKAGES)


def _kinds(found: Any) -> set[str]:
    """Return the groups in which a located class or function may be chosen, by what it is."""
    module = str(found.__module__)
    if inspect.isfunction(found):
        if module in ("lrlab.losses", "torch.nn.functional"):
            return {"loss"}
        return {"network"} if module.startswith("torchvision.models.") and _builds(found) else set()
    if module.startswith("optuna."):
        import optuna

        bases = {"sampler": optuna.samplers.BaseSampler, "pruner": optuna.pruners.BasePruner}
        bases["another's argument"] = object
    else:
        from torch import nn, optim

        bases = {"network": nn.Module, "loss": nn.Module, "optimizer": optim.Optimizer}
        bases["schedule"] = optim.lr_scheduler.LRScheduler
    return {group for group, base in bases.items() if issubclass(found, base)}


def _builds(function: Any) -> bool:
    """Return whether it is one of torchvision's functions that make a network."""
    from torchvision import models

    try:
        return models.get_model_builder(function.__name__) is function
    except ValueError:  # it makes none
        return False
