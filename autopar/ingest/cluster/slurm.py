"""`scontrol show node` and `topology.conf` of Slurm -> nodes and how they are joined.

Both forms of scontrol are read, that of one line per node (-o) too, and so are the NodeName lines
of slurm.conf. Sources of the formats: scontrol(1), slurm.conf(5), topology.conf(5), gres.conf(5).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autopar.errors import SpecError, shorten, suggest
from autopar.ingest.cluster.findings import MIG, Network, Node
from autopar.ingest.cluster.hostlist import expand
from autopar.ingest.cluster.text import Output

_START = re.compile(r"(?:^|\s)NodeName=", re.ASCII)
# Other lines of slurm.conf with names, that may have a State= of their own: slurm.conf(5).
_OTHER = re.compile(r"\s*(?:PartitionName|NodeSet|DownNodes|FrontendName)=", re.ASCII)
_FIELD = re.compile(r"(?:^|\s)([A-Za-z]\w*)=(\S*)", re.ASCII)
# gpu[:TYPE][:no_consume][:NUMBER], and what stands in parentheses; scontrol -d writes (null) for no
# type. no_consume: jobs get the GPUs without using them up, as slurm.conf(5) says.
_GRES = re.compile(
    r"gpu(?::(\(null\)|[A-Za-z0-9][\w.-]*?))??(?::no_consume)?(?::(\d{1,4}))?(?:\(.*\))?", re.ASCII
)
_TRES = re.compile(r"gres/gpu=(\d{1,6})\b", re.ASCII)
_SLICE = re.compile(r"(?:^|[_.-])\d+g\.\d+gb", re.ASCII)
_NOTHING = ("", "(null)", "N/A")
# States in which a node takes no new work: slurm.conf(5), sinfo(1).
_DOWN = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "FUTURE", "INVALID_REG", "INVAL", "MAINT",
         "ERROR", "UNKNOWN")  # fmt: skip
# Fields that scontrol prints of a node and slurm.conf has not. Sources: scontrol(1), slurm.conf(5);
# which ones it prints of a node that never came up is from memory.
_OF_SCONTROL = frozenset(
    ("Arch", "CPUAlloc", "CPUTot", "CPULoad", "AvailableFeatures", "ActiveFeatures", "GresUsed",
     "Version", "OS", "AllocMem", "FreeMem", "Owner", "MCS_label", "Partitions",
     "BootTime", "SlurmdStartTime", "CfgTRES", "AllocTRES")
)  # fmt: skip
_SWITCH_KEYS = ("SwitchName", "Switches", "Nodes", "LinkSpeed")
_BLOCK_KEYS = ("BlockName", "Nodes", "BlockSizes")


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    fields: Mapping[str, str]

    @property
    def is_of_scontrol(self) -> bool:
        """Whether scontrol printed it, and it is no line of slurm.conf."""
        return not _OF_SCONTROL.isdisjoint(self.fields)


def is_nodes(line: str) -> bool:
    """Whether a line starts a node."""
    return line.lstrip().startswith("NodeName=")


def is_network(line: str) -> bool:
    """Whether a line is one of topology.conf."""
    return line.lstrip().startswith(("SwitchName=", "BlockName=", "BlockSizes="))


def read_nodes(output: Output) -> tuple[list[Node], int]:
    """Return the GPUs of the nodes, an entry per node and kind, and the nodes without any.

    Raises SpecError, which names the line, for what cannot be read or contradicts itself.
    """
    nodes: list[Node] = []
    seen: dict[str, int] = {}
    idle = 0
    for record in _records(output):
        where = output.at(record.line)
        names = expand(record.fields["NodeName"], f"{where}: NodeName")
        if names == ["DEFAULT"]:
            raise output.error(
                record.line, "NodeName=DEFAULT", "the output of scontrol show node, which has the "
                "defaults of slurm.conf filled in",
            )  # fmt: skip
        for name in names:
            if name in seen:
                raise output.error(
                    record.line, f"node {name} again", f"each node once (line {seen[name]} has it)"
                )
            seen[name] = record.line
        groups = _groups(output, record)
        idle += len(names) * (not groups)
        nodes += [
            Node(
                name,
                where,
                kind or None,
                count,
                down=_down(record),
                parts=MIG if _SLICE.search(kind) else "",
            )
            for name in names
            for kind, count in groups.items()
        ]
    return nodes, idle


def read_network(output: Output) -> Network:
    """Return the switches and blocks of a topology.conf.

    Raises SpecError, which names the line, for what cannot be read or contradicts itself.
    """
    leaves: dict[str, str] = {}
    blocks: dict[str, str] = {}
    switches: dict[str, int] = {}
    named: list[tuple[int, str]] = []
    for number, fields in _settings(output):
        where = output.at(number)
        if "SwitchName" in fields:
            names = expand(fields["SwitchName"], f"{where}: SwitchName")
            switches |= dict.fromkeys(names, number)
            named += (
                [(number, n) for n in expand(fields.get("Switches", ""), where) if n]
                if (fields.get("Switches"))
                else []
            )
            _assign(output, number, fields, "SwitchName", leaves)
        elif "BlockName" in fields:
            _assign(output, number, fields, "BlockName", blocks)
    for number, name in named:
        if name not in switches:
            raise output.error(
                number, f"switch {name}", f"one with a SwitchName line{suggest(name, switches)}"
            )
    if not leaves and not blocks:
        raise SpecError(
            f"{output.label}: found no line with Nodes=, expected a topology.conf that says which "
            "nodes a switch or a block holds"
        )
    return Network(output.label, leaves, blocks)


def _records(output: Output) -> Iterator[_Record]:
    """Yield one record per node: what stands from a NodeName on."""
    records: list[tuple[int, list[str]]] = []
    is_node = False
    for number, line in output.numbered():
        if line.lstrip().startswith("#"):
            continue
        if _OTHER.match(line):
            if line.lstrip().startswith("DownNodes="):
                raise output.error(
                    number, line.strip(), "the output of scontrol show node, which has the states"
                )
            is_node = False
            continue
        starts = [match.start() for match in _START.finditer(line)]
        if len(starts) > 1:
            raise output.error(number, "two NodeNames in a line", "one node per line or paragraph")
        if starts and not line[: starts[0]].strip():
            records.append((number, [line]))
            is_node = True
        elif is_node:
            records[-1][1].append(line)
    if not records:
        raise SpecError(f"{output.label}: found no NodeName=, expected scontrol show node")
    for number, lines in records:
        fields: dict[str, str] = {}
        for match in _FIELD.finditer(" ".join(lines)):
            fields.setdefault(match[1], match[2])
        if len(fields) == 1:
            raise output.error(
                number, lines[0].strip(), "fields such as Gres= and State=; is the output cut off?"
            )
        yield _Record(number, fields)


def _groups(output: Output, record: _Record) -> dict[str, int]:
    """Return the GPUs of a node by the type that Slurm gives them, "" for no type."""
    if "Gres" not in record.fields and record.is_of_scontrol:
        raise output.error(
            record.line, f"node {record.fields['NodeName']} without Gres=",
            "Gres=(null) or Gres=gpu:h100:8; is the output cut off?",
        )  # fmt: skip
    gres = record.fields.get("Gres", "")
    groups = _gres(output, record, "Gres")
    total = sum(groups.values())
    tres = _TRES.search(record.fields.get("CfgTRES", ""))
    if tres is not None and int(tres[1]) != total:
        raise output.error(
            record.line, f"Gres={gres} and gres/gpu={tres[1]} in CfgTRES",
            f"the same number of GPUs of node {record.fields['NodeName']} in both",
        )  # fmt: skip
    for kind, used in _gres(output, record, "GresUsed").items():
        if used > groups.get(kind, total):
            raise output.error(
                record.line, f"GresUsed={record.fields['GresUsed']}",
                f"no more GPUs in use than Gres={gres} has",
            )  # fmt: skip
    return groups


def _gres(output: Output, record: _Record, key: str) -> dict[str, int]:
    text = record.fields.get(key, "")
    if text in _NOTHING:
        return {}
    groups: dict[str, int] = {}
    for part in _outside_parentheses(text):
        if part.split(":")[0].split("(")[0] != "gpu":
            continue  # shard, mps, nvme, ...
        match = _GRES.fullmatch(part)
        if match is None:
            raise output.error(record.line, f"{key}={text}", "gpu:8 or gpu:h100:8")
        kind = "" if match[1] in (None, "(null)") else match[1]
        count = int(match[2] or 1)
        if count:
            groups[kind] = groups.get(kind, 0) + count
    return groups


def _outside_parentheses(text: str) -> list[str]:
    """Return what stands between the commas outside parentheses."""
    return re.split(r",(?![^()]*\))", text)


def _down(record: _Record) -> str | None:
    """Return the state of a node that takes no work, None for others.

    A state is a base and flags, joined by +; a * after it: the node does not respond. UNKNOWN is a
    state in the output of scontrol; in slurm.conf it means the one that the node will report.
    """
    state = record.fields.get("State", "")
    if state.upper() == "UNKNOWN" and not record.is_of_scontrol:
        return None
    words = [word.rstrip("*~#!%$@^-") for word in state.upper().split("+")]
    is_silent = "*" in state
    return f"State={state}" if is_silent or any(w.startswith(_DOWN) for w in words) else None


def _settings(output: Output) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the settings of each line; one that ends in a backslash goes on in the next."""
    pending, first = "", 0
    for number, line in output.numbered():
        text = line.split("#")[0].strip()
        if not text and not pending:
            continue
        first = first if pending else number
        pending = f"{pending} {text.removesuffix(chr(92)).strip()}".strip()
        if text.endswith("\\"):
            continue
        fields: dict[str, str] = {}
        for word in pending.split():
            key, mark, value = word.partition("=")
            known: Sequence[str] = (*_SWITCH_KEYS, *_BLOCK_KEYS)
            spelled = next((k for k in known if k.lower() == key.lower()), None)
            if not mark or spelled is None or not value:
                raise output.error(
                    first, word, "SwitchName=, Nodes=, Switches=, BlockName= or BlockSizes= with "
                    f"a value{suggest(key, known)}",
                )  # fmt: skip
            fields[spelled] = value
        yield first, fields
        pending = ""


def _assign(
    output: Output, number: int, fields: Mapping[str, str], key: str, places: dict[str, str]
) -> None:
    """Note which nodes a switch or a block holds."""
    if not fields.get("Nodes"):
        return
    for node in expand(fields["Nodes"], f"{output.at(number)}: Nodes"):
        other = places.setdefault(node, fields[key])
        if other != fields[key]:
            raise output.error(
                number, f"node {shorten(node)} in {fields[key]}",
                f"each node in one place; it is in {other} too",
            )  # fmt: skip
