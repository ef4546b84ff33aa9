"""`#SBATCH` lines of a batch script -> the variables that Slurm sets in its job.

Source: sbatch(1), "OPTIONS" and "OUTPUT ENVIRONMENT VARIABLES". What Slurm decides only when the
job starts, such as the number of nodes of `--nodes=2-4`, is not set.
"""

import re
from collections.abc import Iterator

_MARK = "#SBATCH"
_SHORT = {"-N": "--nodes", "-n": "--ntasks", "-G": "--gpus", "-c": "--cpus-per-task"}
_SHORT_JOINED = re.compile(r"(-[NnGc])(\d.*)", re.ASCII)  # -N4
_NODES = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)
_COUNT = re.compile(r"\d{1,6}", re.ASCII)
_TYPED = re.compile(r"(?:[\w.-]+:)?(\d{1,4})", re.ASCII)  # [type:]number
_GRES = re.compile(r"(?:^|,)gpu(?::[A-Za-z][\w.-]*)?:(\d{1,4})(?:,|$)", re.ASCII)


def job_variables(text: str) -> dict[str, str]:
    """Return what Slurm sets in the job of a batch script; nothing for another text."""
    options = dict(_options(text))
    found: dict[str, str] = {}
    nodes = _NODES.fullmatch(options.get("--nodes", ""))
    count = nodes[1] if nodes is not None and nodes[2] in (None, nodes[1]) else ""
    per_node = _number(_COUNT, options.get("--ntasks-per-node", ""))
    ntasks = _number(_COUNT, options.get("--ntasks", ""))
    if not ntasks and count and per_node:
        ntasks = str(int(count) * int(per_node))
    gpus = _number(_TYPED, options.get("--gpus-per-node", ""))
    on_node = gpus or _number(_GRES, options.get("--gres", ""))
    found |= dict.fromkeys(("SLURM_NNODES", "SLURM_JOB_NUM_NODES"), count)
    found |= dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS"), ntasks)
    found["SLURM_NTASKS_PER_NODE"] = per_node
    found["SLURM_GPUS_PER_NODE"] = options.get("--gpus-per-node", "") if gpus else ""
    found["SLURM_GPUS_ON_NODE"] = on_node
    found["SLURM_GPUS"] = options.get("--gpus", "")
    found["SLURM_CPUS_PER_TASK"] = _number(_COUNT, options.get("--cpus-per-task", ""))
    return {name: value for name, value in found.items() if value}


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Yield long names and values of options, as far down as sbatch reads them."""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            return
        if not stripped.startswith(_MARK):
            continue
        words = stripped.removeprefix(_MARK).partition(" #")[0].split()
        if words == ["hetjob"]:  # parts of such a job have variables of other names
            return
        for word, following in zip(words, [*words[1:], ""], strict=False):
            name, equals, value = word.partition("=")
            joined = _SHORT_JOINED.fullmatch(word)
            if joined is not None:
                name, equals, value = joined[1], "=", joined[2]
            if name.startswith("-"):
                yield _SHORT.get(name, name), (value if equals else following).strip("\"'")


def _number(pattern: re.Pattern[str], text: str) -> str:
    """Return the last group of a pattern that a text fits; empty where it does not."""
    match = pattern.search(text) if pattern is _GRES else pattern.fullmatch(text)
    return "" if match is None else match[pattern.groups]
