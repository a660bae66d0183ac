"""Tab completion of ``python -m lrlab.sweep`` in bash.

Hydra completes the options; but its own bash function takes the ``-m`` for the program's file.
"""

from __future__ import annotations

import os

INSTALL = """\
_lrlab_complete() {
    [[ $COMP_LINE == *" -m lrlab.sweep "* ]] || return
    local choices
    choices=$(COMP_LINE=$COMP_LINE "${COMP_WORDS[0]}" -m lrlab.sweep -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -o nospace -o default -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}"))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _lrlab_complete python python3
"""

UNINSTALL = """\
complete -r python python3
unset -f _lrlab_complete
"""


def answer(arguments: list[str]) -> str | None:
    """The bash code that installs or removes the completion, or None: Hydra answers.

    A query's line is cut so that Hydra finds the program in its first word.
    """
    line = os.environ.get("COMP_LINE", "")
    if " -m lrlab.sweep " in line:
        os.environ["COMP_LINE"] = "lrlab " + line.partition(" -m lrlab.sweep ")[2]
    if not {"-sc", "--shell-completion"} & set(arguments):
        return None
    if "install=bash" in arguments:
        return INSTALL
    return UNINSTALL if "uninstall=bash" in arguments else None
