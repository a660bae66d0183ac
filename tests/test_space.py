"""What a command sweeps: lists, intervals, and what an experiment's YAML adds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lrlab.config import schema as configs
from lrlab.config import space
from lrlab.config.space import Interval, Space
from lrlab.errors import UserError

pytestmark = pytest.mark.unit

RATE = {"log": True, "whole": False}


def composed(**changes: Any) -> DictConfig:
    """The options that space looks at, as the default config has them."""
    default = {
        "data": {"train_size": None},
        "network": {"hidden": [64], "bias": True, "init": "torch"},
        "optimizer": {"momentum": 0.0, "weight_decay": 0.0, "betas": [0.9, 0.999]},
        "schedule": {"step_size": 1, "total_iters": "auto", "max_lr": "${lr}", "gone": "${x.y}"},
        "sampler": {"_target_": "optuna.samplers.TPESampler"},
        "loss": {"_target_": "lrlab.losses.nll"},
        "lr": 0.1,
        "epochs": 3,
        "batch_size": 64,
        "seed": 0,
    }
    schema = OmegaConf.structured(configs.Config)
    config = OmegaConf.merge(schema, default, changes)
    assert isinstance(config, DictConfig)
    return config


def read(*arguments: str, params: Any = None, **changes: Any) -> Space:
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    return space.read(overrides, params, composed(**changes))


def refused(*arguments: str, params: Any = None, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        read(*arguments, params=params, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("lr=0.1,0.1,1e-1", 1),
        ("lr=0.1,1e-1,0.2", 2),
        ("lr=1,1.0,0.1", 2),
        ("lr=100,1e2,1E2,100.0", 1),
        ("seed=0,1,1,2,0", 3),
        ("schedule=step,fixed,step", 2),
        ("network.hidden=[3],[4,4],[3]", 2),
        ("lr=choice(0.1,0.2,0.1)", 2),
        ("seed=range(0,4)", 4),
    ],
)
def test_a_list_has_each_distinct_value_once(typed: str, values: int) -> None:
    found = read(typed)
    assert (found.fixed, found.intervals, found.searched) == ([], {}, False)
    assert [len(texts) for texts in found.lists.values()] == [values]


def test_values_keep_their_order_and_how_they_were_typed() -> None:
    assert read("lr=1.0,1e-3,0.1,1e-3").lists == {"lr": ["1.0", "0.001", "0.1"]}
    assert read("seed=2,0,1").lists == {"seed": ["2", "0", "1"]}


@pytest.mark.parametrize(
    ("typed", "fixed", "lists"),
    [
        (["lr=0.1", "lr=0.2,0.3"], [], {"lr": ["0.2", "0.3"]}),
        (["lr=0.2,0.3", "lr=0.1"], ["lr=0.1"], {}),
        (["lr=0.2,0.3", "lr=0.4,0.5"], [], {"lr": ["0.4", "0.5"]}),
        (["seed=1", "lr=0.1", "seed=2"], ["lr=0.1", "seed=2"], {}),
        (["schedule=fixed,step", "schedule=cosine"], ["schedule=cosine"], {}),
        (["+network.w=1,2", "+network.w=3"], ["+network.w=3"], {}),
        (["lr=1e-4..1", "lr=0.1"], ["lr=0.1"], {}),
        (["lr=1e-4..1", "lr=0.1,0.2"], [], {"lr": ["0.1", "0.2"]}),
    ],
)
def test_of_a_key_given_twice_the_last_counts(
    typed: list[str], fixed: list[str], lists: dict[str, list[str]]
) -> None:
    assert read(*typed) == Space(fixed, lists, {})


def test_a_grid_is_in_hydras_order() -> None:
    found = read("seed=0,1", "lr=1,0.1", "optimizer=sgd,adam")
    assert space.seeds(found) == ["0", "1"]
    assert space.points(found) == [
        {"seed": seed, "lr": lr, "optimizer": optimizer}
        for seed in ("0", "1")
        for lr in ("1", "0.1")
        for optimizer in ("sgd", "adam")
    ]
    assert space.points(read()) == [{}]
    assert space.seeds(read()) == []


@pytest.mark.parametrize("key", configs.NOT_SWEPT)
def test_what_belongs_to_the_sweep_takes_one_value(key: str) -> None:
    line = f"{key}=1,2: takes one value, for the sweep as a whole"
    if key in ("name", "output"):
        line += f"""; as a text with a comma write '{key}="1,2"'"""
    assert refused(f"{key}=1,2") == line
    assert "takes one value" in refused(params={key: [1, 2]})


def test_a_group_of_the_sweep_takes_one_value_in_each_setting() -> None:
    assert "takes one value" in refused("sampler.n_startup_trials=1,2")
    assert "takes one value" in refused("points=2..5")


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "key", "expected"),
    [
        ("lr=1e-4..1", "lr", Interval(1e-4, 1, **RATE)),
        ("lr=interval(1e-4,1)", "lr", Interval(1e-4, 1, **RATE)),
        ("lr=interval(start=1e-4,end=1)", "lr", Interval(1e-4, 1, **RATE)),
        ("lr=tag(log,interval(1e-4,1))", "lr", Interval(1e-4, 1, **RATE)),
        ("lr=tag(linear,interval(1e-4,1))", "lr", Interval(1e-4, 1, False, False)),
        ("lr=1..5", "lr", Interval(1, 5, **RATE)),
        ("lr=.1...5", "lr", Interval(0.1, 0.5, **RATE)),
        ("lr=1E-5..1e+1", "lr", Interval(1e-5, 10, **RATE)),
        (
            "optimizer.weight_decay=1e-6..1e-2",
            "optimizer.weight_decay",
            Interval(1e-6, 0.01, **RATE),
        ),
        ("schedule.max_lr=0.1..1", "schedule.max_lr", Interval(0.1, 1, **RATE)),
        ("optimizer.momentum=0..1", "optimizer.momentum", Interval(0, 1, False, False)),
        (
            "optimizer.momentum=tag(log,interval(0.1,1))",
            "optimizer.momentum",
            Interval(0.1, 1, **RATE),
        ),
        ("epochs=1..5", "epochs", Interval(1, 5, False, True)),
        ("epochs=interval(1,5)", "epochs", Interval(1, 5, False, True)),
        ("epochs=1.0..5", "epochs", Interval(1, 5, False, True)),
        ("batch_size=tag(log,interval(8,512))", "batch_size", Interval(8, 512, True, True)),
        ("threads=1..4", "threads", Interval(1, 4, False, True)),
        ("schedule.step_size=1..4", "schedule.step_size", Interval(1, 4, False, True)),
        ("schedule.step_size=1.0..4.0", "schedule.step_size", Interval(1, 4, False, False)),
        ("schedule.total_iters=1..4", "schedule.total_iters", Interval(1, 4, False, True)),
        ("schedule.gone=1..4", "schedule.gone", Interval(1, 4, False, True)),
        ("data.train_size=100..200", "data.train_size", Interval(100, 200, False, True)),
        ("+network.width=8..64", "+network.width", Interval(8, 64, False, True)),
        ("+network.width=8.0..64", "+network.width", Interval(8, 64, False, False)),
        ("+network.width=int(interval(8,64))", "+network.width", Interval(8, 64, False, True)),
        (
            "+network.width=tag(int,interval(8.0,64))",
            "+network.width",
            Interval(8, 64, False, True),
        ),
        ("+optimizer.lr=1e-3..1", "+optimizer.lr", Interval(1e-3, 1, **RATE)),
    ],
)
def test_an_interval_is_searched(typed: str, key: str, expected: Interval) -> None:
    found = read("seed=0,1", typed, "name=x")
    assert found == Space(["name=x"], {"seed": ["0", "1"]}, {key: expected})
    assert found.searched


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("lr=1..0.1", ["lr=1..0.1:", "low end must come first"]),
        ("lr=1..1", ["low end must come first"]),
        ("lr=0..1", ["lr=0..1:", "above 0", "lr=1e-4..1"]),
        ("lr=-1..1", ["above 0"]),
        ("lr=interval(0,1)", ["lr=interval(0,1):", "above 0"]),
        ("lr=1e-4..inf", ["finite"]),
        ("lr=nan..1", ["finite"]),
        ("lr=1..1e999", ["finite"]),
        ("optimizer.weight_decay=0..1", ["logarithm", "tag(linear,interval(0,1))"]),
        ("epochs=1.5..3", ["whole number"]),
        ("epochs=interval(1,2.5)", ["whole number"]),
        ("lr=tag(lgo,interval(0.1,1))", ["no such tag lgo", "did you mean log?", "linear"]),
        ("lr=tag(log,linear,interval(0.1,1))", ["choose one"]),
        ("seed=0..4", ["seed=0..4:", "seed=0,1,2"]),
        ("optimizer=1..2", ["name of a choice"]),
        ("network.hidden=1..2", ["an option that is a number"]),
        ("network.bias=0..1", ["an option that is a number"]),
        ("network.init=0..1", ["an option that is a number"]),
        ("lr=0.1,1e-4..1", ["lr=0.1,1e-4..1:", "lr=1e-4..1 searches"]),
    ],
)
def test_an_interval_that_cannot_work_is_refused(typed: str, words: list[str]) -> None:
    line = refused(typed)
    for word in words:
        assert word in line


def test_a_name_with_dots_is_no_interval() -> None:
    typed = ["name=1..2", "output=../1..2", "data.root=a/../b", 'network.init="1..2"']
    assert read(*typed) == Space(typed, {}, {})


def test_a_list_alone_is_no_search() -> None:
    line = refused("lr=0.1,0.2", n_trials=5)
    assert line.startswith("n_trials=5: the listed points are all trained") and "lr=1e-4..1" in line
    assert "n_trials=5" in refused(n_trials=5)
    assert "n_trials=5" in refused("lr=1e-4..1", n_trials=5, points=3)
    assert read("lr=0.1,0.2", timeout=5).lists == {"lr": ["0.1", "0.2"]}
    assert read("lr=1e-4..1", n_trials=5).searched


@pytest.mark.parametrize("target", ["BruteForceSampler", "GridSampler"])
def test_a_grid_needs_values(target: str) -> None:
    sampler = {"_target_": f"optuna.samplers.{target}"}
    line = refused("lr=1e-4..1", sampler=sampler)
    assert line.startswith("sampler=grid:") and "points=13" in line
    assert read("lr=1e-4..1", sampler=sampler, points=2).lists == {"lr": ["0.0001", "1.0"]}
    assert read("lr=0.1,0.2", sampler=sampler).lists == {"lr": ["0.1", "0.2"]}


# --- points ---------------------------------------------------------------------------------------


def test_points_make_a_grid_of_an_interval() -> None:
    found = read("seed=0,1", "lr=1e-4..1", "epochs=1..3", "optimizer=sgd,adam", points=9)
    assert found.intervals == {}
    assert found.lists == {  # in the order of the command line
        "seed": ["0", "1"],
        "lr": [
            *("0.0001", "0.000316228", "0.001", "0.00316228", "0.01"),
            *("0.0316228", "0.1", "0.316228", "1.0"),
        ],
        "epochs": ["1", "2", "3"],
        "optimizer": ["sgd", "adam"],
    }
    line = refused("lr=0.1,0.2", points=9)
    assert line.startswith("points=9: makes a grid of a swept interval") and "1e-4..1" in line


@pytest.mark.parametrize("points", [2, 3, 13, 100])
def test_a_grid_is_exact_at_its_ends_and_even_between(points: int) -> None:
    low, high = 0.1 + 0.2, math.pi
    for log in (True, False):
        values = [float(t) for t in space.grid(Interval(low, high, log, False), points)]
        assert (values[0], values[-1], len(values)) == (low, high, points)
        inner = [math.log(v) for v in values] if log else values
        gaps = [b - a for a, b in itertools.pairwise(inner)]
        assert max(gaps) - min(gaps) < 1e-4 * max(gaps) * points
        assert all(len(t.replace(".", "").lstrip("0")) <= 6 for t in map(str, values[1:-1]))


def test_a_narrow_or_huge_interval_still_has_distinct_values() -> None:
    narrow = space.grid(Interval(1.0, 1.0000001, False, False), 5)
    assert len(set(narrow)) == 5 and sorted(map(float, narrow)) == [float(t) for t in narrow]
    assert all(
        math.isfinite(float(t)) for t in space.grid(Interval(-1e308, 1e308, False, False), 5)
    )
    assert space.grid(Interval(1, 1000, True, True), 4) == ["1", "10", "100", "1000"]
    assert space.grid(Interval(1, 3, False, True), 9) == ["1", "2", "3"]


def test_corners_try_both_ends_and_every_value() -> None:
    found = read("lr=1e-4..1", "epochs=1..3", "optimizer=sgd,adam", "network=mlp,cnn,perceptron")
    first = {"optimizer": "sgd", "network": "mlp"}
    low = {"lr": "0.0001", "epochs": "1"}
    assert space.corners(found) == [
        {**first, **low},
        {**first, "lr": "1.0", "epochs": "3"},
        {**first, "optimizer": "adam", **low},
        {**first, "network": "cnn", **low},
        {**first, "network": "perceptron", **low},
    ]
    assert space.corners(read("lr=0.1,0.2")) == [{"lr": "0.1"}, {"lr": "0.2"}]
    assert space.corners(read()) == [{}]


# --- an experiment's YAML -------------------------------------------------------------------------


def test_a_yaml_file_holds_a_search_space() -> None:
    yaml = """
        lr: 1e-4..1
        seed: "0,1,2"
        optimizer: [sgd, adam]
        network.hidden: [[64, 64], [128]]
        epochs: interval(1, 3)
        batch_size: [32]
        network.bias: [true, false]
        threads: [null, 1]
        optimizer.momentum: 0.9
    """
    found = read(params=OmegaConf.create(yaml))
    assert found.fixed == ["batch_size=32", "optimizer.momentum=0.9"]
    assert found.lists == {
        "seed": ["0", "1", "2"],
        "optimizer": ["sgd", "adam"],
        "network.hidden": ["[64,64]", "[128]"],
        "network.bias": ["True", "False"],
        "threads": ["null", "1"],
    }
    assert found.intervals == {
        "lr": Interval(1e-4, 1, **RATE),
        "epochs": Interval(1, 3, False, True),
    }
    assert read(params={}) == read(params=None) == Space([], {}, {})


def test_the_command_line_counts_before_the_yaml_file() -> None:
    params = {"lr": "1e-4..1", "seed": [0, 1], "+network.width": "2,4"}
    found = read("lr=0.5", "seed=3,4", params=params)
    assert found == Space(["lr=0.5"], {"+network.width": ["2", "4"], "seed": ["3", "4"]}, {})
    assert read("+network.width=7", params=params).fixed == ["+network.width=7"]


def test_a_yaml_file_that_cannot_work_is_refused() -> None:
    line = refused(params={"network": {"hidden": "[3],[4]"}})
    assert line.startswith("hydra.sweeper.params.network=") and "network.hidden" in line
    assert "lr=1..0.1" in refused(params={"lr": "1..0.1"})


def test_an_interval_in_the_wrong_place_of_a_yaml_file() -> None:
    config = {"optimizer": {"weight_decay": "1e-6..1e-2"}}
    line = refused(**config)
    assert line.startswith("optimizer.weight_decay=1e-6..1e-2: is an interval")
    assert "hydra.sweeper.params: {optimizer.weight_decay: 1e-6..1e-2}" in line
    assert read("optimizer.weight_decay=0", **config).fixed == ["optimizer.weight_decay=0"]


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [1e-5, 1e20, 0.1 + 0.2, 5e-324, 12345678901234567.0, 3.0, -7, 2**60]
)
def test_a_number_reads_back_as_itself(number: float) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"lr={space.text(number)}"])
    assert override.value() == number and type(override.value()) is type(number)
    assert space.value(space.text(number)) == number


def test_values_of_equal_worth_are_canonical() -> None:
    assert space.canonical("1e-1") == space.canonical("0.1") == "0.1"
    assert space.canonical("1") == space.canonical("1.0")
    assert [space.value(t) for t in ("1", "1.5", "adam", "inf")] == [1, 1.5, "adam", "inf"]
