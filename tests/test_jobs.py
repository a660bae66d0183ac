"""A run's config is Hydra's own, though Hydra composes only the first of its kind."""

from __future__ import annotations

import os
import re
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import make_specs
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lrlab.config import schema
from lrlab.config.hydra_store import BASE, ready
from lrlab.config.words import messages
from lrlab.errors import UserError
from lrlab.plan import build as plan_build
from lrlab.plan import checks, compose, hydra_text


@pytest.fixture(scope="module")
def loader() -> Iterator[Any]:
    GlobalHydra.instance().clear()
    setup_globals()
    conf = str(schema.folder("conf"))
    with ready(), initialize_config_dir(conf, **BASE, job_name="sweep"):
        yield GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr]


def composed(loader: Any, *arguments: str) -> DictConfig:
    config = loader.load_configuration("config", list(arguments), RunMode.MULTIRUN)
    assert config.name  # what ${now:} gives is kept from here on
    return config


def by_hydra(config: DictConfig, loader: Any, overrides: Sequence[str], number: int) -> DictConfig:
    """As Hydra's own launchers do it, in a folder that is the run's number."""
    job = loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = str(number)
        job.hydra.job.num = number
        job.hydra.sweep.subdir = "${hydra.job.num}"
        folder = os.path.join(str(job.hydra.sweep.dir), str(job.hydra.sweep.subdir))
        job.hydra.runtime.output_dir = os.path.abspath(folder)
    return job


def texts(job: DictConfig) -> tuple[str, str, str]:
    """What Hydra writes of a job into its .hydra folder."""
    plain = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
    return (
        OmegaConf.to_yaml(plain),
        OmegaConf.to_yaml(OmegaConf.masked_copy(job, "hydra")),
        OmegaConf.to_yaml(job.hydra.overrides.task),
    )


# Of each list the first is composed by Hydra, and where it can be, the others derive from it.
ALIKE = {
    "numbers": ["lr=0.1", "lr=1", "lr=1e-05", "lr=3e7", "lr=0.1"],
    "several": ["lr=0.1 seed=0 epochs=2", "lr=0.2 seed=1 epochs=3", "lr=0.1 seed=5 epochs=1"],
    "other order": ["lr=0.1 seed=0", "seed=1 lr=0.3"],
    "other keys": ["lr=0.1", "seed=1", "lr=0.1 seed=1", ""],
    "lists": ["network.hidden=[3]", "network.hidden=[]", "network.hidden=[64,64,64]"],
    "lists and not": ["network.hidden=[3]", "network.hidden=4", "network.hidden=[5,6]"],
    "null": ["threads=1", "threads=null", "threads=2"],
    "null and list": ["network.hidden=null", "network.hidden=[3]", "network.hidden=null"],
    "words": ["network.activation=relu", "network.activation=tanh", "network.activation=''"],
    "quoted": ["name='a b'", "name='größe'", 'name="it\'s, {x: 1}"', "name='1'", "name='null'"],
    "long": [f"network.init={'x' * 70}", f"network.init='{'word ' * 40}'", "network.init=a"],
    "types": ["network.init=1", "network.init=1.0", "network.init=true", "network.init='1'"],
    "interpolations": ["lr=0.1 schedule.factor=${lr}", "lr=0.2 schedule.factor=${seed}"],
    "one interpolates": ["network.init=${lr}", "network.init=x", "network.init='${seed}_${lr}'"],
    "groups": ["optimizer=sgd", "optimizer=adam", "optimizer=sgd lr=3", "optimizer=adam lr=3"],
    "group, value": ["optimizer=adam optimizer.eps=1e-6", "optimizer=adam optimizer.eps=1e-7"],
    "value, group": ["optimizer.eps=1e-6 optimizer=adam", "optimizer.eps=1e-7 optimizer=adam"],
    "adds": ["+network.width=3", "+network.width=4", "++network.width=5", "++lr=0.5"],
    "add, then set": ["+network.w=3 network.w=4", "+network.w=3 network.w=5"],
    "deletes": ["~optimizer.momentum", "~optimizer.momentum lr=0.3", "~optimizer.nesterov"],
    "dicts": ["+network.more={a:1,b:[2]} network.more.a=5", "+network.more={a:1} network.more.a=6"],
    "twice": ["lr=0.1 lr=0.2", "lr=0.3 lr=0.4"],
    "named twice": ["name=a name=b lr=1", "name=1 name='${seed}' lr=2", "name=a name=b lr=3"],
    "sweep options": ["pruner=asha n_trials=5 timeout=60", "pruner=asha n_trials=6 timeout=61"],
    "hydra's": ["hydra.job.name=a lr=1", "hydra.job.name=b lr=2", "hydra.job.name=a lr=3"],
    "hydra's folder": ["hydra.sweep.dir=a/${lr} lr=1", "hydra.sweep.dir=a/${lr} lr=2"],
    "experiment": ["+experiments=lr_search lr=1 epochs=2", "+experiments=lr_search lr=2 epochs=3"],
    "dirname": [
        "hydra.job.config.override_dirname.exclude_keys=[seed] lr=0.1 seed=1",
        "hydra.job.config.override_dirname.exclude_keys=[seed] lr=0.2 seed=2",
    ],
}


@pytest.mark.full(after=2)
@pytest.mark.parametrize("kind", ALIKE)
def test_a_run_is_as_hydra_composes_it(kind: str, loader: Any) -> None:
    experiment = ["+experiments=lr_search"] if kind == "experiment" else []
    config = composed(loader, "data.train_size=640", "hydra.job.chdir=false", *experiment)
    runs = [["data.train_size=640", *words(run)] for run in ALIKE[kind]]
    made = []
    for number, overrides in enumerate(runs):
        job = compose.compose(config, loader, overrides, number)
        wanted = by_hydra(config, loader, overrides, number)
        assert job.texts == texts(wanted), overrides
        assert job.folder == Path(wanted.hydra.runtime.output_dir)
        assert (job.number, job.overrides) == (number, overrides)
        assert job.spec == compose.spec(wanted)
        made.append(job)
    for job in made:  # each derives from another one now
        again = compose.compose(config, loader, job.overrides, job.number)
        assert (again.texts, again.spec) == (job.texts, job.spec)
    for job in made:
        assert texts(job.config()) == job.texts


@pytest.mark.parametrize("where", [(), ("a",), ("a", "b")])
def test_a_line_is_as_omegaconf_writes_it(where: tuple[str, ...]) -> None:
    texts = ["auto", "torch.optim.SGD", "a.b_1", "_x", "lr=0.1", "x" * 200, "Off", "NULL", "y"]
    texts += [
        "N",
        "NaN",
        "inf",
        "e5",
        "1e5",
        "a.1",
        ".a",
        "a.",
        "~",
        "",
        "a b",
        "a: b",
        "ä",
        "-",
        "???",
    ]
    values: list[Any] = [*texts, *(f"{text}=1" for text in texts), None, True, 0, -3, 10**20]
    values += [0.1, 1e-7, [], [1]]
    for key in ("lr", "on", "x=1", "a b", "k" * 130, 7, True):
        for value in values:
            node: Any = {key: value}
            for outer in reversed(where):
                node = {outer: node}
            wanted = OmegaConf.to_yaml(OmegaConf.create(node)).splitlines(keepends=True)
            assert hydra_text.lines((*where, key), value) == "".join(wanted[len(where) :]), (
                key,
                value,
            )


def words(line: str) -> list[str]:
    """As a shell splits them, but with Hydra's quotes left in place."""
    return re.findall(r"""(?:[^ '"]|'[^']*'|"[^"]*")+""", line)


def test_hydra_composes_one_of_a_kind(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(loader, "batch_size=32", "name=typed")
    own = ["name=folder", "hydra.sweep.dir=a/folder", "hydra.sweep.subdir=0"]
    count = []
    load = type(loader).load_sweep_config
    monkeypatch.setattr(
        type(loader), "load_sweep_config", lambda *given: count.append(1) or load(*given)
    )
    for number in range(20):
        optimizer = "adam" if number % 2 else "sgd"
        typed = ["batch_size=32", "name=typed", *own]
        overrides = [*typed, f"optimizer={optimizer}", f"lr={0.1 + number}"]
        job = compose.compose(config, loader, overrides, number)
        assert (job.spec["lr"], job.spec["name"]) == (0.1 + number, "folder")
        assert job.folder == Path("a/folder", str(number)).absolute()
    assert len(count) == 1  # that of adam; sgd is what the sweep's own config has


# What a sweep was given, and overrides of its runs: (same) Hydra need not compose these again.
DERIVED = {
    "a grid": (["lr=0.1,1.0", "epochs=2"], ["epochs=2 lr=0.1", "epochs=2 lr=1.0"], True),
    "a search": (["lr=interval(1e-4,1)", "seed=3"], ["seed=3 lr=0.01"], True),
    "its own group": (["optimizer=adam", "lr=0.1,0.2"], ["optimizer=adam lr=0.2"], True),
    "swept group, first": (["optimizer=sgd,adam"], ["optimizer=sgd"], True),
    "swept group, other": (["optimizer=sgd,adam"], ["optimizer=adam"], False),
    "a value it lacks": (["epochs=2", "lr=0.1,0.2"], ["lr=0.1"], False),
    "an addition": (["+network.width=3", "lr=0.1,0.2"], ["+network.width=3 lr=0.1"], False),
    "an experiment": (["+experiments=lr_search"], ["+experiments=lr_search lr=0.1"], False),
    "hydra's": (["hydra.job.name=a", "lr=0.1,0.2"], ["lr=0.1"], True),
    "hydra's, of a run": (["lr=0.1,0.2"], ["hydra.job.name=a lr=0.1"], False),
}


@pytest.mark.full(after=2)
@pytest.mark.parametrize("kind", DERIVED)
def test_a_run_may_derive_from_its_sweep(
    kind: str, loader: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments, runs, derived = DERIVED[kind]
    config = composed(loader, *arguments)
    before = OmegaConf.to_yaml(config)
    load = type(loader).load_sweep_config
    count = []
    for number, run in enumerate(runs):
        overrides = [*run.split(), *compose.own_overrides(tmp_path / "a b")]
        with monkeypatch.context() as patched:
            patched.setattr(
                type(loader), "load_sweep_config", lambda *given: count.append(1) or load(*given)
            )
            job = compose.compose(config, loader, overrides, number)
        wanted = by_hydra(config, loader, overrides, number)
        assert job.texts == texts(wanted)
        assert job.spec == compose.spec(wanted)
        assert texts(job.config()) == job.texts
    assert bool(count) != derived
    assert OmegaConf.to_yaml(config) == before


@pytest.mark.parametrize(
    ("typed", "value"), [("off", False), ("false", False), ("on", True), ("true", True)]
)
def test_plots_may_be_on_and_off(typed: str, value: bool, loader: Any) -> None:
    config = composed(loader)
    assert compose.compose(config, loader, [f"plots={typed}"], 0).spec["plots"] is value


def test_what_now_gave_the_sweep_holds_for_its_runs(loader: Any) -> None:
    config = composed(loader, "data.root=${now:%f}")
    root = config.data.root
    for number in range(2):
        job = compose.compose(config, loader, ["data.root=${now:%f}", f"seed={number}"], number)
        assert job.spec["data"]["root"] == root
        assert job.config().data.root == root


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["lr=abc"], "lr=abc: must be a number, for example 0.1"),
        (["lr=0.5", "epochs=1.5"], "epochs=1.5: must be a whole number, for example 3"),
        (["lr=0.5", "lrr=3"], "lrr: no such option (did you mean lr?); `python -m lrlab.sweep"),
        (["optimizer=adma"], "optimizer=adma: no such choice (did you mean adam?); choose from"),
        (["lr=0.1,0.2"], "lr=0.1,0.2: several values, where one run is trained or shown; give one"),
        (["plots=3.5"], "plots=3.5: must be true or false"),
    ],
)
def test_what_does_not_fit_is_named_and_harms_no_other_run(
    overrides: list[str], line: str, loader: Any
) -> None:
    config = composed(loader)
    good = [override.partition("=")[0] for override in overrides]
    fine = {"lr": "lr=0.5", "epochs": "epochs=2", "plots": "plots=true"}
    before = compose.compose(config, loader, [fine[key] for key in good if key in fine], 0)
    with pytest.raises((HydraException, OmegaConfBaseException)) as refused:
        compose.compose(config, loader, overrides, 1)
    assert messages.one_line(refused.value).startswith(line)
    again = compose.compose(config, loader, before.overrides, 0)
    assert again.texts == before.texts == texts(before.config())


def test_a_setting_that_one_choice_lacks_is_named_with_the_choice(loader: Any) -> None:
    config = composed(loader)
    overrides = ["optimizer=momentum", "optimizer.betas=[0.8,0.9]"]
    with pytest.raises(UserError) as refused:
        compose.compose(config, loader, overrides, 0)
    expected = "optimizer.betas: not a setting of optimizer=momentum; "
    expected += "optimizer=adam, adamw, muon has it"
    assert str(refused.value) == expected


def test_a_value_that_cannot_work_is_refused(loader: Any) -> None:
    config = composed(loader)
    compose.compose(config, loader, ["lr=0.5"], 0)
    with pytest.raises(UserError, match="lr=-1: must be a finite number above 0"):
        compose.compose(config, loader, ["lr=-1"], 1)
    assert compose.compose(config, loader, ["lr=0.5"], 2).spec["lr"] == 0.5


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    "subdir", ["same", "${lr}", "${hydra.job.override_dirname}", "../x", "a/b"]
)
def test_a_folder_is_the_runs_number_whatever_subdir_says(
    subdir: str, loader: Any, tmp_path: Path
) -> None:
    config = composed(loader, f"hydra.sweep.subdir='{subdir}'")
    for number in range(2):
        overrides = ["lr=0.1", *compose.own_overrides(tmp_path / 'it\'s a "sweep"')]
        job = compose.compose(config, loader, overrides, number)
        assert job.folder == tmp_path / 'it\'s a "sweep"' / str(number) == job.spec.folder
        # Hydra's own launchers compose it by themselves
        alone = loader.load_sweep_config(config, overrides)
        with open_dict(alone):
            alone.hydra.job.num = number
        assert Path(alone.hydra.sweep.dir) / alone.hydra.sweep.subdir == job.folder
        assert alone.name == 'it\'s a "sweep"'


# --- judging them ---------------------------------------------------------------------------------


def test_runs_of_one_network_build_it_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = []
    build = plan_build.build_network
    monkeypatch.setattr(
        plan_build, "build_network", lambda *given: built.append(1) or build(*given)
    )
    monkeypatch.setattr(checks, "_working", {})
    runs = [f"lr={lr} seed={seed}" for lr in (0.1, 0.2, 0.3) for seed in (0, 1)]
    specs = make_specs(tmp_path, runs)
    checks.check_runs(specs)
    first = len(built)
    checks.check_runs(specs)
    checks.check_runs(make_specs(tmp_path, ["epochs=5", "optimizer=adam"]))
    assert len(built) == first <= 2  # once more where the first one has to import the network
    checks.check_runs(make_specs(tmp_path, ["network.hidden=[5]", "network.hidden=[6]"]))
    assert len(built) == first + 2


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ("network.hidden=[-1]", "network.hidden=[-1]"),
        ("batch_size=641", "batch_size=641: more than the 640 training samples"),
        ("schedule=one_cycle schedule.max_lr=-1", "schedule.max_lr=-1"),
        ("schedule=step schedule.gamma=-1", "schedule.gamma=-1"),
        ("optimizer.momentum=-1", "optimizer.momentum=-1"),
        ("schedule.warmup_steps=20", "schedule.warmup_steps=20: must be below the run's 20 steps"),
    ],
)
def test_what_worked_for_others_is_still_judged(bad: str, line: str, tmp_path: Path) -> None:
    good, last = make_specs(tmp_path, ["lr=0.1", bad])
    checks.check_runs([good])
    for specs in ([last], [good, last], [good, good, last]):
        with pytest.raises(UserError) as refused:
            checks.check_runs(specs)
        assert str(refused.value).startswith(line)


def test_a_name_that_comes_to_mean_another_class_is_judged_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("own_network")
    monkeypatch.setitem(sys.modules, "own_network", module)
    (spec,) = make_specs(tmp_path, ["network=custom network._target_=own_network.Net"])

    class Right(torch.nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.last = torch.nn.Linear(144, num_classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.flatten(1))

    class Wrong(Right):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x)

    module.Net = Right  # type: ignore[attr-defined]
    checks.check_runs([spec])
    module.Net = Wrong  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="does not take inputs of shape"):
        checks.check_runs([spec])
