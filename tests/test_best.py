"""``best.yaml``: a file beside multirun.yaml that trains the best run again, to the bit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from helpers.commands import QUICK, command
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import OmegaConf

from lrlab import records
from lrlab.config import hydra_store, schema
from lrlab.errors import UserError
from lrlab.plan import best
from lrlab.sweep import main


def best_of(run: Path, comment: str = "Best of 2 runs by val_loss: 0.5 (run 1)") -> str:
    """Write the sweep's best.yaml, as if that run were its best, and return it."""
    records.write_best(run.parent, best.text(run, comment))
    return (run.parent / "best.yaml").read_text(encoding="utf-8")


def trained(cwd: Path, *arguments: str) -> Path:
    options = [*arguments[:2]] if arguments[:1] == ("--config-dir",) else []
    ended = command(main, [*options, *QUICK, *arguments[len(options) :]], cwd)
    assert ended.code == 0, ended.err + ended.out
    return Path(re.findall(r"^sweep  (.*)$", ended.out, re.MULTILINE)[-1])


def again(sweep_folder: Path, cwd: Path, *arguments: str) -> Path:
    """Run a sweep's best.yaml; without the test's own options, which must be in the file."""
    first = ["--config-dir", str(sweep_folder), "--config-name", "best"]
    ended = command(main, [*first, *arguments], cwd)
    assert ended.code == 0, ended.err + ended.out
    return cwd / re.findall(r"^sweep  (.*)$", ended.out, re.MULTILINE)[-1]


def metrics(run: Path) -> bytes:
    return (run / "metrics.csv").read_bytes()


def config(run: Path) -> dict[str, object]:
    found = yaml.safe_load(records.read_config(run))
    return {key: value for key, value in found.items() if key not in ("name", "source")}


def test_it_names_the_best_run_and_holds_only_what_differs(tmp_path: Path) -> None:
    folder = trained(tmp_path, "lr=0.1,0.3", "name=first", "network=perceptron")
    text = best_of(tmp_path / folder / "1")
    # Folders are told as one would type them; here they lie elsewhere than the test's own.
    assert text.startswith("# Best of 2 runs by val_loss: 0.5 (run 1)\n# Train it again: ")
    assert yaml.safe_load(text) == {
        "defaults": ["config", {"override network": "perceptron"}, "_self_"],
        "lr": 0.3,
        "epochs": 1,
        "batch_size": 64,
        "seed": 0,
        "threads": 1,
        "plots": False,
        "diagnostics": "off",
        "data": {"train_size": 640, "val_size": 200},
        "source": str(tmp_path / folder / "1"),
    }


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("optimizer=adam", "schedule=step", "schedule.gamma=0.5", "optimizer.betas=[0.8,0.99]"),
        ("network.hidden=[32,16]", "seed=7", "optimizer.weight_decay=1e-5"),
        ("optimizer._target_=torch.optim.NAdam",),
        ("network=custom", "network._target_=small.Net", "+network.width=5"),
    ],
    ids=["plain", "groups", "settings", "target", "custom"],
)
def test_the_rerun_equals_the_best_run_to_the_bit(tmp_path: Path, arguments: tuple[str]) -> None:
    (tmp_path / "small.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, in_shape, num_classes, width=2):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, width),\n"
        "            torch.nn.Tanh(), torch.nn.Linear(width, num_classes))\n"
    )
    folder = trained(tmp_path, "lr=0.02,0.1", "name=first", *arguments)
    first = tmp_path / folder / "1"
    text = best_of(first)
    trust = ["trust=true"] if "network=custom" in arguments else []
    assert ("trust=true" in text.splitlines()[1]) == bool(trust)
    second = again(first.parent, tmp_path, *trust) / "0"
    assert metrics(second) == metrics(first)
    assert config(second) == config(first)
    assert yaml.safe_load(records.read_config(second))["source"] == str(first)
    assert second.parent != first.parent


@pytest.mark.full
def test_more_options_change_it(tmp_path: Path) -> None:
    folder = tmp_path / trained(tmp_path, "lr=0.02,0.1", "name=first", "network.hidden=[32]")
    best_of(folder / "0")
    other = again(folder, tmp_path, "lr=0.05,0.1", "name=other")
    assert [config(other / run)["lr"] for run in "01"] == [0.05, 0.1]
    assert metrics(other / "1") == metrics(folder / "1"), "only the lr was another"
    adam = again(folder, tmp_path, "optimizer=adam", "name=adam")
    assert "adam" in records.read_texts(adam / "0")[0]
    plain = trained(tmp_path, "optimizer=adam", "lr=0.02", "name=plain", "network.hidden=[32]")
    assert metrics(adam / "0") == metrics(tmp_path / plain / "0")


@pytest.mark.full
def test_another_optimizer_may_follow_whatever_the_best_ones_settings(tmp_path: Path) -> None:
    momentum = ("optimizer=momentum", "optimizer.momentum=0.8")
    folder = tmp_path / trained(tmp_path, "lr=0.02,0.1", "name=first", *momentum)
    best_of(folder / "0")
    adam = again(folder, tmp_path, "optimizer=adam", "name=adam")
    plain = trained(tmp_path, "optimizer=adam", "lr=0.02", "name=plain")
    assert metrics(adam / "0") == metrics(tmp_path / plain / "0"), "adam takes no momentum"


def test_spaces_quotes_and_unicode_in_the_path(tmp_path: Path) -> None:
    cwd = tmp_path / "größe 1"
    cwd.mkdir()
    folder = cwd / trained(cwd, "lr=0.1,0.3", 'name="it\'s 2 ü $x"')
    text = best_of(folder / "1")
    second = again(folder, cwd) / "0"
    assert metrics(second) == metrics(folder / "1")
    command = next(line for line in text.splitlines() if line.startswith("# Train it again:"))
    words = shlex.split(command.partition(": ")[2])
    assert words[words.index("--config-dir") + 1] == str(folder)
    assert yaml.safe_load(records.read_config(second))["source"] == str(folder / "1")


@pytest.mark.full
def test_what_a_file_cannot_say_stands_in_its_command(tmp_path: Path) -> None:
    """A key taken away."""
    arguments = ("~network.bias", "lr=0.1,0.3")
    folder = tmp_path / trained(tmp_path, *arguments, "name=first")
    text = best_of(folder / "1")
    words = shlex.split(text.splitlines()[1].partition(": ")[2])
    extra = words[words.index("best") + 1 :]
    assert extra == ["~network.bias"]
    second = again(folder, tmp_path, *extra) / "0"
    assert metrics(second) == metrics(folder / "1")
    assert config(second) == config(folder / "1")


@pytest.mark.full
def test_choices_and_experiments_of_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "my conf"
    (own / "network").mkdir(parents=True)
    (own / "network" / "tiny.yaml").write_text("_target_: lrlab.networks.MLP\nhidden: [8]\n")
    (own / "experiments").mkdir()
    (own / "experiments" / "study.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /network: tiny\n  - override /schedule: step\n"
        "epochs: 2\nschedule:\n  gamma: 0.6\n"
    )
    arguments = ("--config-dir", str(own), "+experiments=study", "lr=0.1,0.3", "epochs=2")
    folder = tmp_path / trained(tmp_path, *arguments, "name=first")
    text = best_of(folder / "1")
    found = yaml.safe_load(text)
    assert found["hydra"] == {"searchpath": [f"file://{own}"]}
    assert {"override network": "tiny"} in found["defaults"]
    assert found["schedule"] == {"gamma": 0.6} and "network" not in found
    second = again(folder, tmp_path, "trust=true") / "0"
    assert metrics(second) == metrics(folder / "1")


def test_the_options_of_the_sweep_stay_behind(tmp_path: Path) -> None:
    folder = tmp_path / trained(tmp_path, "lr=0.1,0.3", "name=first", "output=mine")
    run = folder / "1"
    more = "n_trials: 9\ntimeout: 5.0\npoints: 3\nworkers: 2\nsource: outputs/older/3\n"
    whole = {**yaml.safe_load(records.read_config(run)), **yaml.safe_load(more)}
    records.write_whole(run / ".hydra" / "config.yaml", yaml.safe_dump(whole))
    found = yaml.safe_load(best_of(run))
    assert not {"output", "n_trials", "timeout", "points", "workers", "name", "sampler"} & set(
        found
    )
    assert found["source"] == str(run)
    assert again(folder, tmp_path).parent == tmp_path / "outputs"


def test_another_choice_leaves_the_settings_of_the_first_behind(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(
        "defaults: [config, override optimizer: momentum, _self_]\n"
        "network: {hidden: [8]}\noptimizer: {momentum: 0.5}\nsource: outputs/first/3\n"
    )
    overrides = ["network=cnn", "network.activation=tanh", "+network.note=1", "lr=0.3"]
    Plugins.instance()  # which knows what reads pkg:// and file://
    path = ConfigSearchPathImpl()  # as `--config-dir` makes it
    path.append("hydra", "pkg://hydra.conf")
    path.append("main", f"file://{schema.folder('conf')}")
    path.append("command-line", f"file://{tmp_path}")
    path.append("schema", "structured://")
    loader = ConfigLoaderImpl(path)
    with hydra_store.ready():
        job = loader.load_configuration("best", overrides, RunMode.RUN)
        assert job.network.hidden == [8]
        best.choose_again(job, loader, overrides)
    cnn = OmegaConf.load(schema.folder("conf") / "network" / "cnn.yaml")
    assert job.network == {**cnn, "activation": "tanh", "note": 1}, "no trace of hidden"
    assert job.optimizer.momentum == 0.5 and job.lr == 0.3, "what was not chosen anew stays"


def test_a_folder_without_a_config_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of a run"):
        best.text(tmp_path, "")
