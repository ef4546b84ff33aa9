"""A run of nccl-tests in the place of a link: of which level, and what is said about it."""

from autopar.errors import SpecError
from autopar.ingest.cluster.draft import Draft
from autopar.ingest.cluster.findings import LEVELS, Level, Said
from autopar.ingest.cluster.hardware import NVLINKS
from autopar.ingest.cluster.nccl import Test
from autopar.specs import Link
from autopar.units import plural

_FIGURES = 4  # runs of nccl-tests differ by more


def level_of(test: Test, draft: Draft, stated: Level | None) -> Level:
    """Return the level that a run measures: the one that its GPUs span.

    Raises SpecError if it cannot be told, or is another one than what is stated.
    """
    hosts, num_gpus = test.hosts, test.num_gpus
    total = draft.num_nodes * draft.gpus_per_node
    if not hosts and stated is None:
        raise SpecError(
            f"{test.where}: it does not list its devices (# Rank), so that the level is not known; "
            f"state it: --bandwidth LEVEL=FILE, LEVEL one of {', '.join(LEVELS)}"
        )
    if not 2 <= num_gpus <= total:
        raise SpecError(
            f"{test.where}: a run on {plural(num_gpus, 'GPU')}, expected one on 2 to {total}, "
            "which the cluster has"
        )
    if not hosts:
        assert stated is not None
        return stated
    spanned = _spanned(test, draft)
    if stated not in (None, spanned) and not (stated == "domain" and _is_one_level(draft)):
        raise SpecError(
            f"{test.where}: a run on {plural(num_gpus, 'GPU')} of {plural(len(hosts), 'host')}, "
            f"which measures the {spanned}, expected the {stated} that --bandwidth says"
        )
    most = max(hosts.values())
    if most > draft.gpus_per_node:
        raise SpecError(
            f"{test.where}: {most} GPUs on one host, expected at most the {draft.gpus_per_node} of "
            "a node"
        )
    if spanned != "node" and set(hosts.values()) != {draft.gpus_per_node}:
        raise SpecError(
            f"{test.where}: {', '.join(f'{n} on {h}' for h, n in list(hosts.items())[:4])}, "
            f"expected a run on all {draft.gpus_per_node} GPUs of every host"
        )
    return spanned


def overridden(draft: Draft, test: Test, level: Level, bandwidth: float | None) -> Draft:
    """Return the draft with a measured link; bandwidth: the one that explains the run.

    Raises SpecError if there is none.
    """
    field = f"links.{level}.bandwidth_bytes_per_s"
    if any(each.field == field and each.how == "given" for each in draft.said):
        raise SpecError(
            f"--{level}-bandwidth: found it beside {test.where}, which measures the {level} too; "
            "expected one of them"
        )
    bus, size = test.bus_bytes_per_s / 1e9, test.size_bytes / 2**20
    run = (
        f"{test.collective} on {plural(test.num_gpus, 'GPU')}{_hosts(test)}: {bus:.4g} GB/s bus "
        f"bandwidth at {size:,.4g} MiB"
    )
    if bandwidth is None:
        raise SpecError(
            f"{test.where}: {run}, which no bandwidth of the {level} explains; is it of another "
            "level, or of a smaller message than is worth measuring?"
        )
    bandwidth = float(f"{bandwidth:.{_FIGURES}g}")
    rate = f"{bandwidth / 1e9:.{_FIGURES}g} GB/s"
    why = (
        f"{run} ({test.where}); a link of {rate}, rounded to {_FIGURES} figures, is what autopar's "
        "cost model explains it by"
    )
    warnings = []
    known = NVLINKS.get(draft.gpu)
    if level != "fabric" and known is not None and bandwidth > known.number * known.bytes_per_s:
        peak = known.number * known.bytes_per_s / 1e9
        warnings.append(
            f"{test.where}: {rate} is more than the {peak:.0f} GB/s of {known.number} NVLinks; a "
            "switch that adds up (NVLS) does that for all-reduce, and for no other collective"
        )
    largest = 2**26  # below, what is measured is latency
    if test.size_bytes < largest:
        warnings.append(
            f"{test.where}: the largest bus bandwidth is that of {size:,.4g} MiB; larger messages "
            "(-e 8G) say more about a link"
        )
    levels: list[Level] = [level]
    if level == "node" and _is_one_level(draft):
        levels.append("domain")
    for each in levels:
        link = Link(bandwidth_bytes_per_s=bandwidth, latency_us=draft.links[each].latency_us)
        text = why if each == level else "that of the node"
        said = Said(f"links.{each}.bandwidth_bytes_per_s", bandwidth, "measured", text)
        draft = draft.with_link(each, link, said, warnings if each == level else ())
    return draft


def _hosts(test: Test) -> str:
    """Return how a run's GPUs are spread; without a list their number is by its two bandwidths."""
    if not test.hosts:
        return ", by the ratio of its two bandwidths, on hosts that the file does not name"
    return f" of {plural(len(test.hosts), 'host')}"


def _spanned(test: Test, draft: Draft) -> Level:
    if len(test.hosts) == 1:
        return "node"
    return "domain" if test.num_gpus <= draft.gpus_per_domain else "fabric"


def _is_one_level(draft: Draft) -> bool:
    return draft.gpus_per_domain <= draft.gpus_per_node
