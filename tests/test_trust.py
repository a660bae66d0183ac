"""Folders, studies and CSVs that somebody sent: nothing that they name is executed or followed.

Each attack is shown to work without the guard: with `trust=true`, by the library's own function, or
with the guard taken away. A payload leaves a file, MARK.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
import yaml
from helpers.commands import Ended, command
from omegaconf import OmegaConf

import lrlab
from lrlab import analysis, compare, errors, records, report
from lrlab import reproduce as reproducing
from lrlab import resume as resume_verb
from lrlab.config import known as config_known
from lrlab.config import schema as config_schema
from lrlab.config import trust
from lrlab.errors import UserError
from lrlab.probes import landscape, paths
from lrlab.report import markup
from lrlab.study import cmaes_state
from lrlab.study.points import Points
from lrlab.sweep import main
from lrlab.sweeping import resuming
from lrlab.sweeping.judged import Sweep
from lrlab.training import checkpoints
from lrlab.verdicts import loading

LITTLE = (
    *("data.train_size=128", "data.val_size=100", "epochs=1", "threads=1", "plots=false"),
    *("diagnostics=off", "network.hidden=[4]"),
)
MARK = "it-ran"
EVIL = f"""
import pathlib, torch

def touch(*args, **kwargs):
    pathlib.Path({MARK!r}).write_text("")
    return torch.nn.ReLU()

class Callback:
    def __init__(self):
        touch()

    def __getattr__(self, name):
        return touch

class Net(torch.nn.Sequential):
    def __init__(self, num_classes=10, **_):
        touch()
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, num_classes))
"""
GROUPS = (*config_schema.GROUPS, *config_schema.SWEEP_GROUPS)


class Touch:
    """A pickle that leaves the mark in the current folder when it is read."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARK}",)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sender")
    longer = ["epochs=40" if word.startswith("epochs=") else word for word in LITTLE]
    ended = command(main, [*longer, "lr=0.1,0.2", "name=s"], home)  # it learns, and has a best run
    assert (ended.code, ended.err) == (0, "")
    return home / "outputs" / "s"


@pytest.fixture
def here(tmp_path: Path, sent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The receiver's folder, in which the sent sweep lies as s, and a module evil can be found."""
    shutil.copytree(sent, tmp_path / "s")
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def ran(home: Path) -> bool:
    """Whether a payload has run since this was asked last."""
    mark = home / MARK
    found = mark.exists()
    mark.unlink(missing_ok=True)
    sys.modules.pop("evil", None)
    return found


def change(file: Path, **values: Any) -> None:
    """Set dotted keys of a YAML file; a dot is written as two underscores."""
    node = OmegaConf.create(file.read_text("utf-8"))
    for key, value in values.items():
        OmegaConf.update(node, key.replace("__", "."), value, force_add=True)
    file.write_text(OmegaConf.to_yaml(node), "utf-8")


def reproduce(*words: str, cwd: Path) -> Ended:
    return command(reproducing.main, ["s/0", *words], cwd)


def resume(*words: str, cwd: Path) -> Ended:
    return command(resume_verb.main, ["s", *words], cwd)


def refused(ended: Ended, *named: str) -> None:
    assert ended.code == 2, ended
    assert ended.err.count("\n") == 1 and "Traceback" not in ended.err, ended.err
    for each in named:
        assert each in ended.err, ended.err


# --- what is known --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("lrlab.networks.MLP", "network"),
        ("torch.nn.Linear", "network"),
        pytest.param("torchvision.models.resnet18", "network", marks=pytest.mark.full),
        pytest.param("torchvision.models.resnet.ResNet", "network", marks=pytest.mark.full),
        ("torch.nn.ReLU", ""),
        ("lrlab.losses.nll", "loss"),
        ("torch.nn.HuberLoss", "loss"),
        ("torch.nn.functional.smooth_l1_loss", "loss"),
        ("torch.optim.NAdam", "optimizer"),
        ("torch.optim.lr_scheduler.StepLR", "schedule"),
        ("lrlab.schedules.RangeTestLR", "schedule"),
        ("optuna.samplers.TPESampler", "sampler"),
        ("optuna.pruners.HyperbandPruner", "pruner"),
        ("lrlab.own_data.table", "data"),
        ("lrlab.tracking.TensorBoard", "tracking"),
    ],
)
def test_what_only_trains_is_known(path: str, group: str) -> None:
    assert config_known.is_known(path, group)


def test_all_that_comes_with_lrlab_is_known() -> None:
    for group in GROUPS:
        for file in (config_schema.folder("conf") / group).glob("*.yaml"):
            node = OmegaConf.to_container(OmegaConf.load(file))
            node = {k: "" if "${" in str(v) else v for k, v in node.items()}  # type: ignore[union-attr]
            if (group, file.stem) != ("data", "torchvision"):  # whose set is ???
                assert trust.in_node(node, group) == [], file


@pytest.mark.parametrize(
    ("path", "group"),
    [
        # reached through an allowed package, defined elsewhere
        ("torch.nn.modules.os.system", "network"),
        ("torch.nn.functional.importlib.import_module", "loss"),
        ("torch.optim.lr_scheduler.warnings.sys.exit", "schedule"),
        ("lrlab.sweeping.workers.subprocess.run", "network"),
        ("lrlab.records.shlex.os.system", ""),
        ("torchvision.models._utils.torch.load", "network"),
        ("torch.nn.torch.load", "network"),
        ("lrlab.plots.drawing.pickle.load", "network"),
        ("optuna.samplers._cmaes.pickle.loads", "sampler"),
        # defined there, of another kind
        ("lrlab.records.write_whole", "network"),
        ("lrlab.records.write_whole", ""),
        ("lrlab.plots.drawing.Drawing", "network"),
        ("torch.nn.Module.apply", "network"),
        ("torch.nn.Linear.__init__", "network"),
        ("torch.nn.Linear.__init__.__globals__", "network"),
        ("torch.optim.SGD", "network"),
        ("torch.nn.Linear", "optimizer"),
        ("torch.nn.init.normal_", "network"),
        pytest.param("torchvision.models.get_model", "network", marks=pytest.mark.full),
        ("torchvision.models.feature_extraction.create_feature_extractor", "network"),
        ("torch.nn.Linear", "data"),
        ("lrlab.data.mnist_like.unpack_shipped", "data"),
        ("lrlab.networks.MLP", "sampler"),
        # elsewhere
        ("os.system", "network"),
        ("builtins.eval", ""),
        ("hydra.utils.get_method", "network"),
        ("torch.load", "data"),
        ("torch.nnx.Linear", "network"),
        ("torch.nn", "network"),
        ("torch.nn.", "network"),
        ("torch.nn..Linear", "network"),
        ("${name}", "network"),
        ("", "network"),
    ],
)
def test_what_can_do_more_is_not_known(path: str, group: str) -> None:
    assert not config_known.is_known(path, group)


def test_asking_imports_nothing_from_elsewhere(here: Path) -> None:
    (here / "loud.py").write_text(f"import pathlib; pathlib.Path({MARK!r}).touch()")
    for path in ("loud.Net", "torch.nn.loud.Net", "lrlab.loud.Net"):
        assert not config_known.is_known(path, "network")
    assert not ran(here)
    __import__("loud")
    assert ran(here)


# --- a run that is trained again ------------------------------------------------------------------

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "network": ({"network": {"_target_": "evil.Net"}}, "evil.Net (network)"),
    "nested": (
        {"network": {"_target_": "lrlab.networks.MLP", "activation": {"_target_": "evil.touch"}}},
        "evil.touch (network.activation)",
    ),
    "deep in a mapping": (
        {
            "loss": {
                "_target_": "torch.nn.NLLLoss",
                "reduction": {"x": [{"_target_": "evil.touch"}]},
            }
        },
        "evil.touch (loss.reduction.x[0])",
    ),
    "data": ({"data": {"_target_": "evil.touch"}}, "evil.touch (data)"),
    "optimizer": ({"optimizer": {"_target_": "evil.touch"}}, "evil.touch (optimizer)"),
    "schedule": ({"schedule": {"_target_": "evil.touch"}}, "evil.touch (schedule)"),
    "a reference": ({"source": "evil.Net", "network": {"_target_": "${source}"}}, "evil.Net"),
    "a whole node": (
        {"sampler": {"_target_": "evil.Net"}, "network": "${sampler}"},
        "evil.Net (network)",
    ),
}


@pytest.mark.full(after=4)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_reproduce_calls_nothing_that_a_config_names(name: str, here: Path) -> None:
    values, told = CONFIGS[name]
    file = here / "s" / "0" / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text("utf-8")) | values
    file.write_text(yaml.safe_dump(config), "utf-8")
    refused(reproduce(cwd=here), told, "python -m lrlab.reproduce s/0 trust=true")
    assert not ran(here) and not (here / "outputs").exists()
    reproduce("trust=true", cwd=here)
    assert ran(here), "without the guard it would have run"


# Targets that are harmless as the record has them, and another's as the run is trained again.
TURNED: dict[str, dict[str, Any]] = {
    "by diagnostics": {
        "diagnostics": "full",
        "network": {"_target_": "${tracking.${diagnostics}}", "hidden": [4]},
        "tracking": {"_target_": None, "full": "lrlab.networks.MLP", "off": "evil.Net"},
    },
    "by the device": {
        "device": "auto",
        "network": {"_target_": "${tracking.${device}}", "hidden": [4]},
        "tracking": {"_target_": None, "auto": "lrlab.networks.MLP", "cpu": "evil.Net"},
    },
}


@pytest.mark.parametrize("name", list(TURNED))
def test_what_is_checked_is_what_is_trained(name: str, here: Path) -> None:
    file = here / "s" / "0" / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text("utf-8")) | TURNED[name]
    file.write_text(yaml.safe_dump(config), "utf-8")
    unguarded = OmegaConf.create(config)
    unguarded.update(diagnostics="off", device="cpu")
    assert unguarded.network._target_ == "evil.Net", "resolved later it would be another one"
    ended = reproduce("--device=cpu", cwd=here)
    assert not ran(here) and "Traceback" not in ended.err
    assert ended.code in (0, 1), ended
    spec = paths.saved_spec(Path("s/0"), "cpu", trusted=False)
    assert spec["network"]["_target_"] == "lrlab.networks.MLP" and not ran(here)


def test_a_summary_reads_no_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    file = here / "s" / "0" / "summary.json"
    summary = json.loads(file.read_text("utf-8"))
    summary["environment"]["device"] = "${oc.env:SECRET}"
    file.write_text(json.dumps(summary), "utf-8")
    ended = reproduce(cwd=here)
    refused(ended, "damaged")
    assert "hunter2" not in ended.err


def test_a_settled_config_is_the_same_when_resolved_again() -> None:
    texts = ["\\${lr}", "a\\${lr}\\\\", "\\\\\\${lr} ${seed}", "plain\\text", "???"]
    config = OmegaConf.create({"lr": 0.1, "seed": 3, "output": "${seed}", "network": texts})
    schema = OmegaConf.merge(OmegaConf.structured(config_schema.Config), config)
    settled = trust.settled(schema, (), "s", "")
    known = OmegaConf.to_container(schema, resolve=True, throw_on_missing=False)
    assert OmegaConf.to_container(settled, resolve=True, throw_on_missing=False) == known


@pytest.mark.parametrize(
    "text",
    ["${oc.env:SECRET}", "\\${oc.env:SECRET}", "a ${oc.env:SECRET}", "${${source}:SECRET}"],
    ids=["plain", "resolved twice", "within a text", "by another name"],
)
def test_reproduce_reads_no_environment(
    text: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    file = here / "s" / "0" / ".hydra" / "config.yaml"
    change(file, data__root=text, source="oc.env")
    refused(reproduce(cwd=here), "data.root", "SECRET")
    open_ = reproduce("trust=true", cwd=here)
    assert "hunter2" in open_.err, "without the guard it would have been read"


def test_ones_own_network_needs_one_word_more(here: Path) -> None:
    typed = ["network=custom", "network._target_=evil.Net", "lr=0.1", "name=mine", *LITTLE[:-1]]
    assert command(main, typed, here).code == 0
    assert ran(here), "what is typed is trusted"
    ended = command(reproducing.main, ["outputs/mine/0"], here)
    refused(ended, "evil.Net (network)")
    again = ended.err.partition("trust its sender: ")[2].strip()
    assert again == "python -m lrlab.reproduce outputs/mine/0 trust=true"
    ended = command(reproducing.main, again.split()[3:], here)
    assert (ended.code, ended.err) == (0, "") and "bitwise" in ended.out
    refused(command(reproducing.main, ["outputs/mine/0", "trust=maybe"], here), "true or false")
    refused(command(reproducing.main, ["outputs/mine/0", "lr=3"], here), "only be trust=true")


def test_the_landscape_trains_nothing_unknown_either(here: Path) -> None:
    for run in "01":
        change(here / "s" / run / ".hydra" / "config.yaml", network={"_target_": "evil.Net"})
    runs = {"small": 0, "good": 1}
    found = landscape.measure(here / "s", runs)
    assert "evil.Net (network)" in found.reason and not ran(here)
    landscape.measure(here / "s", runs, trusted=True)
    assert ran(here)


def test_sets_that_would_be_unpickled_or_downloaded_are_told() -> None:
    reader = {"_target_": "lrlab.own_data.torchvision_set", "root": "/tmp/theirs"}
    assert trust.in_node({**reader, "dataset": "CIFAR10"}, "data") == []
    assert trust.in_node({**reader, "dataset": "LSUN"}, "data") == [
        "torchvision.datasets.LSUN (data.dataset)"
    ]
    for more in ({"download": True}, {"arguments": {"download": True}}):
        found = trust.in_node({**reader, "dataset": "MNIST", **more}, "data")
        assert found == ["a download (data.download)"]


@pytest.mark.full
def test_weights_from_the_network_are_told() -> None:
    model = {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"}
    assert "weights from the network" in trust.in_node(model, "network")[0]
    assert trust.in_node({**model, "weights": None}, "network") == []
    assert trust.in_node({"_target_": model["_target_"]}, "network") == []
    assert trust.in_node({"_target_": model["_target_"], "_args_": ["DEFAULT"]}, "network")
    segments = {"_target_": "torchvision.models.segmentation.fcn_resnet50", "weights": None}
    assert trust.in_node(segments, "network") == [
        f"{segments['_target_']} with weights from the network "
        "(network.weights_backbone; weights_backbone=null needs none)"
    ]
    for none in (None, False):
        assert trust.in_node({**segments, "weights_backbone": none}, "network") == []


# --- a sweep that goes on -------------------------------------------------------------------------


def add_word(sweep: Path, word: str, kind: str = "task") -> None:
    file = sweep / "multirun.yaml"
    saved = yaml.safe_load(file.read_text("utf-8"))
    saved["hydra"]["overrides"][kind].append(word)
    file.write_text(yaml.safe_dump(saved), "utf-8")


WORDS = {
    "a target": "network._target_=evil.Net",
    "a mapping": "+network.extra={_target_:evil.touch}",
    "a list of targets": "network._target_=lrlab.networks.MLP,evil.Net",
    "a callback": "+hydra.callbacks.x._target_=evil.touch",
    "a callback in a package": "+data@hydra.callbacks.x=custom",
    "a handler": "+hydra.job_logging.handlers.x.()=evil.touch",
    "params": "hydra.sweeper.params={network._target_:evil.Net}",
    "a search path": "hydra.searchpath=[file:///tmp/theirs]",
    "a module's configs": "hydra.searchpath=[pkg://evil]",
    "an environment": "+hydra.job.env_set.LD_PRELOAD=/tmp/theirs.so",
    "another sweeper": "hydra/sweeper=basic",
    "one run": "hydra.mode=RUN",
    "trust itself": "hydra.sweeper.trust=true",
    "trust with a plus": "++hydra.sweeper.trust=true",
    "a launcher": "hydra/launcher=submitit_slurm",
    "a file elsewhere": "network=../../../../tmp/theirs",
    "a group elsewhere": "+../../tmp/theirs=x",
    "a secret": "network.activation=${oc.env:SECRET}",
    "a server": "storage=postgresql://theirs.example/db",
    "a tracker": "tracking._target_=evil.touch",
    "a tracking server": "tracking.uri=http://theirs.example",
    "a sampler": "sampler._target_=evil.touch",
    "a flag": "--config-dir=/tmp/theirs",
    "a pickle": "--experimental-rerun=theirs.pickle",
}


@pytest.mark.full(after=1)
@pytest.mark.parametrize("kind", ["task", "hydra"])
def test_resume_takes_no_word_that_could_call_something(kind: str, here: Path) -> None:
    multirun = here / "s" / "multirun.yaml"
    before = multirun.read_text("utf-8")
    assert "hydra.sweeper.trust=false" in resuming.command_line(Path("s"), []).words
    for name, word in WORDS.items():
        multirun.write_text(before, "utf-8")
        add_word(here / "s", word, kind)
        if kind == "hydra" and word.startswith((*records.RESUMING, "hydra.mode=")):
            assert word not in resuming.command_line(Path("s"), []).words, name  # it is left out
            continue
        with pytest.raises(UserError, match=r"python -m lrlab\.resume s trust=true"):
            resuming.command_line(Path("s"), [])
    assert not ran(here)


def test_a_words_payload_would_run(here: Path) -> None:
    add_word(here / "s", "network._target_=evil.Net")
    refused(resume(cwd=here), "evil.Net (network)")
    assert not ran(here)
    resume("trust=true", cwd=here)
    assert ran(here)


def test_a_pickle_among_the_words_is_no_flag(here: Path) -> None:
    """Hydra's --experimental-rerun unpickles the file that it is given."""
    (here / "theirs.pickle").write_bytes(pickle.dumps(Touch()))
    add_word(here / "s", "--experimental-rerun=theirs.pickle")
    refused(resume(cwd=here), "--experimental-rerun")
    refused(resume("trust=true", cwd=here), "is no option")  # not even then
    assert not ran(here)
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command(main, ["lr=0.1", "--experimental-rerun=theirs.pickle"], here)
    assert ran(here)


@pytest.mark.parametrize(
    "where",
    [{"config_sources": [{"path": "/tmp/theirs", "provider": "command-line", "schema": "file"}]}],
)
def test_resume_reads_no_configs_elsewhere(where: dict[str, Any], here: Path) -> None:
    file = here / "s" / "multirun.yaml"
    saved = yaml.safe_load(file.read_text("utf-8"))
    saved["hydra"]["runtime"] |= where
    file.write_text(yaml.safe_dump(saved), "utf-8")
    refused(resume(cwd=here), "the configs in /tmp/theirs")
    assert "--config-dir=/tmp/theirs" in resuming.command_line(Path("s"), ["trust=true"]).words
    saved["hydra"]["runtime"]["config_sources"] = []
    saved["hydra"]["job"]["config_name"] = "theirs"
    file.write_text(yaml.safe_dump(saved), "utf-8")
    refused(resume(cwd=here), "the config theirs")


def journal_with(sweep: Path, overrides: dict[str, str]) -> None:
    """The study as it was before it began, where its second run overrides that instead."""
    file = records.journal_file(sweep)
    begun = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    kept = [log for log in begun if log["op_code"] in (0, 2, 3, 4)]
    (_, second) = (log for log in kept if log["op_code"] == 4)
    second["user_attrs"]["overrides"] |= overrides
    file.write_text("".join(json.dumps(log) + "\n" for log in kept), "utf-8")
    for run in "01":
        shutil.rmtree(sweep / run)


@pytest.mark.full
@pytest.mark.parametrize("overrides", [{"network._target_": "evil.Net"}])
def test_a_study_sets_nothing_that_the_command_does_not_sweep(
    overrides: dict[str, str], here: Path
) -> None:
    journal_with(here / "s", overrides)
    shutil.copytree(here / "s", here / "copy")
    ended = resume("trust=true", cwd=here)  # the command is trusted, not the study
    assert ended.code == 0 and not ran(here)
    assert "is left out of what was asked for before" in ended.err
    # were it asked for, its point would be refused ...
    with mock.patch.object(Points, "asked_points", _all_points):
        ended, failed = begin_again(here)
        assert ended.code == 1 and ended.err == "" and not ran(here)
        assert "is in the study, but not swept by this command" in failed
        # ... and without that guard the class would be called
        with mock.patch.object(Sweep, "_check_point", lambda self, point: None):
            begin_again(here)
    assert ran(here)


def _all_points(points: Points) -> Any:
    return [(points.point_of(run), run.number) for run in points._study.runs()]


def begin_again(here: Path) -> tuple[Any, str]:
    """Resume the sweep of the copy; how it ended, and the error of its second run."""
    shutil.rmtree(here / "s")
    shutil.copytree(here / "copy", here / "s")
    ended = resume("trust=true", cwd=here)
    summary = here / "s" / "1"
    return ended, str(records.read_summary(summary).get("error", "")) if summary.is_dir() else ""


def test_a_state_of_cma_es_is_read_only_if_it_calls_nothing(here: Path) -> None:
    import cmaes
    import numpy as np
    from optuna.distributions import FloatDistribution
    from optuna.samplers import CmaEsSampler
    from optuna.storages import InMemoryStorage
    from optuna.study import StudyDirection
    from optuna.trial import TrialState, create_trial

    from lrlab.study import sampling

    space = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
    genuine = [cmaes.CMA(mean=np.zeros(2), sigma=1.0, seed=0), cmaes.SepCMA(np.zeros(2), 1.0)]
    for each in genuine:
        state = CmaEsSampler()._split_optimizer_str(pickle.dumps(each).hex())
        cmaes_state.check(state)

    theirs = CmaEsSampler()._split_optimizer_str(pickle.dumps(Touch()).hex())
    storage = InMemoryStorage()
    study = storage.create_new_study([StudyDirection.MINIMIZE], "x")
    for number in range(3):
        done = create_trial(
            params={"a": 0.1 * number, "b": 0.5},
            distributions=dict(space),
            value=1.0 + number,
            system_attrs=theirs,
        )
        storage.create_new_trial(study, done)
    waiting = storage.create_new_trial(study, create_trial(state=TrialState.WAITING))
    view = sampling.view(storage, "x", "minimize", study)
    view.shown = storage.get_all_trials(study)
    node = {"_target_": "optuna.samplers.CmaEsSampler", "n_startup_trials": 1}

    def draw() -> None:
        sampling.draw(view, storage.get_trial(waiting), node, 0, 3, dict(space))

    with pytest.raises(UserError, match=r"would call (posix|nt)\.system"):
        draw()
    assert not ran(here)
    unguarded = mock.patch.object(cmaes_state, "check", lambda attrs: None)
    with unguarded, contextlib.suppress(Exception):
        draw()
    assert ran(here)
    with pytest.raises(UserError, match="damaged"):
        cmaes_state.check({"cma:optimizer:0": "zz"})


# --- best.yaml ------------------------------------------------------------------------------------

BEST: dict[str, dict[str, Any]] = {
    "a target": {"network": {"_target_": "evil.Net"}},
    "nested": {"network": {"activation": {"_target_": "evil.touch"}}},
    "a callback": {"hydra": {"callbacks": {"x": {"_target_": "evil.touch"}}}},
    "a search path": {"hydra": {"searchpath": ["file:///tmp/theirs"]}},
    "a module": {"hydra": {"searchpath": ["pkg://evil"]}},
    "a choice of theirs": {"defaults": ["config", {"override network": "theirs"}, "_self_"]},
    "a choice elsewhere": {"defaults": ["config", {"override network": "../theirs"}, "_self_"]},
    "a group of theirs": {"defaults": ["config", {"theirs@hydra": "x"}, "_self_"]},
    "a secret": {"network": {"activation": "${oc.env:SECRET}"}},
    "a secret, twice": {"network": {"activation": "\\${oc.env:SECRET}"}},
    "a database": {"storage": "postgresql://theirs.example/db"},
    "a tracker": {"tracking": {"_target_": "lrlab.tracking.MLflow", "uri": "http://theirs"}},
    "a name": {"name": "mine"},
    "a folder": {"output": "/tmp/theirs"},
    "a folder above": {"output": "x/../../theirs"},
    "a folder by a reference": {"output": "${source}"},
    "a list of choices": {"defaults": ["config", {"network": ["mlp", "cnn"]}, "_self_"]},
    "a choice of a number": {"defaults": ["config", {"network": 5}, "_self_"]},
    "a choice of nothing": {"defaults": ["config", {"network": None}, "_self_"]},
}


@pytest.mark.parametrize("name", list(BEST))
def test_a_best_yaml_from_elsewhere_calls_nothing(name: str, here: Path) -> None:
    node = {"defaults": ["config", "_self_"], "lr": 0.1, "source": "s/0", **BEST[name]}
    (here / "s" / "best.yaml").write_text(yaml.safe_dump(node), "utf-8")
    for typed in (
        ["--config-dir", "s", "--config-name", "best"],
        ["--config-dir=s", "--config-name=best.yaml"],
        ["-cd", "s", "-cn", "best"],
        ["--config-d", ".", "--config-n=s/best"],
    ):
        refused(command(main, [*typed, *LITTLE], here), "the same command with trust=true")
    assert not ran(here) and not (here / "outputs").exists()


def test_a_best_yaml_may_say_where_it_lies_beneath(sent: Path) -> None:
    own = (sent / "best.yaml").read_text("utf-8")
    assert trust.in_best(own) == [] and "output" not in yaml.safe_load(own)
    defaults = "defaults: [config, _self_]\n"
    for harmless in ("output: outputs", "storage: journal", "tracking: {uri: null}"):
        assert trust.in_best(defaults + harmless) == []
    for other in ("C:\\theirs", "\\theirs", "..\\theirs", "~/theirs", "..", "/"):
        assert trust.in_best(f"{defaults}output: '{other}'"), other
    assert trust.in_best(defaults + "tracking.uri: http://theirs")


def test_a_best_yaml_is_found_however_it_is_named(here: Path) -> None:
    (here / "s" / "best.yaml").touch()
    file = Path("s/best.yaml")
    for words in (
        "--config-dir s --config-name best",
        "--config-d=s --config-na best.yaml",
        "--config-di . --config-n s/best",
        f"--config-path={here}/s -cn=best",
    ):
        found = trust.saved_config(words.split())
        assert found is not None and found.samefile(file), words
    for words in ("--config-name best", "--config-dir s --config-name mine", "-cd s"):
        assert trust.saved_config(words.split()) is None, words


@pytest.mark.parametrize(
    "values",
    [{"environment": 5}, {"environment": [1]}, {"run": -5}, {"run": "x"}, {"lanes": 3}],
    ids=str,
)
def test_a_damaged_summary_is_told_in_one_line(values: dict[str, Any], here: Path) -> None:
    file = here / "s" / "0" / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")
    refused(reproduce(cwd=here), "summary.json: is damaged", *values)


def test_a_trusted_best_yaml_that_is_damaged_is_told_in_one_line(here: Path) -> None:
    node = {"defaults": ["config", {"network": 5}, "_self_"], "source": "s/0"}
    (here / "s" / "best.yaml").write_text(yaml.safe_dump(node), "utf-8")
    typed = ["--config-dir=s", "--config-name=best", "trust=true", *LITTLE]
    refused(command(main, typed, here), "defaults")


def test_a_best_yamls_payload_would_run(here: Path) -> None:
    callback = {"hydra": {"callbacks": {"x": {"_target_": "evil.Callback"}}}}
    node = {"defaults": ["config", "_self_"], "source": "s/0", **callback}
    (here / "s" / "best.yaml").write_text(yaml.safe_dump(node), "utf-8")
    command(main, ["--config-dir=s", "--config-name=best", "trust=true", *LITTLE], here)
    assert ran(here)


# --- files ----------------------------------------------------------------------------------------


def readers(home: Path) -> dict[str, Callable[[], Ended]]:
    from lrlab.plots.__main__ import main as plots
    from lrlab.report.__main__ import main as reports

    def two() -> None:
        compare.main(["s", "other", "--no-files"])

    return {
        "analysis": lambda: command(lambda: analysis.main(["s"]), [], home),
        "report": lambda: command(reports, ["s"], home),
        "plots": lambda: command(lambda: plots(["s", "--only=lr_against_loss"]), [], home),
        "compare": lambda: command(two, [], home),
        "reproduce": lambda: reproduce(cwd=home),
        "resume": lambda: resume(cwd=home),
    }


LINKS = ("0/metrics.csv", "0/.hydra/config.yaml", "0/.hydra", "0/run.log")
OF_SWEEP = ("1", "study.journal", "plots", "report.html")


@pytest.mark.parametrize("name", [*LINKS, *OF_SWEEP])
def test_no_link_leads_out_of_a_folder(name: str, here: Path, sent: Path) -> None:
    outside = here / "outside"
    shutil.copytree(sent, outside)
    (outside / "plots").mkdir(exist_ok=True)
    (outside / "report.html").write_text("mine")
    shutil.copytree(sent, here / "other")
    link = here / "s" / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(outside / name)
    before = {f: f.read_bytes() for f in outside.rglob("*") if f.is_file()}
    for reader, read in readers(here).items():
        if reader == "reproduce" and not name.startswith("0/"):
            continue  # which has the run's folder only
        refused(read(), f"s/{name}: is a link")
    assert {f: f.read_bytes() for f in outside.rglob("*") if f.is_file()} == before


def test_a_link_would_have_told_a_secret(here: Path) -> None:
    (here / "mine.yaml").write_text("password: hunter2\n")
    file = here / "s" / "0" / ".hydra" / "config.yaml"
    file.unlink()
    file.symlink_to(here / "mine.yaml")
    unguarded = [
        mock.patch.object(module, name, lambda *_: None)
        for module, name in ((records, "check_contained"), (records.files, "check_own"))
    ]
    with unguarded[0], unguarded[1]:
        assert "hunter2" in report.write(here / "s").read_text("utf-8")
    (here / "s" / "report.html").unlink()
    with pytest.raises(UserError, match="is a link"):
        report.write(here / "s")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_block(here: Path) -> None:
    shutil.copytree(here / "s", here / "other")
    (here / "s" / "0" / "metrics.csv").unlink()
    os.mkfifo(here / "s" / "0" / "metrics.csv")
    for read in readers(here).values():
        refused(read(), "s/0/metrics.csv: is no ordinary file")


def test_a_folder_column_of_a_csv_is_not_read(here: Path) -> None:
    rows = [
        f"{run},{lr},{step},{2 - lr * step}"
        for run, lr in ((0, 0.1), (1, 0.2))
        for step in range(9)
    ]
    for name, folder in (("a", here / "s" / "0"), ("b", here / "s" / "1")):
        text = "\n".join(f"{row},{folder}" for row in rows)
        (here / f"{name}.csv").write_text(f"run,lr,step,train_loss,folder\n{text}\n")
    loaded = loading.load([here / "a.csv", here / "b.csv"])
    assert "folder" not in loaded.runs
    assert not any("." in str(column) for column in loaded.runs), "no setting of a config"


def test_yaml_makes_no_objects_and_no_bombs(here: Path) -> None:
    file = here / "s" / "0" / ".hydra" / "config.yaml"
    file.write_text(f"network: !!python/object/apply:os.system ['touch {MARK}']\n", "utf-8")
    assert report.write(here / "s").is_file()
    refused(reproduce("trust=true", cwd=here), "damaged")
    assert not ran(here)
    yaml.unsafe_load(file.read_text("utf-8"))
    assert ran(here)

    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(levels) + "\n"
    assert len(yaml.safe_load(bomb)["a9"]) == 9, "whoever walks through it never ends"
    file.write_text(bomb, "utf-8")
    assert report.write(here / "s").is_file()
    refused(reproduce("trust=true", cwd=here), "damaged")
    (here / "s" / "multirun.yaml").write_text(bomb, "utf-8")
    refused(resume(cwd=here), "damaged")
    file.write_text("[" * 100_000, "utf-8")
    assert report.write(here / "s").is_file()
    refused(reproduce(cwd=here), "damaged")


def test_a_text_record_has_a_size(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (here / "s" / "0" / "summary.json").stat().st_size
    monkeypatch.setattr(records.reading, "MOST_TEXT", size - 1)
    with pytest.raises(UserError, match="is too large"):
        records.read_summary(here / "s" / "0")
    monkeypatch.setattr(records.reading, "MOST_TEXT", size)
    assert records.read_summary(here / "s" / "0")["run"] == 0


# --- weights --------------------------------------------------------------------------------------


def test_a_checkpoint_is_tensors_only(here: Path) -> None:
    file = here / "checkpoint.pt"
    torch.save({"step": 3, "x": Touch()}, file)
    assert checkpoints.read(file) is None and not ran(here)
    torch.load(file, weights_only=False)
    assert ran(here)

    torch.save({"step": 3, "x": torch.zeros(250_000)}, file)
    state = checkpoints.read(file)
    assert state is not None and state["step"] == 3
    packed = here / "packed.pt"
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as to:
        for part in source.infolist():
            to.writestr(part.filename, source.read(part))
    assert packed.stat().st_size < file.stat().st_size / 100, "a bomb"
    assert len(torch.load(packed, weights_only=True)["x"]) == 250_000, "which would unpack"
    assert checkpoints.read(packed) is None


def unsafe(source: str) -> list[str]:
    """Calls that can run what they read, in a program's text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name for a in node.names} | {getattr(node, "module", None)}
            found += [
                f"import {n}" for n in names & {"pickle", "marshal", "shelve", "joblib", "dill"}
            ]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        asked = ("shell", "weights_only", "allow_pickle", "Loader")
        told = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in asked}
        if name in ("eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load"):
            found.append(name)
        if name.endswith("read_pickle") or told.get("shell") == "True":
            found.append(name)
        if name == "torch.load" and told.get("weights_only") != "True":
            found.append(name)
        if name == "np.load" and told.get("allow_pickle", "False") != "False":
            found.append(name)
        if name == "yaml.load" and told.get("Loader") != "loader":
            found.append(name)
        if name.endswith((".query", "pd.eval")) and "pd" in source:
            found.append(name)
    return found


@pytest.mark.full
def test_nothing_in_lrlab_unpickles_or_evaluates() -> None:
    bad = "import pickle\nimport torch\ntorch.load(f)\neval(x)\nsubprocess.run(x, shell=True)\n"
    assert len(unsafe(bad)) == 4
    root = Path(lrlab.__file__).parent
    files = [*root.rglob("*.py"), *(root.parent / "hydra_plugins").glob("*.py")]
    found = {f.relative_to(root.parent).as_posix(): unsafe(f.read_text("utf-8")) for f in files}
    assert {name: each for name, each in found.items() if each} == {
        "lrlab/study/cmaes_state.py": ["import pickle"],  # which is there to refuse
        "lrlab/plots/drawing.py": ["import pickle"],  # tables, from a process to its own child
    }


def test_figures_are_drawn_without_the_current_folders_modules(here: Path) -> None:
    """With -c, as with -m, Python imports what lies in the current folder first."""
    from lrlab.plots import drawing

    (here / "json.py").write_text(f"open({MARK!r}, 'w'); raise SystemExit")
    path = {**os.environ, "PYTHONPATH": str(Path(lrlab.__file__).parents[1])}
    start = [sys.executable, "-c", "import lrlab.plots.drawing"]
    subprocess.run(start, env=path, cwd=here, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert ran(here)
    sys.path.remove(str(here))
    try:
        with drawing.Drawing(here / "plots") as drawn:
            process = drawn._take()
            assert process is not None and process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=60) == 0
    finally:
        sys.path.insert(0, str(here))
    assert not ran(here)


# --- what is shown --------------------------------------------------------------------------------

HTML = (
    '</script><script src="http://theirs.example/x.js"></script><img src=x onerror=alert(1)>\u2028'
)


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.asked, self.handlers = 0, [], []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset", "background"):
                self.asked += [] if str(value).startswith(("data:", "#")) else [value]
            self.handlers += [name] if name.startswith("on") else []
        told = dict(attrs)
        if told.get("http-equiv") == "Content-Security-Policy":
            self.policy = told["content"]


def hostile(sweep: Path, text: str) -> None:
    """Have that text wherever a record can hold a text."""
    for run in "01":
        file = sweep / run / "summary.json"
        summary = json.loads(file.read_text("utf-8"))
        summary |= {"state": "failed", "error": text, "network": text, f"x.{text}": f"{run}{text}"}
        summary["environment"] = {text: text, "torch": f"{run}{text}"}
        file.write_text(json.dumps(summary), "utf-8")
        config = {"lr": 0.1, text: f"{run}{text}", "network": {"a": text, text: text}}
        (sweep / run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    multirun = {"hydra": {"overrides": {"task": [f"name={text}"]}}}
    (sweep / "multirun.yaml").write_text(yaml.safe_dump(multirun), "utf-8")


def test_a_report_runs_and_asks_for_nothing(here: Path) -> None:
    plain = Page(report.write(here / "s").read_text("utf-8"))
    hostile(here / "s", HTML)
    picture = here / "s" / "plots" / "<img src=x onerror=alert(1)>.png"
    picture.parent.mkdir()
    from PIL import Image

    Image.new("RGB", (40, 40)).save(picture)
    text = report.write(here / "s").read_text("utf-8")
    page = Page(text)
    assert (page.scripts, page.asked, page.handlers) == (plain.scripts, [], [])
    assert "theirs.example" in text, "it is shown"
    island = text.partition('id="curves">')[2].partition("</script>")[0]
    assert "theirs.example" in island and "\u2028" not in island and "<" not in island
    assert json.loads(island)["runs"]
    rules = dict(rule.split(" ", 1) for rule in page.policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert "unsafe" not in rules["script-src"] and "http" not in page.policy
    assert text.index("Content-Security-Policy") < text.index("<title>"), "before what it stops"

    templates = markup._templates().overlay(autoescape=False)
    unescaped = mock.patch.object(markup, "_templates", lambda: templates)
    raw = mock.patch("lrlab.report.page.embedded_json", lambda data: json.dumps(data))
    with unescaped, raw:
        page = Page(report.write(here / "s").read_text("utf-8"))
    assert page.scripts > plain.scripts and page.asked and page.handlers


ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def test_a_terminal_is_told_no_commands(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "s", here / "other")
    hostile(here / "s", ESCAPE)
    for name, read in readers(here).items():
        ended = read()
        for shown in (ended.out, ended.err):
            assert not any(c for c in ESCAPE if not c.isprintable() and c in shown), (name, shown)
    with mock.patch.object(errors, "printable", lambda text: text):
        assert "\x1b" in command(lambda: analysis.main(["s"]), [], here).out
    assert "\x1b" not in str(UserError(ESCAPE)) and str(UserError("a\tb")) == "a b"


def test_what_a_spreadsheet_would_run_is_text(tmp_path: Path) -> None:
    formula = '=HYPERLINK("http://theirs.example";A1)'
    texts = [
        formula,
        "+cmd|' /C calc'!A0",
        "@SUM(1)",
        "\t=1+1",
        "-2+3",
        "-",
        "-0.5",
        "+1e-3",
        "sgd",
    ]
    table = pd.DataFrame({"run": range(len(texts)), "optimizer": texts, formula: -1.5})
    assert "=HYPERLINK(" in table.to_csv(), "as pandas writes it"
    records.write_verdicts(tmp_path, table)
    back = pd.read_csv(tmp_path / "verdicts.csv", keep_default_na=False)
    assert back["optimizer"].tolist() == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert back.columns.tolist() == ["run", "optimizer", f"'{formula}"]
    assert (back[f"'{formula}"] == -1.5).all(), "numbers stay numbers"
