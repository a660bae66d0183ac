"""Flags stand wherever they are typed; what no command takes is refused in one line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from helpers.commands import command
from helpers.warm import DATA
from hydra._internal.utils import get_args_parser

from lrlab import __main__ as program
from lrlab import analysis, resume
from lrlab.config.words import flags
from lrlab.errors import UserError
from lrlab.find import main as find
from lrlab.process import verbs
from lrlab.sweep import main

pytestmark = pytest.mark.unit


def test_hydra_s_flags_are_all_known_and_take_the_values_that_it_takes() -> None:
    actions = [each for each in get_args_parser()._actions if each.option_strings]
    assert set(flags.FLAGS) == {each.option_strings[0] for each in actions}
    for action in actions:
        name, *shorts = action.option_strings
        assert [flags._SHORT[short] for short in shorts] == [name] * len(shorts)
        assert (name in flags._VALUES) == (action.nargs != 0), name
        assert list(flags._VALUES.get(name, ())) == list(action.choices or ()), name


@pytest.mark.parametrize(
    ("typed", "ordered"),
    [
        ("epochs=1 --cfg job lr=0.1", "--cfg=job epochs=1 lr=0.1"),
        ("lr=1 -c all x=2 -p data --resol", "--cfg=all --package=data --resolve lr=1 x=2"),
        ("lr=1 -cd conf x=2 --config-n=best", "--config-dir=conf --config-name=best lr=1 x=2"),
        ("lr=1 --info x=2", "--info=all lr=1 x=2"),
        ("lr=1 -i defaults x=2", "--info=defaults lr=1 x=2"),
        ("lr=1 -m x=2", "--multirun lr=1 x=2"),
        ("lr=1 --run x=2", "--run lr=1 x=2"),
        ("lr=1 --help x=2", "--help lr=1 x=2"),
        ("lr=1 --hydra-help hydra/launcher=basic", "--hydra-help hydra/launcher=basic"),
        ("-m -- --cfg", "--multirun --cfg"),
        ("lr=-1", "lr=-1"),
    ],
)
def test_words_may_follow_flags(typed: str, ordered: str) -> None:
    assert flags.first(typed.split()) == ordered.split()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--nonsense", "--nonsense: no such flag; options are written option=value, without"),
        ("--cfgs=job", "--cfgs=job: no such flag (did you mean --cfg?); options"),
        ("lr=1 -x", "-x: no such flag; options"),
        ("--lr=0.1", "--lr=0.1: options have no dashes; write lr=0.1"),
        ("--batch-size 3", "--batch-size: options have no dashes; write batch_size=..."),
        ("lr=1 --cfg", "--cfg: needs a value; choose from job, hydra, all"),
        ("--cfg nonsense lr=1", "--cfg=nonsense: no such choice; choose from job, hydra, all"),
        ("--cfg= lr=1", "--cfg: needs a value; choose from"),
        ("--cfg -m", "--cfg: needs a value; choose from"),
        ("--config-dir", "--config-dir: needs a value, as --config-dir FOLDER"),
        ("--info nonsense", "--info=nonsense: no such choice; choose from all, config"),
        ("--conf x", "--conf: is the beginning of --config-path, --config-name, --config-dir"),
        ("--config-dir a --config-dir=b", "--config-dir: is given twice; keep one"),
        ("--multirun=1", "--multirun=1: takes no value; write --multirun"),
        ("--run -m", "--multirun: does not go with --run; leave one of them out"),
        ("--cfg job -m", "--cfg: does not go with --multirun; leave one"),
        ("-m hydra.mode=RUN", "--multirun: does not go with hydra.mode=RUN"),
        ("lr=1 --resolve", "--resolve: goes with --cfg, as --cfg job --resolve"),
        ("--package optimizer", "--package: goes with --cfg, as --cfg job --package"),
        ("-sc x", "--shell-completion: needs one of install=, uninstall=, query="),
    ],
)
def test_what_no_flag_is_ends_in_one_line(typed: str, told: str) -> None:
    with pytest.raises(UserError) as raised:
        flags.first(typed.split())
    assert str(raised.value).startswith(told)


@pytest.mark.default
def test_a_sweep_s_config_is_shown_whatever_comes_first(tmp_path: Path) -> None:
    shown = command(main, ["epochs=1", "--cfg", "job", "lr=0.5", "-p", "optimizer"], tmp_path)
    assert (shown.code, shown.err) == (0, "") and "torch.optim.SGD" in shown.out
    assert command(find, ["lr=1e-3..1", "--cfg", "job", "epochs=7"], tmp_path).out.count("7") >= 1
    told = command(find, ["lr=1e-3..1", "-m", *DATA], tmp_path)
    assert told.code == 2 and told.err.startswith("lrlab: --multirun: find trains one network")


@pytest.mark.parametrize("verb", [verb for verb in program.VERBS if verb != "completion"])
def test_every_verb_names_the_flag_that_it_does_not_have(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = importlib.import_module(program.VERBS[verb][0]).main
    ended = command(entry, ["--nonsense"], tmp_path)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith("lrlab: --nonsense: ") and "usage" not in ended.err


def test_a_verb_s_words_may_follow_its_flags() -> None:
    parser = verbs.Parser(prog="x")
    parser.add_argument("paths", nargs="*", type=verbs.path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--target", type=float, metavar="LOSS")
    found = parser.parse_args(["a", "--json", "b", "--target", "-1", "c"])
    assert ([str(path) for path in found.paths], found.json) == (["a", "b", "c"], True)
    assert found.target == -1 and parser.parse_args(["--ta=2"]).target == 2
    for typed, told in (
        ("a --jsn", "--jsn: no such flag (did you mean --json?); choose from --help, --json"),
        ("a --target", "--target: needs a value, as --target LOSS"),
        ("a --target low", "--target=low: must be a number"),
    ):
        with pytest.raises(UserError) as raised:
            parser.parse_args(typed.split())
        assert str(raised.value).startswith(told)


def test_resume_and_analysis_say_it_too(tmp_path: Path) -> None:
    told = command(resume.main, ["--lr"], tmp_path).err
    assert told == "lrlab: --lr: the sweep's folder comes first; see --help\n"
    assert command(analysis.main, ["x", "--targt", "3"], tmp_path).err.count("--target") == 2


VERBS = ["sweep", "find", "resume", "reproduce", "analysis", "__main__"]


@pytest.mark.parametrize("module", VERBS)
def test_a_current_folder_that_is_gone_is_one_line(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["lrlab", "sweep"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"lrlab.{module}").main()
    monkeypatch.chdir(tmp_path)
    assert end.value.code == 2
    line = "lrlab: the current folder no longer exists; cd to another one\n"
    assert capsys.readouterr().err == line


def test_a_path_that_begins_with_a_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-a").mkdir()
    parser = verbs.Parser(prog="x")
    parser.add_argument("paths", nargs="*", type=verbs.path)
    parser.add_argument("--json")
    found = parser.parse_args(["b", "--json", "1", "--", "-a", "--json"])
    assert (found.paths, found.json) == ([Path("b"), Path("./-a"), Path("./--json")], "1")
    with pytest.raises(UserError, match=r"-a: a path that begins with - is written \./-a"):
        parser.parse_args(["-a"])


def test_a_name_in_another_encoding_than_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="set PYTHONUTF8=1"):
        verbs.path("gr\udcc3\udcb6\udcc3\udc9fe")
    with pytest.raises(UserError, match="rename it"):
        verbs.path("gr\udcf6")
