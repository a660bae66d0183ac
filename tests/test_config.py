"""Input that cannot work: one line that names it, exit code 2, nothing trained, nothing left."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import QUICK, Ended, assert_refused, command, files, process, sweep
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrlab.config import checks, schema
from lrlab.config.hydra_store import BASE
from lrlab.config.words import messages
from lrlab.sweep import main

# typed, then what the line must hold
VALUES = [
    ("lr=-1", "lr=-1", "above 0", "lr=0.1"),
    ("lr=0", "lr=0", "above 0"),
    ("lr=0.0", "lr=0", "above 0"),
    ("lr=nan", "lr=nan", "finite"),
    ("lr=inf", "lr=inf", "finite"),
    ("lr=1e400", "lr=inf", "finite"),
    ("lr=abc", "lr=abc", "a number"),
    ("lr=[0.1]", "lr=[0.1]", "a number"),
    ("lr=null", "lr=null", "needs a value"),
    ("lr=", "lr=", "a number"),
    ("lr=1e-4:1", "lr=1e-4:1", "a number"),
    ("epochs=0", "epochs=0", "at least 1", "epochs=3"),
    ("epochs=-2", "epochs=-2", "at least 1"),
    ("epochs=1.5", "epochs=1.5", "whole number"),
    ("epochs=null", "epochs=null", "needs a value"),
    ("batch_size=0", "batch_size=0", "at least 1", "batch_size=64"),
    ("batch_size=100000", "batch_size=100000", "640 training samples", "batch_size=640"),
    ("batch_size=641", "batch_size=641", "batch_size=640"),
    ("seed=-1", "seed=-1", "seed=0"),
    ("seed=9223372036854775808", "seed=9223372036854775808"),
    ("seed=1.5", "seed=1.5", "whole number"),
    ("threads=0", "threads=0", "at least 1", "null"),
    ("threads=abc", "threads=abc", "whole number"),
    ("lanes=0", "lanes=0", "auto"),
    ("precision=fp16", "precision=fp16", "did you mean bf16?", "float32, tf32, bf16"),
    ("precision=tf32 device=cpu", "precision=tf32", "device=cpu", "NVIDIA", "precision=bf16"),
    ("pad=0", "pad=0", "auto", "pad=8"),
    ("capture=perhaps", "capture=perhaps", "true or false"),
    ("lanes=abc", "lanes=abc", "auto"),
    ("lanes=1.5", "lanes=1.5", "whole number"),
    ("lanes=true", "lanes=True", "whole number"),
    ("plots=maybe", "plots=maybe", "true or false"),
    ("device=gpu", "device=gpu", "cpu, cuda, mps"),
    ("device=cpu:1", "device=cpu:1", "device=cpu"),
    ("device=null", "device=null", "needs a value"),
    ("schedule=step schedule.gamma=-1", "schedule.gamma=-1", "above 0", "schedule.gamma=0.3"),
    ("schedule.warmup_steps=10", "schedule.warmup_steps=10"),
    ("network.hidden=[-1]", "network.hidden=[-1]", "at least 1", "network.hidden=[64,64,64]"),
    ("network.activation=foo", "network.activation=foo", "relu, sigmoid, tanh"),
    ("optimizer.momentum=-1", "optimizer.momentum=-1", "at least 0"),
    ("optimizer=adam optimizer.betas=[2,3]", "optimizer.betas=[2", "below 1"),
    ("data.root=nowhere", "data.root=", "nowhere", "no such folder"),
    ("data.val_size=60000", "data.val_size=60000", "60000 training images"),
]
SEARCH = [
    ("objective=val_los", "objective=val_los", "did you mean val_loss?", "steps_to_target"),
    ("objective=steps_to_target", "objective=steps_to_target", "target=0.1"),
    ("target=0", "target=0", "above 0", "target=0.1"),
    ("target=nan", "target=nan", "finite"),
    ("n_trials=0", "n_trials=0", "at least 1", "n_trials=20"),
    ("n_trials=many", "n_trials=many", "a whole number"),
    ("timeout=0", "timeout=0", "above 0"),
    ("timeout=-1", "timeout=-1", "above 0"),
    ("points=1", "points=1", "at least 2", "points=13"),
    ("workers=0", "workers=0", "auto"),
    ("workers=1.5", "workers=1.5", "whole number"),
    ("workers=true", "workers=True", "whole number"),
    ("lease=0", "lease=0", "above 0"),
    ("lease=inf", "lease=inf", "finite"),
    ("checkpoint_every=0", "checkpoint_every=0", "null"),
    ("checkpoint_every=often", "checkpoint_every=often", "auto"),
    ("storage=jornal", "storage=jornal", "postgresql://"),
    ("storage=null", "storage", "needs a value"),
    ("pruner=threshold", "pruner=threshold", "pruner.upper=2.3"),
    ("pruner=threshold objective=val_acc", "pruner=threshold", "pruner.lower=0.5"),
    ("pruner=ahsa", "pruner=ahsa", "did you mean asha?"),
    ("sampler=tpee", "sampler=tpee", "did you mean tpe?"),
    ("tracking=wandb", "tracking=wandb", "tensorboard"),
    ("pruner.reduction_factor=3", "pruner.reduction_factor", "pruner=asha, hyperband"),
    ("sampler.n_startup_trails=3", "did you mean sampler.n_startup_trials?"),
    ("sampler=null", "group"),
]
LISTS = [
    ("lr=0.1,-1", "lr=-1", "above 0"),
    ("lr=0.1,abc", "lr=abc", "a number"),
    ("lr=0.1,nan,0.2", "lr=nan", "finite"),
    ("lr=choice(0.1,-1)", "lr=-1", "above 0"),
    ("batch_size=64,100000", "batch_size=100000", "640 training samples"),
    ("optimizer.momentum=0,-1", "optimizer.momentum=-1", "at least 0"),
    ("network.hidden=[3],[-1]", "network.hidden=[-1]", "at least 1"),
    ("schedule=fixed,stepp", "schedule=stepp", "did you mean step?"),
    ("lr=1e-4..", "lr=1e-4..", "a number"),
    ("lr=1e-4..1 sampler=grid", "sampler=grid", "points=13"),
    ("epochs=0..2 optimizer=sgd,adam", "epochs=0", "at least 1", "epochs=3"),
    ("optimizer.momentum=-1..0.5", "optimizer.momentum=-1", "at least 0"),
    ("batch_size=64..100000", "batch_size=100000", "640 training samples"),
    ("lr=0.1,0.2 n_trials=5", "n_trials=5", "lr=1e-4..1"),
    ("pruner=none,asha", "pruner=none,asha", "one value"),
    ("n_trials=3,4", "n_trials=3,4", "one value"),
    ("hydra.job.name=a,b", "hydra.job.name=a,b", "Hydra"),
    ("optimizer=momentum,adam optimizer.betas=[0.8,0.9]", "optimizer.betas", "optimizer=momentum"),
    ("optimizer=adam,adamw optimizer.epps=1e-6", "optimizer.epps", "did you mean optimizer.eps?"),
    ("lrr=0.1 lr=0.1,0.2", "lrr: no such option", "did you mean lr?"),
    ("lrr=1e-4..1", "lrr: no such option", "did you mean lr?"),
    ("lr=abc seed=0,1", "lr=abc", "a number"),
    ("+experiments=lrsearch", "experiments=lrsearch", "did you mean lr_search?"),
    ("name=a,b", "name=a,b", "one value"),
    ("output=a,b", "output=a,b", "one value"),
]
NAMES = [
    ("lrr=0.1", "lrr: no such option", "did you mean lr?"),
    ("lrr=0.1,0.2", "lrr: no such option", "did you mean lr?"),
    ("Lr=0.1", "Lr: no such option", "did you mean lr?"),
    ("epoch=3", "epoch: no such option", "did you mean epochs?"),
    ("batchsize=3", "batchsize: no such option", "did you mean batch_size?"),
    ("network.hiden=[3]", "network.hiden: no such option", "did you mean network.hidden?"),
    ("network.hiden=[3],[4]", "network.hiden: no such option", "did you mean network.hidden?"),
    ("optimizer.momentm=0.9", "did you mean optimizer.momentum?"),
    ("schedule.gama=0.3", "did you mean schedule.gamma?"),
    ("data.rot=3", "did you mean data.root?"),
    ("schedule.gamma=0.5", "schedule.gamma", "step"),  # a setting of others, not of fixed
    ("+lr=0.1", "+lr", "without the +"),
    ("network=foo", "network=foo: no such choice", "cnn", "mlp", "perceptron"),
    ("optimizer=foo", "optimizer=foo: no such choice", "adam", "sgd"),
    ("data=mnits", "data=mnits: no such choice", "did you mean mnist?"),
    ("schedule=", "schedule=", "cosine"),
    ("hydra/launcher=foo", "hydra/launcher=foo", "lanes"),
    ("network=null", "group"),
    ("=3", "group"),
    ("data=null", "group"),
    ("~lr", "lr"),
    ("network=custom", "network._target_", "mypkg"),
    ("network._target_=nope.Net", "network._target_=nope.Net", "nope"),
    ("network._target_=os.getcwd", "network._target_=os.getcwd"),
    ("network._target_=torch.nn.Nope", "network._target_=torch.nn.Nope", "Nope"),
    ("optimizer._target_=torch.optim.SDG", "did you mean torch.optim.SGD?"),
    ("loss._target_=lrlab.losses.nope", "loss._target_=lrlab.losses.nope", "nope"),
    ("data._target_=nope.data", "data._target_=nope.data", "nope"),
    ("schedule._target_=torch.optim.lr_scheduler.StepLRR", "StepLR?"),
    ("+network.width=3", "network.width=3", "no such option"),
    ("optimizer._target_=torch.optim.Muon", "torch.optim.Muon: ", "2D", "optimizer=adam"),
    ("lr=${epochs} epochs=${lr}", "lr=${epochs}: refers to itself", "0.1"),
    ("lr=0.1,${epochs} epochs=${lr}", "epochs=${lr}: stands for 0.1; give a whole number"),
    ("optimizer=${lr}", "${lr}: can refer only to another group"),
]


@pytest.mark.full(after=13)
@pytest.mark.parametrize("case", [*VALUES, *SEARCH, *LISTS, *NAMES], ids=lambda case: case[0])
def test_bad_input_is_one_line_and_leaves_nothing(case: tuple[str, ...], tmp_path: Path) -> None:
    typed, *words = case
    assert_refused(sweep(*typed.split(), cwd=tmp_path), *words)
    assert files(tmp_path) == [] and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "typed",
    ["lr=[", "lr=0.1,", "lr=,0.1", "lr", "lr=0.1=3", "", "größe=1", "lr=(1"],
)
def test_what_cannot_be_parsed_is_quoted(typed: str, tmp_path: Path) -> None:
    assert_refused(sweep(typed, cwd=tmp_path), typed)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("typed", ["device=cuda", "device=cuda:7", "device=cpu,cuda"])
def test_no_cuda_device(typed: str, tmp_path: Path) -> None:
    assert_refused(sweep(typed, cwd=tmp_path), "device=cuda", "device=cpu")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/abs"])
def test_a_name_is_one_folder(name: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    assert_refused(sweep(f"name={name}", cwd=here), f"name={name}:")
    assert list(tmp_path.iterdir()) == [here] and not any(here.iterdir())


def test_an_empty_output_is_not_the_root(tmp_path: Path) -> None:
    assert_refused(sweep("output=", "name=lrlab-test-at-root", cwd=tmp_path), "output=")
    assert not Path("/lrlab-test-at-root").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Below a regular file nobody can make a folder, not even root."""
    (tmp_path / "file").write_text("mine")
    refused = sweep("lr=0.1", "output=file/below", cwd=tmp_path)
    assert_refused(refused, "output=", "file", "cannot be written", "output=my_outputs")
    assert files(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"
    assert_refused(sweep("lr=0.1", "output=file", cwd=tmp_path), "output=", "file")
    assert files(tmp_path) == ["file"]


def test_a_name_that_is_taken_is_refused_and_kept(tmp_path: Path) -> None:
    taken = tmp_path / "outputs" / "mine"
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("precious")
    assert_refused(sweep("lr=0.1,0.2", "name=mine", cwd=tmp_path), "name=mine", "take another name")
    assert files(tmp_path) == ["outputs/mine/notes.txt"]
    assert (taken / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("typed", ["lr=-1", "lr=0.1,0.2 nosuch=3", "hydra/launcher=basic lr=-1"])
def test_hydra_composes_a_command_once(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = []
    load = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_configuration", lambda *a, **k: count.append(1) or load(*a, **k)
    )
    assert sweep(*typed.split(), cwd=tmp_path).code == 2
    assert len(count) == 1


@pytest.mark.parametrize(
    "typed",
    [
        ["--config-dir=.", "--config-name=mine"],
        ["hydra.searchpath=[file://.]", "+extra=one"],
        ["hydra.mode=RUN"],
    ],
)
def test_a_mode_of_the_users_own_counts(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "mine.yaml").write_text("defaults: [config, _self_]\nhydra: {mode: RUN}\n")
    (tmp_path / "extra" / "one.yaml").write_text("# @package _global_\nhydra: {mode: RUN}\n")
    monkeypatch.setattr(Hydra, "run", lambda *_, **__: sys.exit("in the mode of one run"))
    assert sweep(*typed, cwd=tmp_path).code == "in the mode of one run"


def test_a_bad_value_of_a_single_run_is_one_line(tmp_path: Path) -> None:
    assert_refused(sweep("hydra.mode=RUN", "lr=-1", cwd=tmp_path), "lr=-1", "above 0")


@pytest.mark.parametrize("typed", ["lr=0.1,-1", "lrr=0.1"])
def test_whole_process(typed: str, tmp_path: Path) -> None:
    done = process("-m", "lrlab.sweep", typed, cwd=tmp_path)
    assert_refused(Ended(done.returncode, done.stdout, done.stderr), typed.split("=")[0])
    assert not any(tmp_path.iterdir())


@pytest.mark.full
def test_python_without_asserts_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """Hydra's own parser of options moves on within assert statements."""
    done = process("-O", "-m", "lrlab.sweep", "lr=0.1,0.2", cwd=tmp_path)
    assert_refused(Ended(done.returncode, done.stdout, done.stderr), "python -O", "without -O")
    assert not any(tmp_path.iterdir())


def test_hydra_full_error_shows_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those who debug a class of their own."""
    from hydra.errors import ConfigCompositionException

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigCompositionException):
        sweep("lrr=0.1", cwd=tmp_path)


def test_defaults_pass_the_check(tmp_path: Path) -> None:
    shown = command(main, ["--cfg", "job", "--resolve"], tmp_path).out
    config = OmegaConf.merge(OmegaConf.structured(schema.Config), OmegaConf.create(shown))
    checks.check(config)  # type: ignore[arg-type]


def test_every_option_of_the_schema_is_in_the_config_file_with_a_comment() -> None:
    text = (schema.folder("conf") / "config.yaml").read_text("utf-8")
    for key in schema.Config.__dataclass_fields__:
        if key not in (*schema.GROUPS, *schema.SWEEP_GROUPS):
            (line,) = (line for line in text.splitlines() if line.startswith(f"{key}:"))
            assert "#" in line, line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"lr": "${lr}"}, "lr=${lr}: refers to itself; give a number, for example 0.1"),
        (
            {"lr": "${seed}", "seed": "${epochs}", "epochs": "${lr}"},
            "lr=${seed}: refers to itself; give a number",
        ),
        ({"lr": "${seed}", "seed": "${seed}"}, "lr=${seed}: refers to itself; give a number"),
        ({"name": "a${lrr}"}, "name=a${lrr}: there is no option lrr (did you mean lr?); give"),
        ({"epochs": "${no:1}"}, "epochs=${no:1}: there is no resolver no; give a whole number"),
        ({"lr": "${oc.env:LRLAB_NO}"}, 'lr=${oc.env:LRLAB_NO}: leads nowhere ("Environment'),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(given: dict[str, object], line: str) -> None:
    config: Any = OmegaConf.merge(OmegaConf.structured(schema.Config), given)
    with pytest.raises(OmegaConfBaseException) as caught:
        _ = [config[key] for key in given]
    assert messages.one_line(caught.value).startswith(line)


# --- Hydra manners --------------------------------------------------------------------------------


def overrides(folder: Path, run: int) -> list[str]:
    saved = OmegaConf.load(folder / str(run) / ".hydra" / "overrides.yaml")
    return [str(override) for override in saved]


@pytest.mark.full
def test_what_only_the_swept_choices_allow_is_judged_against_them(tmp_path: Path) -> None:
    """The default optimizer has no eps, the default schedule no gamma."""
    typed = ["optimizer=adam,adamw", "optimizer.eps=1e-6"]
    typed += ["schedule=step,exponential", "schedule.gamma=0.5,0.25", "name=x"]
    ended = sweep(*typed, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    for run in range(8):
        config = OmegaConf.load(folder / str(run) / ".hydra" / "config.yaml")
        assert config.optimizer.eps == 1e-6
        assert config.schedule.gamma == (0.25 if run % 2 else 0.5)
        assert "optimizer.eps=1e-6" in overrides(folder, run)
    saved = OmegaConf.load(folder / "multirun.yaml").hydra.overrides.task
    assert set(typed) <= set(saved)  # as typed


@pytest.mark.full
def test_an_experiment_sweeps_what_its_yaml_file_says(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    (tmp_path / "mine" / "experiments" / "both.yaml").write_text(
        "# @package _global_\n"
        "hydra: {sweeper: {params: {optimizer: [adam, adamw], lr: '0.001,0.01', seed: 3}}}\n"
    )
    typed = ["+experiments=both", "optimizer.eps=1e-6", "lr=0.1", "name=x"]
    ended = command(main, ["--config-dir", "mine", *QUICK, *typed], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    for run, optimizer in enumerate(("adam", "adamw")):
        config = OmegaConf.load(folder / str(run) / ".hydra" / "config.yaml")
        assert (config.lr, config.seed, config.optimizer.eps) == (0.1, 3, 1e-6)
        hydra = OmegaConf.load(folder / str(run) / ".hydra" / "hydra.yaml").hydra
        assert hydra.runtime.choices.optimizer == optimizer
    assert not (folder / "2").exists()


def test_an_interval_in_the_wrong_place_of_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    (tmp_path / "mine" / "experiments" / "bad.yaml").write_text(
        "# @package _global_\nlr: 1e-4..1\n"
    )
    ended = command(main, ["--config-dir", "mine", "+experiments=bad"], tmp_path)
    assert_refused(ended, "lr=1e-4..1", "hydra.sweeper.params: {lr: 1e-4..1}")


def test_lr_search_is_an_experiment(tmp_path: Path) -> None:
    ended = sweep("+experiments=lr_search", "n_trials=3", "pruner=none", "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    configs_ = [OmegaConf.load(folder / f"{run}/.hydra/config.yaml") for run in range(3)]
    assert len({config.lr for config in configs_}) == 3
    assert all(1e-4 <= config.lr <= 10 for config in configs_)
    assert configs_[0].n_trials == 3 and not (folder / "3").exists()


def test_experiments_are_a_group_and_nothing_beside_them_is(tmp_path: Path) -> None:
    text = command(main, ["--help"], tmp_path).out
    (studies,) = re.findall(r"^experiments: (.*)$", text, re.MULTILINE)
    files = (Path(__file__).parent.parent / "experiments").glob("*.yaml")
    assert studies.split(", ") == sorted(file.stem for file in files)
    listed = text.split("Choices (")[1].split("\n\n")[0].splitlines()[1:]
    groups = {line.partition(":")[0] for line in listed}
    assert groups == {*schema.GROUPS, *schema.SWEEP_GROUPS, "experiments"}
    shown = command(main, ["--cfg", "job", "+experiments=lr_search"], tmp_path)
    assert (shown.code, OmegaConf.create(shown.out).n_trials) == (0, 16)


def test_another_hydra_program_has_no_experiments(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("x: 1\n")
    (tmp_path / "app.py").write_text(
        "import hydra, lrlab.config\n"
        f"@hydra.main(**{BASE!r}, config_path='conf', config_name='config')\n"
        "def main(config): print('ran', config)\n"
        "main()\n"
    )
    ended = process("app.py", "--info", "searchpath", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "lrlab" not in ended.stdout.replace(str(tmp_path), "")
    ended = process("app.py", "hydra.run.dir=.", "hydra.output_subdir=null", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "ran {'x': 1}\n")


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--cfg", "hydra"], ["--info", "config"]])
def test_what_is_shown_takes_one_value(flags: list[str], tmp_path: Path) -> None:
    shown = command(main, [*flags, "lr=0.3", "optimizer=adam", "optimizer.eps=1e-6"], tmp_path)
    assert (shown.code, shown.err) == (0, "")
    assert "lr=0.3" in shown.out or "lr: 0.3" in shown.out
    assert not any(tmp_path.iterdir())


def test_what_is_shown_of_a_sweep_is_refused_in_one_line(tmp_path: Path) -> None:
    ended = command(main, ["--cfg", "job", "lr=0.1,0.2"], tmp_path)
    assert_refused(ended, "lr=0.1,0.2: several values", "give one value")
    ended = command(main, ["--cfg", "job", "lr=1e-4..1"], tmp_path)
    assert_refused(ended, "lr=1e-4..1", "one value")


@pytest.mark.full(after=1)
@pytest.mark.parametrize(
    ("launcher", "subdir"),
    [("lanes", "same"), ("lanes", "../${hydra.job.num}"), ("basic", "same"), ("basic", "${lr}")],
)
def test_folders_never_collide(launcher: str, subdir: str, tmp_path: Path) -> None:
    typed = ["lr=0.1", "seed=0,1", f"hydra/launcher={launcher}", f"hydra.sweep.subdir={subdir}"]
    ended = sweep(*typed, "name=x", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "x"
    for run in range(2):
        assert (folder / str(run) / "metrics.csv").is_file()
        assert OmegaConf.load(folder / f"{run}/.hydra/config.yaml").seed == run
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"0", "1"}
