"""`jobsctl shell-init`: both `jobs` in one shell, its builtin and ours.

Theory. A shell looks for functions before builtins, and for builtins before PATH. A function `jobs`
that looks at its first argument can therefore send a verb of ours to the program and everything
else (nothing, `-l`, `%1`) to the builtin.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import Parameter

from jobs_cli import endpoint, output

_POSIX = """\
# `jobs run|kill|…` is jobsctl; `jobs`, `jobs -l`, `jobs %1` stay the shell's own.
function jobs {{
  case "${{1-}}" in
    {words})
      command jobsctl "$@" ;;
    *)
      builtin jobs "$@" ;;
  esac
}}
"""

_FISH = """\
# `jobs run|kill|…` is jobsctl; `jobs`, `jobs -l`, `jobs %1` stay the shell's own.
function jobs --description 'jobsctl for its verbs, else the builtin'
    switch "$argv[1]"
        case {words}
            command jobsctl $argv
        case '*'
            builtin jobs $argv
    end
end
"""


def shell_init(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(metavar="SHELL")], /
) -> None:
    """Print a function for your shell, so that `jobs` reaches this program too.

    `jobs` is a builtin of every shell: typed there, it never reaches this program, which is why
    the program is also called jobsctl. With this function, `jobs run`, `jobs kill` and the other
    verbs are jobsctl, while `jobs`, `jobs -l` and `jobs %1` stay the shell's own.
    (Bash shows its jobs to a pipe only for its builtin itself: `builtin jobs | wc -l`.)

    Put one of these into the shell's start-up file:

        eval "$(jobsctl shell-init bash)"      # ~/.bashrc
        eval "$(jobsctl shell-init zsh)"       # ~/.zshrc
        jobsctl shell-init fish | source       # ~/.config/fish/config.fish

    Args:
        shell: bash, zsh or fish.
    """
    from jobs_cli.app import make_app, verb_names

    output.write(function(shell, verb_names(make_app("jobsctl"))))


def function(shell: str, verbs: Sequence[str]) -> str:
    """Give the function's text.

    Args:
        shell: bash, zsh or fish.
        verbs: the first words that are ours; connection options before a verb are, too.
    """
    if shell == "fish":
        patterns = [*endpoint.OPTIONS, *(f"{option}=*" for option in endpoint.OPTIONS)]
        return _FISH.format(words=" ".join(f"'{word}'" for word in (*verbs, *patterns)))
    patterns = [f"{option}|{option}=*" for option in endpoint.OPTIONS]
    return _POSIX.format(words="|".join((*verbs, *patterns)))
