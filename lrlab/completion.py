"""Tab completion of ``lrlab`` in bash, zsh and fish, and of ``python -m lrlab.sweep`` in bash.

The scripts of ``lrlab completion`` hold all words that they offer, from the conf/ of the lrlab that
printed them. So a key press starts no Python. The bash script for ``python -m lrlab.sweep`` asks
Hydra each time; Hydra's own bash function takes ``-m`` for the program's file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lrlab.errors import in_a_line
from lrlab.process import verbs

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

USAGE = """\
usage: lrlab completion SHELL

Print the tab completion of lrlab's verbs, options and choices.

  bash    into ~/.bashrc:                  eval "$(lrlab completion bash)"
  zsh     into ~/.zshrc, after compinit:   eval "$(lrlab completion zsh)"
  fish    once:  lrlab completion fish > ~/.config/fish/completions/lrlab.fish

Exit code: 0, or 2 for bad input.
"""

TRAINING = ("sweep", "find")  # the verbs that take only option=value words

# Names of functions and variables begin with _lrlab, because they enter the user's own shell. @...@
# is filled in. A list's last value is completed: optimizer=sgd,ad<TAB>.
BASH = r"""_lrlab_choices() {
    case "${1#+}" in
@cases@
    esac
}

_lrlab() {
    local line="${COMP_LINE:0:COMP_POINT}" words found word
    local current="${line##*[[:space:]]}" before="" key=""
    COMPREPLY=()
    read -ra words <<< "$line"
    if [[ ${#words[@]} -lt 2 || ( ${#words[@]} -eq 2 && -n "$current" ) ]]; then
        found="@verbs@"
    else
        case "${words[1]}" in
            completion) found="@shells@" ;;
            @training@)
                if [[ "$current" == *=* ]]; then
                    key="${current%%=*}"
                    found="$(_lrlab_choices "$key")"
                    current="${current#*=}"
                    before="${current%"${current##*,}"}"
                    current="${current##*,}"
                else
                    found="@options@"
                fi ;;
            *) return ;;
        esac
    fi
    for word in $found; do
        if [[ "$word" == "$current"* ]]; then
            # readline takes = for the end of a word, unless it was told otherwise
            if [[ -n "$key" && "$COMP_WORDBREAKS" != *=* ]]; then
                word="$key=$before$word"
            else
                word="$before$word"
            fi
            if [[ "$word" != *= && -z "$key" ]]; then
                word="$word "
            fi
            COMPREPLY+=("$word")
        fi
    done
}
complete -o nospace -o default -F _lrlab lrlab
"""

ZSH = r"""#compdef lrlab
_lrlab_choices() {
    case "${1#+}" in
@cases@
    esac
}

_lrlab() {
    local key
    if (( CURRENT == 2 )); then
        compadd -- @verbs@
        return
    fi
    case "${words[2]}" in
        completion) compadd -- @shells@ ;;
        @training@)
            if [[ "$PREFIX" == *=* ]]; then
                key="${PREFIX%%=*}"
                compset -P '*='
                compset -P '*,'
                compadd -S '' -- ${=$(_lrlab_choices "$key")} || _files
            else
                compadd -S '' -- @options@ || _files
            fi ;;
        *) _files ;;
    esac
}

if [[ "${funcstack[1]}" == "_lrlab" ]]; then
    _lrlab "$@"
else
    compdef _lrlab lrlab
fi
"""

FISH = r"""function __lrlab_choices
    switch (string replace -r '^\+' '' -- $argv[1])
@cases@
    end
end

function __lrlab_words
    set -l current (commandline -ct)
    if string match -q -- '*=*' $current
        set -l parts (string split -m 1 = -- $current)
        set -l before (string match -r -- '^.*,' $parts[2])
        for choice in (__lrlab_choices $parts[1])
            echo "$parts[1]=$before$choice"
        end
    else
        printf '%s\n' @options@
    end
end

complete -c lrlab -e
complete -c lrlab -n __fish_use_subcommand -f
complete -c lrlab -n '__fish_seen_subcommand_from completion' -f -a '@shells@'
complete -c lrlab -n '__fish_seen_subcommand_from @training@' -a '(__lrlab_words)'
"""

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def script(shell: str) -> str:
    """Return the script with which a shell completes ``lrlab``.

    Args:
        shell: one of ``SHELLS``.
    """
    from lrlab.__main__ import VERBS
    from lrlab.config import schema

    choices = known_choices()
    options = [f"{key}=" for key in schema.known_keys()] + ["+experiments="]
    if shell == "fish":
        cases = [
            f"        case {key}\n            printf '%s\\n' {' '.join(of)}"
            for key, of in choices.items()
        ]
        verbs = [
            f'complete -c lrlab -n __fish_use_subcommand -f -a {verb} -d "{what}"'
            for verb, (_, what) in VERBS.items()
        ]
        text, joint = FISH + "\n".join(verbs) + "\n", " "
    else:
        cases = [f'        {key}) echo "{" ".join(of)}" ;;' for key, of in choices.items()]
        text, joint = SHELLS[shell], "|"
    filled = {
        "cases": "\n".join(cases),
        "verbs": " ".join(VERBS),
        "shells": " ".join(SHELLS),
        "training": joint.join(TRAINING),
        "options": " ".join(options),
    }
    for name, words in filled.items():
        text = text.replace(f"@{name}@", words)
    return text


def known_choices() -> dict[str, list[str]]:
    """Return the values offered after ``option=``, by option."""
    from lrlab.config import schema

    found: dict[str, list[str]] = {
        "device": list(schema.DEVICES),
        "diagnostics": list(schema.DIAGNOSTICS),
        "precision": list(schema.PRECISIONS),
        "objective": list(schema.OBJECTIVES),
    }
    for field in schema.Config.__dataclass_fields__.values():
        if field.type == "bool":
            found[field.name] = ["true", "false"]
    conf = schema.folder("conf")
    for group in (*schema.GROUPS, *schema.SWEEP_GROUPS):
        found[group] = _stems(conf / group)
    found["experiments"] = _stems(schema.folder("experiments"))
    return found


def _stems(group: Path) -> list[str]:
    return sorted(file.stem for file in group.glob("*.yaml"))


def main() -> None:
    """Run the command."""
    verbs.begin()
    words = sys.argv[1:]
    if "--help" in words or "-h" in words:
        print(USAGE, end="")
        return
    if len(words) != 1 or words[0] not in SHELLS:
        named = " ".join(words)
        what = f"{named}: no such shell" if named else "completion: which shell?"
        line = in_a_line(f"lrlab: {what}; choose from {', '.join(SHELLS)}")
        print(line, file=sys.stderr)
        sys.exit(2)
    print(script(words[0]), end="")


def answer(arguments: list[str]) -> str | None:
    """Return the bash code that installs or removes the completion; None: Hydra answers.

    Cut the line of a query so that Hydra finds the program in its first word.
    """
    line = os.environ.get("COMP_LINE", "")
    if " -m lrlab.sweep " in line:
        os.environ["COMP_LINE"] = "lrlab " + line.partition(" -m lrlab.sweep ")[2]
    if not {"-sc", "--shell-completion"} & set(arguments):
        return None
    if "install=bash" in arguments:
        return INSTALL
    return UNINSTALL if "uninstall=bash" in arguments else None


if __name__ == "__main__":
    main()
