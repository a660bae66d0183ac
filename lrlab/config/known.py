"""List the names that a record may use without trust, because they can only train."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any

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
    if group == "data":
        return path in READERS
    if group == "tracking":
        return path in TRACKERS
    found = located(path)
    if found is None:
        return False
    if group in ("sampler", "pruner"):
        import optuna

        bases = {"sampler": optuna.samplers.BaseSampler, "pruner": optuna.pruners.BasePruner}
        return isinstance(found, type) and issubclass(found, bases[group])
    kinds = {
        "network": (_is_module, _is_builder),
        "loss": (_is_module, _is_loss),
        "optimizer": (_is_optimizer,),
        "schedule": (_is_schedule,),
    }
    within = (_is_module, _is_builder, _is_loss, _is_optimizer, _is_schedule, _is_sampling)
    return any(fits(found) for fits in kinds.get(group, within))


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


def _is_module(found: Any) -> bool:
    from torch import nn

    return isinstance(found, type) and issubclass(found, nn.Module)


def _is_builder(found: Any) -> bool:
    """Return whether it is one of torchvision's functions that make a network."""
    if not inspect.isfunction(found) or not found.__module__.startswith("torchvision.models."):
        return False
    from torchvision import models

    try:
        return models.get_model_builder(found.__name__) is found
    except ValueError:  # it makes none
        return False


def _is_loss(found: Any) -> bool:
    return inspect.isfunction(found) and found.__module__ in ("lrlab.losses", "torch.nn.functional")


def _is_optimizer(found: Any) -> bool:
    from torch.optim import Optimizer

    return isinstance(found, type) and issubclass(found, Optimizer)


def _is_schedule(found: Any) -> bool:
    from torch.optim.lr_scheduler import LRScheduler

    return isinstance(found, type) and issubclass(found, LRScheduler)


def _is_sampling(found: Any) -> bool:
    return isinstance(found, type) and found.__module__.startswith("optuna.")
