"""Folders and checkpoints that somebody sent: nothing that they name is executed or followed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.commands import command
from helpers.sent import LITTLE, MARK, Touch, change, ran, refused, reproduce
from omegaconf import OmegaConf

import lrlab
from lrlab import reproduce as reproducing
from lrlab.config import known as config_known
from lrlab.config import schema as config_schema
from lrlab.config import trust
from lrlab.probes import landscape, paths
from lrlab.sweep import main
from lrlab.training import checkpoints

GROUPS = (*config_schema.GROUPS, *config_schema.SWEEP_GROUPS)


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
    spec = paths.saved_spec(Path("s/0"), trusted=False)
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
    ended = command(reproducing.main, ["outputs/mine/0", "lr=3"], here)
    refused(ended, "only trust=true may follow")


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
