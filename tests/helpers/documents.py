"""What the documents have people type: README's commands, and the files of docs/your-own.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^    (?:\$ )?(python -m lrlab\..*)$", re.MULTILINE)
# but those of README's own test of its main command
COMMANDS = [
    command
    for command in COMMAND.findall(README)
    if command.startswith("python -m lrlab.sweep")
    and "<sweep>" not in command
    and "lr=0.001,0.1,1.0" not in command
]

YOUR_OWN = (ROOT / "docs" / "your-own.md").read_text(encoding="utf-8")
FILES = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", YOUR_OWN, re.MULTILINE | re.DOTALL)
