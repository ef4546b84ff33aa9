"""A shell script -> its simple commands, each with the environment that it sets.

Nothing is run. Variables that the text sets are known to the commands after it; what is said to
another shell (bash -c '...', ssh HOST '...') is read as if it stood there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.commands.expansion import Variables
from autopar.ingest.plan.commands.hosts import host_in
from autopar.ingest.plan.commands.lexer import Lexer, Simple

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.ASCII | re.DOTALL)
# Words before a command that start it and change nothing of it; $ is a prompt that was copied.
_STARTERS = ("exec", "env", "nohup", "sudo", "time", "command", "export", "then", "else", "do",
             "{", "!", "$")  # fmt: skip
LOOPS = ("for", "while", "until", "select")
_OPENING, _CLOSING = (*LOOPS, "if", "case"), ("done", "fi", "esac")
_BESIDE = (
    "set",
    "unset",
    "source",
    ".",
    "cd",
    "echo",
    "module",
    "ulimit",
    "sleep",
    "wait",
    "shift",
)
_DECLARING = ("export", "declare", "local", "readonly")
_SHELLS = ("sh", "bash", "zsh", "dash", "ash")
_MOST_SHELLS = 4  # one inside of another


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command: its words, and what is set in its environment.

    files: texts that stand in the script itself, by the name under which commands find them; - for
    its standard input.
    inside: the loop or the branch that it stands in, such as `for`; empty outside of any. copies:
    how many of it are started alike, as by the replicas of a Deployment. hosts: the machines that
    it names, in the order of its ranks; empty where it names none. enclosure: what it is alone in:
    a pod has GPUs and ports of its own, a container ports.
    """

    words: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    inside: str = ""
    copies: int = 1
    hosts: tuple[str, ...] = ()
    enclosure: Literal["", "container", "pod"] = ""


def commands_in(text: str, label: str, env: Mapping[str, str] | None = None) -> list[Command]:
    """Return the commands of a script in order; `export NAME=value` counts for those after it.

    env: what is set before it. Raises SpecError for a quotation that is not closed, for an absurd
    number of words, and for a line that continues no command.
    """
    return list(_commands(text, label, dict(env or {}), Variables(), 0))


def commands_of(words: Sequence[str], command: Command, label: str) -> list[Command]:
    """Return what words start that are no text of a shell, but may hand one to a shell.

    command: its environment and files are theirs too.
    """
    inner = _said_to_a_shell(words)
    if inner is None:
        return [replace(command, words=tuple(words))]
    before, script = inner
    return [
        replace(
            each,
            words=(*before, *each.words),
            files={**command.files, **each.files},
            inside=command.inside or each.inside,
            copies=command.copies,
            hosts=each.hosts or command.hosts,
            enclosure=command.enclosure,
        )
        for each in commands_in(script, label, command.env)
    ]


def _commands(
    text: str, label: str, exported: dict[str, str], variables: Variables, depth: int
) -> Iterator[Command]:
    for name, value in exported.items():
        variables.set(name, value)
    files: dict[str, str] = {}
    blocks: list[str] = []
    for simple in Lexer(text, label, variables).commands():
        first = "".join(simple.words[:1])
        if first in _CLOSING:
            blocks = blocks[:-1]
        elif first in _OPENING:
            blocks.append(first)
        if first in (*_OPENING, *_CLOSING, *_BESIDE):
            continue
        env, rest = _environment(simple.words)
        for word, values in simple.arrays.items():
            variables.set_array(word.rstrip("+="), values, more="+=" in word)
        if not rest or first in _DECLARING:
            _assign(simple.words, variables, exported)
            continue
        _refuse_loose_flags(simple, rest, label)
        if _keep_document(simple, files):
            continue
        own_files = files if simple.document is None else {**files, "-": simple.document}
        loop = next((block for block in blocks if block in LOOPS), "".join(blocks[:1]))
        named = host_in(rest)
        hosts = (named,) if named else simple.hosts
        command = Command(tuple(rest), {**exported, **env}, own_files, loop, hosts=hosts)
        inner = _said_to_a_shell(rest)
        if inner is None or depth >= _MOST_SHELLS:
            yield command
            continue
        before, script = inner
        own = Variables({**variables.values})
        for each in _commands(script, label, command.env, own, depth + 1):
            words = (*before, *each.words)
            yield replace(
                each,
                words=words,
                files={**files, **each.files},
                inside=loop or each.inside,
                hosts=each.hosts or command.hosts,
            )


def _environment(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the assignments that a command begins with, and its own words."""
    env: dict[str, str] = {}
    for place, word in enumerate(words):
        match = _ASSIGNMENT.fullmatch(word)
        if match is not None:
            env[match[1]] = match[3]
        elif word not in _STARTERS:
            return env, list(words[place:])
    return env, []


def _assign(words: Sequence[str], variables: Variables, exported: dict[str, str]) -> None:
    for word in words:
        match = _ASSIGNMENT.fullmatch(word)
        if match is not None:
            variables.set(match[1], match[3], more=bool(match[2]))
            exported[match[1]] = variables.values[match[1]][0]


def _refuse_loose_flags(simple: Simple, rest: Sequence[str], label: str) -> None:
    """Raise SpecError where a command begins with a flag: the rest of one that was cut off."""
    if rest[0].startswith("-") and len(rest[0]) > 1:
        raise SpecError(
            f"{label}: line {simple.line}: found {shorten(rest[0])} where a command begins; does "
            "the line before lack its backslash, or is there a comment or a blank behind it?"
        )


def _keep_document(simple: Simple, files: dict[str, str]) -> bool:
    """Keep what `cat > FILE <<EOF` or `tee FILE <<EOF` writes for later commands, if it is one."""
    if simple.document is None or simple.words[0] not in ("cat", "tee"):
        return False
    target = simple.target
    if simple.words[0] == "tee":
        target = next((word for word in simple.words[1:] if not word.startswith("-")), "")
    if target:
        files[target.removeprefix("./")] = simple.document
    return bool(target)


def _said_to_a_shell(words: Sequence[str]) -> tuple[list[str], str] | None:
    """Return what stands before a shell, and the script that it is given; None without one."""
    for place, word in enumerate(words[:-2]):
        option = words[place + 1]
        is_script = option.startswith("-") and not option.startswith("--") and option.endswith("c")
        if word.rpartition("/")[2] in _SHELLS and is_script:
            return list(words[:place]), words[place + 2]
    if words and words[0] == "ssh" and " " in words[-1]:
        return [], words[-1]
    return None
