"""The console command: its verbs, its completion, and the papers that come with a package."""

from __future__ import annotations

import datetime
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml

import lrlab
from lrlab import __main__ as command
from lrlab import completion
from lrlab.config import schema
from lrlab.probes import along_a_step
from lrlab.study import heartbeat, journal

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of ``lrlab WORDS``."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/lrlab", *words])
    try:
        command.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


# --- verbs ----------------------------------------------------------------------------------------


@pytest.mark.default
def test_it_answers_without_importing_what_takes_time() -> None:
    code = """
import sys
from lrlab.__main__ import main
for word in ([], ["--help"], ["--version"]):
    sys.argv = ["lrlab", *word]
    main()
heavy = {"torch", "hydra", "omegaconf", "pandas", "numpy", "yaml"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 2 * command.usage() + f"lrlab {lrlab.__version__}\n"


def test_the_help_names_every_module_that_can_be_run() -> None:
    files = {"sweep", "find", "reproduce", "resume", "report", "compare", "bench", "plots"}
    assert command.VERBS.keys() == files | {"analysis", "completion"}
    for verb in command.VERBS:
        assert re.search(rf"^  {verb} +[a-z]", command.usage(), re.MULTILINE), verb


@pytest.mark.parametrize("verb", [verb for verb in command.VERBS if verb != "completion"])
def test_every_verb_says_the_version(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, verb, "--version") == 0
    assert capsys.readouterr() == (f"lrlab {lrlab.__version__}\n", "")


@pytest.mark.parametrize("verb", ["find", "reproduce", "resume", "report", "compare", "plots"])
def test_a_verb_is_the_module_of_its_name(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, verb, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m lrlab.{verb} ")


def test_the_words_behind_the_verb_and_the_exit_code_are_the_verbs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, seen = ModuleType("standing_in"), []

    def main() -> None:
        seen.append(sys.argv[1:])
        sys.exit(130)

    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lrlab.find", module)
    assert call(monkeypatch, "find", "lr=1e-4..1", "--x", "find") == 130
    assert seen == [["lr=1e-4..1", "--x", "find"]]


def test_a_verbs_bad_input_is_one_line_and_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert call(monkeypatch, "analysis", str(tmp_path / "none")) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"lrlab: .*none.*\n", err)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("swep", r"swep: no such verb \(did you mean sweep\?\); choose from sweep, .*"),
        ("xyzzy", r"xyzzy: no such verb; choose from sweep, .*"),
        ("lr=0.1", r"lr=0\.1: the verb comes first, for example lrlab sweep lr=0\.1"),
        ("--cfg", r"--cfg: the verb comes first, for example .*"),
    ],
)
def test_an_unknown_verb_is_one_line_and_2(
    word: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, word) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(f"lrlab: {line}\n", err)


# --- completion -----------------------------------------------------------------------------------


def in_bash(line: str, breaks: str) -> list[str]:
    ask = f"""
{completion.script("bash")}
COMP_WORDBREAKS={breaks}; COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}
_lrlab
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return asked("bash", "--norc", "-c", ask)


def asked(*words: str) -> list[str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line]


def stems(group: str) -> set[str]:
    return {file.stem for file in (schema.folder("conf") / group).glob("*.yaml")}


@pytest.mark.default
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_options_and_choices() -> None:
    every = "' =:'"  # what ends a word for readline, unless it was told otherwise
    assert {word.strip() for word in in_bash("lrlab ", every)} == command.VERBS.keys()
    assert in_bash("lrlab sw", every) == ["sweep "]
    assert in_bash("lrlab completion z", every) == ["zsh "]
    options = in_bash("lrlab sweep ", every)
    assert {f"{key}=" for key in schema.Config.__dataclass_fields__} <= set(options)
    assert "+experiments=" in options and "optimizer.momentum=" in options
    assert set(in_bash("lrlab sweep lr=1 optimizer=", every)) == stems("optimizer")
    assert set(in_bash("lrlab find schedule=", every)) == stems("schedule")
    assert in_bash("lrlab sweep optimizer=sgd,adamw", every) == ["sgd,adamw"]
    assert in_bash("lrlab sweep optimizer=sgd,adamw", "' :'") == ["optimizer=sgd,adamw"]
    assert in_bash("lrlab sweep +experiments=lr_s", every) == ["lr_search"]
    # files, which bash offers by itself where there is nothing else
    assert in_bash("lrlab report out", every) == in_bash("lrlab sweep lr=", every) == []


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_verbs_options_and_choices() -> None:
    def ask(line: str) -> set[str]:
        code = f"{completion.script('fish')}\ncomplete -C {shlex.quote(line)}"
        return {word.split("\t")[0] for word in asked("fish", "--no-config", "-c", code)}

    assert ask("lrlab ") == command.VERBS.keys()
    assert "epochs=" in ask("lrlab sweep ep")
    assert ask("lrlab sweep optimizer=sgd,adam") == {"optimizer=sgd,adam", "optimizer=sgd,adamw"}


@pytest.mark.default
@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_is_whole(shell: str) -> None:
    text = completion.script(shell)
    assert not re.search(r"@[a-z]+@", text)
    for word in (*command.VERBS, *stems("optimizer"), *stems("schedule"), "batch_size="):
        assert word in text
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_shell_is_one_line_and_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "completion", "tcsh") == 2
    expected = "lrlab: tcsh: no such shell; choose from bash, zsh, fish\n"
    assert capsys.readouterr() == ("", expected)


# --- other systems --------------------------------------------------------------------------------


def test_on_windows_nobody_is_sent_a_signal_to_see_whether_he_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def kill(pid: int, number: int) -> None:
        raise AssertionError("signal 0 is a Ctrl-C there")

    monkeypatch.setattr(Path, "exists", lambda self: False)  # there is no /proc
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(sys, "platform", "win32")
    assert heartbeat._born(1) == ""


def test_on_windows_the_journals_lines_end_as_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary, seen, opened = 1 << 29, [], os.open

    def noting(file: Path, flags: int, mode: int = 0o777) -> int:
        seen.append(flags & binary)
        return opened(file, flags & ~binary, mode)

    (tmp_path / "journal").touch()
    monkeypatch.setattr(os, "O_BINARY", binary, raising=False)
    monkeypatch.setattr(os, "open", noting)
    journal._append_whole(tmp_path / "journal", b"one\n")
    assert seen == [binary] and (tmp_path / "journal").read_bytes() == b"one\n"


def test_mps_is_never_asked_for_float64() -> None:
    on_mps = SimpleNamespace(
        device=SimpleNamespace(type="mps"), cpu=lambda: torch.ones(2), is_complex=lambda: False
    )
    assert along_a_step.double(on_mps).dtype == torch.float64  # type: ignore[arg-type]


def test_no_file_has_a_name_that_another_system_refuses() -> None:
    tracked = [
        path
        for folder in ("lrlab", "hydra_plugins", "conf", "experiments", "docs", "tests")
        for path in (ROOT / folder).rglob("*")
        if "__pycache__" not in path.parts
    ]
    assert len(tracked) > 100
    assert [path for path in tracked if re.search(r'[<>:"|?*\\]', path.name)] == []
    lower = [str(path).lower() for path in tracked]
    assert len(set(lower)) == len(lower)


# --- papers ---------------------------------------------------------------------------------------


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_citation_has_what_its_schema_asks_for() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # the required ones
    assert cited["cff-version"] == "1.2.0" and cited["type"] in ("software", "dataset")
    assert cited["authors"] and all("name" in author for author in cited["authors"])
    assert cited["version"] == lrlab.__version__
    datetime.date.fromisoformat(cited["date-released"])  # a string, as the schema wants it
    assert cited["license"] == "MIT" and len(set(cited["keywords"])) == len(cited["keywords"])


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert versions[0][0] == lrlab.__version__ and "## [Unreleased]" in text
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert versions[0][1] == cited["date-released"]


def test_the_license_is_where_pyproject_says() -> None:
    files = project()["license-files"]
    assert isinstance(files, list) and all((ROOT / file).is_file() for file in files)
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License\n")
    assert "CC BY-SA 3.0" in (ROOT / "lrlab/data/mnist/README.md").read_text("utf-8")


def test_the_map_of_the_code_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    names = set(re.findall(r"`([\w./]+(?:\.py|\.yaml|/))`", text.partition("## House")[0]))
    assert len(names) > 30
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "lrlab" / name).exists(), name


def test_the_hooks_take_nothing_from_the_network() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    found = {hook["id"]: hook for hook in hooks["repos"][0]["hooks"]}
    assert found.keys() == {"ruff", "ruff-format", "pyright"}
    assert all(hook["language"] == "system" for hook in found.values())


@pytest.mark.full
def test_the_command_finds_code_in_the_current_folder_as_python_m_does(tmp_path: Path) -> None:
    (tmp_path / "nets_of_mine.py").write_text(
        "import torch\n\n\ndef flat(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, num_classes))\n"
    )
    typed = ["lr=0.1", "network=custom", "network._target_=nets_of_mine.flat", "name=x"]
    quick = ["data.train_size=640", "data.val_size=100", "epochs=1", "threads=1"]
    quick += ["plots=off", "diagnostics=off"]
    # -P: as the console script, Python does not look in the current folder by itself
    words = [sys.executable, "-P", "-m", "lrlab", "sweep", *typed, *quick]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "outputs" / "x" / "0" / "metrics.csv").is_file()
