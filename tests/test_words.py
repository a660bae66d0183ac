"""Words as people type them: texts of any letters, options given twice, and those nobody reads."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.commands import (
    command,
    last_words,
)
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import lrlab
from lrlab import find, records, resume
from lrlab import sweep as sweeps
from lrlab.config import schema, yaml_text
from lrlab.config.words import arguments, keywords, messages, spelling, wishes
from lrlab.errors import UserError
from lrlab.process.paths import typed_path
from lrlab.sweeping import resuming
from lrlab.tables import sweep_settings

pytestmark = pytest.mark.unit

DATA = ("data=arrays", "data.path=points.npz", "network.hidden=[2]", "epochs=1", "batch_size=16")
FEW = (*DATA, "threads=1", "plots=false", "diagnostics=off", "device=cpu")
NUMBERS = ["007", "1_000", "0x10", "1e5", "123E456", "nan", "inf", ".5", "1.", "12:30:45", "1e-3"]
NUMBERS += [
    "true",
    "null",
    "yes",
    "off",
    "~",
    "2024-01-01",
    "[a]",
    "[a,b]",
    "{a:1}",
    "int(5)",
    "0o7",
]
LETTERS = [
    "größe",
    "学習率",
    "цена",
    "e\u0301te\u0301",
    "😀",
    "it's",
    "50%",
    "a@b",
    "a#b",
    "a&b",
    "a!b",
]
LETTERS += ["a b'c $HOME (1)", "a;b", 'say "hi"', "a(1", "C:\\ö", "<a>", "a^b`c", "x=y", "{", "]"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 3)).astype("float32")
    np.savez(tmp_path / "points.npz", x=x, y=(x[:, 0] > 0).astype("int64"))
    return tmp_path


def refusal(words: list[str]) -> str:
    with pytest.raises(UserError) as error:
        list(arguments.read(words).for_hydra)
    return str(error.value)


def value(word: str) -> Any:
    """What Hydra makes of a word as lrlab hands it on."""
    (spelled,) = spelling.spelled([word])
    return OverridesParser.create().parse_override(spelled).value()


# --- texts stay as typed --------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*NUMBERS, *LETTERS])
@pytest.mark.parametrize("key", ["name", "output", "data.path"])
def test_a_text_is_what_was_typed(key: str, text: str) -> None:
    assert value(f"{key}={text}") == text


@pytest.mark.default
@given(st.text(st.characters(codec="utf-8", exclude_characters=",\\$\"'[({"), min_size=1))
def test_any_letters_are_a_text(text: str) -> None:
    assert value(f"name={text}") == text


@pytest.mark.default
@given(st.text(min_size=1))
def test_what_is_quoted_is_the_same_text(text: str) -> None:
    quoted = spelling.quoted(text)
    override = OverridesParser.create().parse_override(f"name={quoted}")
    assert override.value() == text and spelling.unquoted(quoted) == text


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("data.drop=[01,1e2,yes]", ["01", "1e2", "yes"]),
        ("data.drop=[größe, 1e5]", ["größe", "1e5"]),
        ("data.drop=[]", []),
        ("data.label=1e5", "1e5"),
        ("data.label=[цена,7]", ["цена", "7"]),
        ("data.sep=;", ";"),
        ("data.sep=,", ","),
        ("data.sep= ", " "),
        ("data.sep=\\s+", "\\s+"),
        ("data.test_path=null", None),
        ('name="my sweep"', "my sweep"),
        ("name='1e5'", "1e5"),
        ("name=${now:%H}", "${now:%H}"),
        ("+data.file=größe.npz", "größe.npz"),
        ("+network.width=3", 3),
        ("network.hidden=[64,64]", [64, 64]),
    ],
)
def test_a_value_is_read_by_the_kind_of_its_option(typed: str, wanted: Any) -> None:
    assert value(typed) == wanted


def test_a_list_of_texts_is_swept() -> None:
    (word,) = spelling.spelled(["data.label=цена,1e5,a b"])
    override = OverridesParser.create().parse_override(word)
    found = [spelling.unquoted(text) for text in override.sweep_string_iterator()]
    assert found == ["цена", "1e5", "a b"]


@pytest.mark.default
@example("\x85")  # PyYAML folds these line ends
@example("a\u2028 b\u2029")
@given(st.sampled_from([*NUMBERS, *LETTERS]) | st.text(st.characters(codec="utf-8"), min_size=1))
def test_records_give_texts_back(text: str) -> None:
    """In YAML 1e5, 007 and 12:30 would be numbers, for each of those who read it."""
    written = yaml_text.write({"name": text, "drop": [text]})
    assert yaml_text.read(written) == {"name": text, "drop": [text]}
    if text.isprintable():
        assert records.plain_yaml(written) == {"name": text, "drop": [text]}


def test_from_python() -> None:
    given: dict[str, Any] = {
        "name": "1e5",
        "data__label": ["1e5", "a,b"],
        "data__drop": ("01", "1e2"),
    }
    words = spelling.spelled(keywords.words(given))
    parser = OverridesParser.create()
    assert parser.parse_override(words[0]).value() == "1e5"
    labels = parser.parse_override(words[1]).sweep_string_iterator()
    assert [spelling.unquoted(text) for text in labels] == ["1e5", "a,b"]
    assert parser.parse_override(words[2]).value() == ["01", "1e2"]
    assert keywords.words({"name": None}) == []


@pytest.mark.full
def test_a_sweep_keeps_its_texts_to_the_end(here: Path) -> None:
    """Folder, records, resume and reproduce: a name that is a number, a column in Cyrillic."""
    lines = ["a,01,1e2,цена"] + [
        f"{i % 7},{i},{i * i},{'ja' if i % 2 else 'nö'}" for i in range(80)
    ]
    (here / "größe 1.csv").write_text("\n".join(lines), encoding="utf-8")
    words = [*FEW, "data=csv", "data.path=größe 1.csv", "data.label=цена", "data.drop=[01,1e2]"]
    ended = command(sweeps.main, [*words, "output=outputs é", "name=123E456", "lr=0.1,0.2"], here)
    assert ended.code == 0, ended.err
    folder = here / "outputs é" / "123E456"
    assert (folder / "1").is_dir()
    config = yaml.safe_load(records.read_config(folder / "0"))
    assert config["name"] == "123E456" and config["output"] == "outputs é"
    assert config["data"]["label"] == "цена" and config["data"]["drop"] == ["01", "1e2"]
    words = resuming.command_line(folder, []).words
    again = [word for word in words if not word.startswith("hydra.")]
    assert value(next(word for word in again if word.startswith("data.drop="))) == ["01", "1e2"]
    before = records.read_texts(folder / "0")
    longer = command(resume.main, [str(folder), "lr=0.1,0.2,0.4"], here)
    assert longer.code == 0, longer.err
    assert records.read_texts(folder / "0") == before and (folder / "2").is_dir()
    from lrlab import reproduce

    done = command(reproduce.main, [str(folder / "0"), "--output", str(here / "r")], here)
    assert done.code == 0, done.err


# --- options given twice --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "lr=0.1 lr=0.2",
            "lr: is given twice, as lr=0.1 and lr=0.2; keep one, or sweep them all by lr=0.1,0.2",
        ),
        ("epochs=1 lr=1 epochs=2 epochs=3", "epochs: is given 3 times, as epochs=1 and epochs=2"),
        ("lr=0.1 ++lr=0.2", "as lr=0.1 and ++lr=0.2; keep one, or sweep them all by lr=0.1,0.2"),
        ("lr=0.1 lr=0.1", "lr: is given twice, as lr=0.1 and lr=0.1; keep one"),
        ("lr=1e-4..1 lr=0.1", "as lr=1e-4..1 and lr=0.1; keep one"),
        ("optimizer=sgd optimizer=adam", "sweep them all by optimizer=sgd,adam"),
        ("+network.w=1 +network.w=2", "sweep them all by +network.w=1,2"),
        ("name=a name=b", "name: is given twice, as name=a and name=b; keep one"),
        ("hydra.job.name=a hydra.job.name=b", "hydra.job.name: is given twice"),
        ("hydra/launcher=lanes hydra/launcher=basic", "hydra/launcher: is given twice"),
        ("+experiments=seeds +experiments=loss", "experiments: is given twice"),
        ("~network.bias network.bias=true", "network.bias: is given twice"),
    ],
)
def test_an_option_given_twice_is_refused(typed: str, line: str, tmp_path: Path) -> None:
    told = refusal(typed.split())
    assert line in told and (told.endswith(line) or not line.endswith("keep one"))
    with pytest.raises(UserError, match="is given"):
        resuming.command_line(tmp_path, typed.split())
    if "lr=0.1 lr" in typed:
        with pytest.raises(UserError, match="given twice"):
            find._run(["lr=1e-3..1", "lr=1e-2..1"])
        with pytest.raises(UserError, match="given twice"):
            lrlab.run_sweep(optimizer__momentum=0.1, **{"optimizer.momentum": 0.2})


def test_what_is_suggested_for_two_values_works() -> None:
    told = refusal(["optimizer.momentum=0.1", "optimizer.momentum=0.2"])
    suggested = told.rpartition(" by ")[2]
    assert list(arguments.read([suggested]).for_hydra) == ["optimizer.momentum=0.1,0.2"]


def test_a_sweep_that_was_begun_with_two_goes_on() -> None:
    words = ["lr=0.1", "lr=0.2", arguments.RESUMED]
    assert list(arguments.read(words).for_hydra) == words


SAVED = """\
hydra:
  overrides: {task: [lr=0.1], hydra: []}
  runtime: {config_sources: []}
  job: {config_name: config}
"""


@pytest.mark.parametrize("word", ["hydra.sweep.dir=/tmp/x", "++hydra.sweeper.resume=false"])
def test_words_that_resume_sets_itself(word: str, tmp_path: Path) -> None:
    records.write_sweep_config(tmp_path, SAVED)
    with pytest.raises(UserError, match="resume sets it itself; leave it out"):
        resuming.command_line(tmp_path, [word])


# --- options that nobody reads --------------------------------------------------------------------


@pytest.mark.full(after=4)
@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("+clip=1.0", ["+clip=1.0: no such option (did you mean clip_grad_norm?)"]),
        ("clip_value=1.0", ["clip_value: no such option", "clip_grad_norm=1", "parts.Clipped"]),
        ("+ema_decay=0.99", ["+ema_decay=0.99: no such option (did you mean ema?)"]),
        ("+swa=true", ["+swa=true: no such option", "ema=0.999"]),
        ("++x=1", ["++x=1: no such option"]),
        ("+a.b=1", ["+a.b=1: no such option"]),
        ("+foo=1,2", ["+foo=1,2: no such option"]),
        ("+foo=1..2", ["+foo=1..2: no such option"]),
        ("+warmup=5 lr=0.1,0.2", ["+warmup=5: no such option", "schedule.warmup_steps=100"]),
        ("momentum=0.9", ["momentum: no such option (did you mean optimizer.momentum?)"]),
        ("gamma=0.9", ["did you mean schedule=exponential schedule.gamma?"]),
        ("optimizer.lr=0.1", ["optimizer.lr: no such option (did you mean lr?)"]),
        ("+network.dropout=0.1", ["network.dropout=0.1: MLP has no such option", "nets.Small"]),
        ("+schedule.x=1", ["schedule.x=1: ConstantLR has no such option"]),
        ("+loss.x=1", ["loss.x=1: nll has no such option; it takes ignore_index, class_axis"]),
        ("+data.x=1", ["data.x=1: no such setting"]),
        ("+tracking.x=1", ["tracking.x=1", "tracking=tensorboard"]),
        ("tracking=tensorboard +tracking.x=1", ["tracking.x=1: TensorBoard has no such option"]),
        ("+hydra.x=1", ["+hydra.x=1: Hydra has no such option"]),
        ("+hydra.job.nam=1", ["+hydra.job.nam=1: Hydra has no such option (did you mean name?)"]),
        ("+hydra.sweeper.x=1", ["hydra.sweeper.x: LrlabSweeper has no such setting"]),
        ("+hydra.launcher.x=1", ["hydra.launcher: LaneLauncher has no settings"]),
        ("größe=1", ["größe=1: no such option"]),
        ("--config-dir conf +mine=one", ["mine=one: nothing reads", "# @package _global_"]),
        (
            "--config-dir conf --config-name unknown",
            ["unknown.yaml: clip: no such option", "clip_grad_norm"],
        ),
        ("--config-dir conf +experiments=unknown", ["/unknown.yaml: clip: no such option"]),
        ("hydra.mode=RUN +clip=1.0", ["+clip=1.0: no such option"]),
    ],
)
def test_what_nobody_reads_is_refused(typed: str, parts: list[str], here: Path) -> None:
    for folder in ("mine", "experiments"):
        (here / "conf" / folder).mkdir(parents=True)
    (here / "conf" / "mine" / "one.yaml").write_text("epochs: 2\n")
    (here / "conf" / "unknown.yaml").write_text("defaults: [config, _self_]\nclip: 1\n")
    own = "# @package _global_\nepochs: 1\nclip: 1\n"
    (here / "conf" / "experiments" / "unknown.yaml").write_text(own)
    words = typed.split()
    flags = next((n for n, word in enumerate(words) if "=" in word), len(words))
    words = [*words[:flags], *last_words([*FEW, *words[flags:]])]
    ended = command(sweeps.main, words, here)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1, ended.err
    assert all(part in ended.err for part in parts), ended.err
    assert "RUN" in typed or not (here / "outputs").exists()  # for one run Hydra makes its folder


@pytest.mark.default
def test_a_group_of_ones_own_for_the_whole_config_is_read(here: Path) -> None:
    (here / "conf" / "mine").mkdir(parents=True)
    (here / "conf" / "mine" / "one.yaml").write_text("# @package _global_\nepochs: 2\n")
    words = [word for word in FEW if word != "epochs=1"]
    ended = command(sweeps.main, ["--config-dir", "conf", *words, "+mine=one", "name=x"], here)
    assert ended.code == 0, ended.err
    assert yaml.safe_load(records.read_config(here / "outputs/x/0"))["epochs"] == 2


@pytest.mark.default
def test_find_and_resume_refuse_it_too(here: Path) -> None:
    ended = command(find.main, [*DATA, "threads=1", "plots=false", "+clip=1"], here)
    assert ended.code == 2 and "+clip=1: no such option (did you mean clip_grad_norm?)" in ended.err
    assert command(sweeps.main, [*FEW, "lr=0.1", "name=x"], here).code == 0
    ended = command(resume.main, ["outputs/x", "+clip=1"], here)
    assert ended.code == 2 and "+clip=1: no such option" in ended.err


def test_every_name_that_is_looked_for_leads_to_an_option_of_lrlabs() -> None:
    known = set(schema.known_keys())
    assert set(wishes._OPTION.values()) <= known
    top = {wishes._plain(key) for key in known if "." not in key}
    assert not top & set(wishes._INSTEAD) and not top & set(wishes._OPTION)
    assert not set(wishes._INSTEAD) & set(wishes._OPTION)


CLIPPED = """
import torch

class Clipped(torch.optim.SGD):
    def __init__(self, params, lr=0.01, max_norm=1.0):
        super().__init__(params, lr)
        self.max_norm = max_norm

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        return super().step(closure)
"""
TRIED = {  # what a hint says, as one types it for these data
    "parts.Clipped": "optimizer._target_=parts.Clipped +optimizer.max_norm=0.5 name=a",
    "clip_grad_norm=1": "clip_grad_norm=1 name=j",
    "pruner=median": "pruner=median epochs=3 lr=0.1,0.2 name=c",
    "precision=bf16": "precision=bf16 name=d",
    "ema=0.999": "ema=0.9 name=e",
    "schedule.warmup_steps=100": "schedule.warmup_steps=3 name=f",
    "capture=false": "capture=false name=h",
    "data.train_size=1000": "epochs=3 data.train_size=64 name=i",
}


@pytest.mark.full(after=1)
@pytest.mark.parametrize("hint", TRIED)
def test_what_is_hinted_at_works(hint: str, here: Path) -> None:
    assert any(hint in instead for _, instead in wishes._WISHES)
    (here / "parts.py").write_text(CLIPPED)
    ended = command(sweeps.main, last_words([*FEW, *TRIED[hint].split()]), here)
    assert ended.code == 0, ended.err + ended.out


# --- what is printed can be typed -----------------------------------------------------------------

HARD = "a b'c $HOME (1)!*;&"


def in_bash(typed: str) -> list[str]:
    """The words that bash makes of what is typed."""
    words = typed.partition("-m ")[2].partition(" ")[2]
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.full
def test_a_printed_command_is_taken_by_a_shell(here: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(here)
    ended = command(sweeps.main, [*FEW, f"name={HARD}", "lr=0.1,0.2"], here)
    assert ended.code == 0, ended.err
    folder = Path("outputs", HARD)
    assert in_bash(resuming.resume_command(folder)) == [str(folder)]
    assert in_bash(f"python -m lrlab.plots {typed_path(folder)}") == [str(folder)]
    taken = command(sweeps.main, [*FEW, f"name={HARD}", "lr=0.1,0.2"], here)
    assert in_bash(taken.err.partition("with that sweep: ")[2].strip()) == [str(folder.absolute())]
    typed = in_bash(shlex.join(sweep_settings.command(folder)))
    assert value(next(word for word in typed if word.startswith("name="))) == HARD
    again = records.read_best(folder).partition("again:")[2].splitlines()[0]
    words = in_bash(again)
    assert words[words.index("--config-dir") + 1] == str(folder)
    # for real
    assert command(resume.main, in_bash(resuming.resume_command(folder)), here).code == 0
    ended = command(sweeps.main, [*words, "threads=1", "plots=false", "name=again"], here)
    assert ended.code == 0 and (here / "outputs/again/0").is_dir(), ended.err


def test_a_folder_that_looks_like_a_flag(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed_path(Path("-x y")) == "'./-x y'"


def test_a_hint_for_a_text_with_a_comma_works() -> None:
    from lrlab.config import space

    override = OverridesParser.create().parse_override("name=a,b c")
    line = space._as_a_text("name", override)
    (word,) = shlex.split(line.rpartition("write ")[2])
    assert value(word) == "a,b c"
    error = Exception()
    error.override = "+data.file=a (1)"  # type: ignore[attr-defined]
    (word,) = shlex.split(messages.one_line(error).rpartition("quote it: ")[2])
    assert value(word) == "a (1)"


def test_texts_are_all_options_with_a_text() -> None:
    """One that is added to conf/ and holds a name, a path or a column belongs to TEXTS as well."""
    for group in ("data", "tracking"):
        for file in (schema.folder("conf") / group).glob("*.yaml"):
            for key, held in yaml_text.load(file).items():
                is_text = isinstance(held, str) or held == []
                if is_text and key not in ("_target_", "task"):
                    assert f"{group}.{key}" in spelling.TEXTS, f"{group}.{key}"
    strings = {
        name
        for name, field in schema.Config.__dataclass_fields__.items()
        if "str" in str(field.type)
    }
    assert strings <= set(spelling.TEXTS)


# --- the words that Hydra takes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("lr=1e-4..1", "lr=interval(1e-4,1)"),
        ("+network.w=1..2", "+network.w=interval(1,2)"),
        ("lr=1e-4..1 --multirun", "lr=interval(1e-4,1) --multirun"),
        ("optimizer=adam,sgd optimizer.eps=1", "optimizer=adam,sgd optimizer.eps=choice(1)"),
        ("optimizer.betas=[1,2] optimizer=a,b", "optimizer.betas=choice([1,2]) optimizer=a,b"),
        (
            "optimizer=choice(a) +optimizer.x={a:1}",
            "optimizer=choice(a) +optimizer.x=choice({a:1})",
        ),
        ("optimizer=adam optimizer.eps=1", "optimizer=adam optimizer.eps=1"),
        ("optimizer=a,b schedule.gamma=1", "optimizer=a,b schedule.gamma=1"),
        ("optimizer=a,b ~optimizer.eps", "optimizer=a,b ~optimizer.eps"),
        ("optimizer=a,b optimizer.eps=1,2", "optimizer=a,b optimizer.eps=1,2"),
        ("optimizer=a,b optimizer.eps=", "optimizer=a,b optimizer.eps="),
        ("optimizer.x=[ lr=1..2", "optimizer.x=[ lr=interval(1,2)"),
        ("hydra.job.name=1..2 name='1..2'", "hydra.job.name=1..2 name='1..2'"),
        ("--config-dir a..b lr=1", "--config-dir a..b lr=1"),
        ("--cfg job lr=1..2", "--cfg job lr=1..2"),
        ("hydra.mode=RUN lr=1..2", "hydra.mode=RUN lr=1..2"),
    ],
)
def test_words_for_hydra(typed: str, expected: str) -> None:
    assert list(arguments.read(typed.split()).for_hydra) == expected.split()


def test_the_groups_of_an_experiment_are_deferred() -> None:
    typed = ["optimizer.eps=1", "lr=1"]
    found = arguments.read(typed, ["optimizer"])
    assert found.for_hydra == ("optimizer.eps=choice(1)", "lr=1")


def test_the_words_as_typed_are_put_back() -> None:
    typed = ["optimizer=a,b", "optimizer.eps=${lr}", "schedule.gamma=${nowhere}", "lr=1..2"]
    command = arguments.read(typed)
    noted = {"task": list(command.for_hydra), "hydra": ["hydra.sweep.subdir=${hydra.job.num}"]}
    config = OmegaConf.create({"lr": 3, "hydra": {"overrides": noted}})
    OmegaConf.set_readonly(config.hydra.overrides, True)  # as from Hydra 1.4 on
    assert config.hydra.overrides.task[-1] == "lr=interval(1,2)"
    arguments.restore(config, command.typed)
    assert arguments.noted(config, "task") == typed
    assert arguments.noted(config, "hydra") == noted["hydra"]
