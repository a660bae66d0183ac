"""Input that cannot work: one line that names it, exit code 2, nothing trained, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from test_sweep import Ended, command, files, process, sweep

from lrlab import config as configs
from lrlab.sweep import main


def assert_refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert ended.out == ""
    assert ended.err.startswith("lrlab: ") and ended.err.endswith("\n")
    assert ended.err.count("\n") == 1
    line = ended.err.rstrip("\n")
    assert line == line.strip() and not line.endswith(":")
    for word in words:
        assert word in line
    # Nothing of Hydra's inner workings, of this machine or of a template that found nothing.
    for noise in (
        "full_key",
        "object_type",
        "hydra.cc",
        "pkg://",
        "file://",
        "?:",
        "Error merging",
    ):
        assert noise not in line


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
    ("lanes=abc", "lanes=abc", "auto"),
    ("lanes=1.5", "lanes=1.5", "whole number"),
    ("lanes=true", "lanes=True", "whole number"),
    ("plots=maybe", "plots=maybe", "true or false"),
    ("device=gpu", "device=gpu", "cpu, cuda, mps"),
    ("device=cpu:1", "device=cpu:1", "device=cpu"),
    ("device=null", "device=null", "needs a value"),
    ("schedule=step schedule.gamma=-1", "schedule.gamma=-1", "above 0", "schedule.gamma=0.3"),
    ("schedule=step schedule.step_size=0", "schedule.step_size=0", "at least 1"),
    ("schedule.warmup_steps=-1", "schedule.warmup_steps=-1"),
    ("schedule.warmup_steps=10", "schedule.warmup_steps=10"),
    ("schedule.interval=foo", "schedule.interval=foo", "step", "epoch"),
    ("network.hidden=[-1]", "network.hidden=[-1]", "at least 1", "network.hidden=[64,64,64]"),
    ("network.hidden=3", "network.hidden=3", "list"),
    ("network.hidden=[a]", "network.hidden=[a]", "list"),
    ("network.activation=foo", "network.activation=foo", "relu, sigmoid, tanh"),
    ("network.activation=rellu", "did you mean relu?"),
    ("network.init=foo", "network.init=foo", "xavier_uniform"),
    ("optimizer.momentum=-1", "optimizer.momentum=-1", "at least 0"),
    ("optimizer.momentum=abc", "optimizer.momentum=abc", "a number"),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1", "at least 0"),
    ("optimizer=adam optimizer.betas=[2,3]", "optimizer.betas=[2", "below 1"),
    ("data.root=nowhere", "data.root=", "nowhere", "no such folder"),
    ("data.val_size=0", "data.val_size=0", "at least 1"),
    ("data.val_size=60000", "data.val_size=60000", "60000 training images"),
    ("data.train_size=0", "data.train_size=0", "at least 1"),
]
LISTS = [
    ("lr=0.1,-1", "lr=-1", "above 0"),
    ("lr=-1,0.1", "lr=-1", "above 0"),
    ("lr=0.1,abc", "lr=abc", "a number"),
    ("lr=0.1,nan,0.2", "lr=nan", "finite"),
    ("lr=choice(0.1,-1)", "lr=-1", "above 0"),
    ("batch_size=64,100000", "batch_size=100000", "640 training samples"),
    ("optimizer.momentum=0,-1", "optimizer.momentum=-1", "at least 0"),
    ("network.hidden=[3],[-1]", "network.hidden=[-1]", "at least 1"),
    ("schedule=fixed,stepp", "schedule=stepp", "did you mean step?"),
    ("lr=interval(1e-4,1)", "lr=interval(1e-4,1)", "lr=0.001,0.01,0.1"),
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
]


@pytest.mark.parametrize("case", [*VALUES, *LISTS, *NAMES], ids=lambda case: case[0])
def test_bad_input_is_one_line_and_leaves_nothing(case: tuple[str, ...], tmp_path: Path) -> None:
    typed, *words = case
    assert_refused(sweep(*typed.split(), cwd=tmp_path), *words)
    assert files(tmp_path) == [] and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "typed",
    ["lr=[", "lr=0.1,", "lr=,0.1", "lr", "lr=0.1=3", "", "name=a b=c", "name=größe", "lr=(1"],
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


def test_a_bad_value_of_a_single_run_is_one_line(tmp_path: Path) -> None:
    assert_refused(sweep("hydra.mode=RUN", "lr=-1", cwd=tmp_path), "lr=-1", "above 0")


@pytest.mark.parametrize("typed", ["lr=abc", "lr=0.1,-1", "lrr=0.1"])
def test_whole_process(typed: str, tmp_path: Path) -> None:
    done = process("-m", "lrlab.sweep", typed, cwd=tmp_path)
    assert_refused(Ended(done.returncode, done.stdout, done.stderr), typed.split("=")[0])
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
    config = OmegaConf.merge(OmegaConf.structured(configs.Config), OmegaConf.create(shown))
    configs.check(config)  # type: ignore[arg-type]


def test_every_option_of_the_schema_is_in_the_config_file_with_a_comment() -> None:
    text = (configs.folder("conf") / "config.yaml").read_text("utf-8")
    for key in configs.Config.__dataclass_fields__:
        if key not in configs.GROUPS:
            (line,) = (line for line in text.splitlines() if line.startswith(f"{key}:"))
            assert "#" in line, line


def test_known_keys_are_those_of_the_files() -> None:
    known = configs.known_keys()
    for key in ("lr", "network.hidden", "schedule.gamma", "optimizer.betas", "data.root"):
        assert key in known
    assert not [key for key in known if key.endswith(("_target_", "_partial_"))]


@pytest.mark.parametrize(
    ("word", "hint"),
    [("lrr", " (did you mean lr?)"), ("sed", " (did you mean seed?)"), ("qqq", "")],
)
def test_nearest(word: str, hint: str) -> None:
    assert configs.nearest(word, ["lr", "seed", "epochs"]) == hint
