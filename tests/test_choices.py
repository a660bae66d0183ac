"""A sampler or pruner that cannot work is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from lrlab.config import schema
from lrlab.errors import UserError
from lrlab.study import sampler_checks


def composed(**settings: Any) -> DictConfig:
    """The groups as their files have them: ``sampler="tpe"``, ``pruner=("asha", {...})``."""
    found: dict[str, Any] = {"epochs": 3}
    for group, default in (("sampler", "tpe"), ("pruner", "none")):
        choice = settings.get(group, default)
        name, changes = choice if isinstance(choice, tuple) else (choice, {})
        node = OmegaConf.load(schema.folder("conf") / group / f"{name}.yaml")
        found[group] = OmegaConf.merge(node, changes)
    return OmegaConf.create(found)


def test_every_choice_works_as_it_is() -> None:
    packages = {"qmc": "scipy", "gp": "scipy", "cmaes": "cmaes"}
    for file in (schema.folder("conf") / "sampler").glob("*.yaml"):
        if file.stem in packages:
            pytest.importorskip(packages[file.stem])
        sampler_checks.check(composed(sampler=file.stem))
    for file in (schema.folder("conf") / "pruner").glob("*.yaml"):
        bound = {"upper": 2.3} if file.stem == "threshold" else {}
        sampler_checks.check(composed(pruner=(file.stem, bound)))


def test_hyperband_knows_how_long_a_run_is() -> None:
    assert composed(pruner="hyperband").pruner.max_resource == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"sampler": ("tpe", {"n_startup_trials": -1})},
            ["sampler.n_startup_trials=-1", "0", "=10"],
        ),
        ({"sampler": ("tpe", {"n_startup_trials": "few"})}, ["few", "whole number"]),
        ({"sampler": ("tpe", {"n_ei_candidates": 0})}, ["at least 1"]),
        ({"sampler": ("tpe", {"multivariate": 3})}, ["multivariate=3", "true or false"]),
        ({"sampler": ("tpe", {"constant_liar": "yes"})}, ["constant_liar=yes", "true or false"]),
        ({"sampler": ("tpe", {"n_startup": 3})}, ["no such option", "mean n_startup_trials?"]),
        ({"sampler": ("tpe", {"multivariate": False, "group": True})}, ["TPESampler", "group"]),
        (
            {"sampler": ("tpe", {"_target_": "optuna.samplers.TPSampler"})},
            ["mean optuna.samplers.TPE"],
        ),
        ({"sampler": ("grid", {"_target_": "optuna.pruners.NopPruner"})}, ["is no BaseSampler"]),
        ({"sampler": ("random", {"_target_": None})}, ["sampler._target_=None"]),
        ({"pruner": ("asha", {"reduction_factor": 1})}, ["reduction_factor=1", "at least 2", "=4"]),
        ({"pruner": ("asha", {"min_resource": "atuo"})}, ["min_resource=atuo", "whole number"]),
        ({"pruner": ("hyperband", {"max_resource": 0})}, ["max_resource=0", "at least 1"]),
        ({"pruner": ("median", {"interval_steps": 0})}, ["interval_steps=0", "at least 1"]),
        ({"pruner": ("threshold", {"upper": "high"})}, ["upper=high", "a number, or null"]),
        ({"pruner": ("threshold", {"upper": 1, "lower": 2})}, ["ThresholdPruner", "lower"]),
        ({"pruner": ("none", {"patience": 3})}, ["pruner.patience=3", "takes none"]),
    ],
)
def test_what_cannot_work_is_one_line(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        sampler_checks.check(composed(**settings))
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_auto_and_null_work_where_optuna_takes_them() -> None:
    sampler_checks.check(composed(pruner=("asha", {"min_resource": "auto"})))
    sampler_checks.check(composed(pruner=("hyperband", {"max_resource": "auto"})))
    sampler_checks.check(composed(sampler=("tpe", {"seed": 3})))
