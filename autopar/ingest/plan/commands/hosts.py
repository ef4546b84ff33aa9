"""The machines that a command names: `ssh HOST ...`, `srun -w HOST ...`, or a comment of ours.

Scripts that are exported say `# autopar: host HOST` above their command, or `host HOST,HOST` where
it reaches several itself, in the order of its ranks (autopar/export/launch.py).
Sources: ssh(1), whose options with a value are listed there; srun(1), --nodelist.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv6Address

_WITH_VALUE = frozenset("-" + letter for letter in "BbcDEeFIiJLlmOoPpQRSWw")
_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # one name: no list of hosts, no variable


_STATED = re.compile(r"# *autopar: host +(\S+) *")


def stated_hosts(comment: str) -> tuple[str, ...] | None:
    """Return the hosts that a comment states for commands after it.

    None where it is no such comment; the first line of a script, `#!`, ends what was stated before.
    """
    if comment.startswith("#!"):
        return ()
    match = _STATED.fullmatch(comment)
    names = tuple(match[1].split(",")) if match is not None else ()
    hosts = tuple(map(plain_host, names))
    return hosts if hosts and all(hosts) else None


def plain_host(text: str) -> str:
    """Return a name of one host or its address, IPv6 as RFC 5952 writes it; else nothing."""
    if ":" not in text:
        return text if _PLAIN.fullmatch(text) else ""
    try:
        return str(IPv6Address(text))
    except ValueError:
        return ""


def host_in(words: Sequence[str]) -> str:
    """Return the one host that a command is for; empty where it names none, or several."""
    found = ""
    starter = words[0].rpartition("/")[2] if words else ""
    if starter == "ssh":
        found = _of_ssh(words[1:])
    elif starter == "srun":
        found = _of_srun(words[1:])
    return plain_host(found.rpartition("@")[2])


def _of_ssh(words: Sequence[str]) -> str:
    place = 0
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] in _WITH_VALUE else 1
    return "".join(words[place : place + 1])


def _of_srun(words: Sequence[str]) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word in ("-w", "--nodelist"):
            return following
        name, equals, value = word.partition("=")
        if name == "--nodelist" and equals:
            return value
    return ""
