"""What the documents have people type: README's commands, and the files of docs/your-own.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, RESUME, STUDIES = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/resume.md", "experiments/README.md")
)
COMMAND = re.compile(r"^    (?:\$ )?(python -m lrlab\..*)$", re.MULTILINE)
SEARCH = "python -m lrlab.sweep +experiments=lr_search"
# but those of README's own test of its main command
COMMANDS = [
    command
    for command in [*COMMAND.findall(README), *COMMAND.findall(RESUME), SEARCH]
    if command.startswith("python -m lrlab.sweep")
    and "<sweep>" not in command
    and "lr=0.001,0.1,1.0" not in command
]


def rows(table: str) -> dict[str, list[str]]:
    """The end table's rows: run number to the cells of its line."""
    lines = table.partition("---  ")[2].partition("\n\n")[0].splitlines()[1:]
    return {line.split()[0]: line.split() for line in lines}


YOUR_OWN = (ROOT / "docs" / "your-own.md").read_text(encoding="utf-8")
FILES = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", YOUR_OWN, re.MULTILINE | re.DOTALL)
