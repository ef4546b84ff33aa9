"""Outputs as machines and schedulers print them, written here in their shape."""

import json
from functools import cache

import pytest

from autopar.calibration.matching import DEVICE_NAMES
from autopar.cli import _ingest_cluster
from autopar.ingest.cluster.names import Catalogue, KnownCluster
from autopar.ingest.cluster.text import Output
from autopar.specs.cluster import Links

LEGEND = """
Legend:

  X    = Self
  SYS  = Connection traversing PCIe and the interconnect between NUMA nodes (e.g., QPI/UPI)
  NODE = Connection traversing PCIe and the interconnect between PCIe Host Bridges of a node
  PHB  = Connection traversing PCIe as well as a PCIe Host Bridge (typically the CPU)
  PXB  = Connection traversing multiple PCIe bridges (without traversing the PCIe Host Bridge)
  PIX  = Connection traversing at most a single PCIe bridge
  NV#  = Connection traversing a bonded set of # NVLinks
"""
AFFINITY = "0-47,96-143\t0\t\tN/A"


def matrix(num_gpus, cell="NV18", num_nics=0, *, cells=None, color=False, nic="PIX"):
    """`nvidia-smi topo -m` of one node; cells: of single pairs, both ways."""
    cells = {**(cells or {}), **{(j, i): c for (i, j), c in (cells or {}).items()}}
    devices = [*(f"GPU{i}" for i in range(num_gpus)), *(f"NIC{i}" for i in range(num_nics))]
    on, off = ("\x1b[4m", "\x1b[0m") if color else ("", "")
    header = "\t".join(devices) + "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID"
    lines = [f"\t{on}{header}{off}"]
    for i in range(num_gpus):
        row = [" X " if i == j else cells.get((i, j), cell) for j in range(num_gpus)]
        row += [nic if k % num_gpus == i else "SYS" for k in range(num_nics)]
        lines.append("\t".join([f"GPU{i}", *row, AFFINITY]))
    for k in range(num_nics):
        row = [nic if k % num_gpus == i else "SYS" for i in range(num_gpus)]
        row += [" X " if k == j else "SYS" for j in range(num_nics)]
        lines.append("\t".join([f"NIC{k}", *row]))
    lines.append(LEGEND)
    if num_nics:
        lines += ["NIC Legend:", "", *(f"  NIC{k}: mlx5_{k}" for k in range(num_nics)), ""]
    return "\n".join(lines) + "\n"


def cards(*names, memory=81559):
    """`nvidia-smi --query-gpu=index,name,memory.total --format=csv`."""
    rows = [f"{i}, {name}, {memory} MiB" for i, name in enumerate(names)]
    return "\n".join(["index, name, memory.total [MiB]", *rows]) + "\n"


def node(name, count=8, product="NVIDIA-H100-80GB-HBM3", *, labels=None, usable=None, **more):
    """One node of `kubectl get nodes -o json`; ready, cordoned and capacity in `more`."""
    gfd = {}
    if product is not None:
        gfd = {
            "nvidia.com/gpu.product": product,
            "nvidia.com/gpu.count": str(count),
            "nvidia.com/gpu.memory": str(more.get("memory", 81559)),
            "nvidia.com/mig.capable": "true",
            "nvidia.com/mig.strategy": "single",
        }
    allocatable = {"cpu": "190", "memory": "2113432Ki", "nvidia.com/gpu": str(count)}
    allocatable = {k: v for k, v in (allocatable | (usable or {})).items() if v is not None}
    ready = {"type": "Ready", "status": more.get("ready", "True"), "reason": "KubeletReady"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"} | gfd | (labels or {})},
        "spec": {"unschedulable": True} if more.get("cordoned") else {},
        "status": {
            "allocatable": allocatable,
            "capacity": allocatable | (more.get("capacity") or {}),
            "conditions": [{"type": "MemoryPressure", "status": "False"}, ready],
        },
    }


def kubectl(*nodes):
    """`kubectl get nodes -o json`."""
    items = {"apiVersion": "v1", "items": list(nodes), "kind": "List", "metadata": {}}
    return json.dumps(items, indent=4)


def scontrol(name, gres="gpu:h100:8(S:0-1)", state="IDLE", *, tres="", used="", one_line=False):
    """`scontrol show node` of one node; one_line: with -o."""
    lines = [
        f"NodeName={name} Arch=x86_64 CoresPerSocket=56 ",
        "   CPUAlloc=0 CPUEfctv=224 CPUTot=224 CPULoad=0.51",
        "   AvailableFeatures=(null)",
        "   ActiveFeatures=(null)",
        f"   Gres={gres}",
        *([f"   GresUsed={used}"] if used else []),
        f"   NodeAddr={name} NodeHostName={name} Version=24.05.3",
        "   OS=Linux 5.15.0-122-generic #132-Ubuntu SMP Thu Aug 29 13:45:52 UTC 2024 ",
        "   RealMemory=2051600 AllocMem=0 FreeMem=1933821 Sockets=2 Boards=1",
        f"   State={state} ThreadsPerCore=2 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A",
        "   Partitions=gpu,all ",
        "   BootTime=2026-11-02T09:00:12 SlurmdStartTime=2026-11-02T09:02:01",
        f"   CfgTRES=cpu=224,mem=2051600M,billing=224{tres}",
        "   AllocTRES=",
        "",
    ]
    if one_line:
        return " ".join(line.strip() for line in lines if line) + "\n"
    return "\n".join(lines) + "\n"


def nccl(hosts, bus, *, test="all_reduce", size=8 << 30, gpu="NVIDIA H100 80GB HBM3", **more):
    """A run of nccl-tests on {host: GPUs}; bus: GB/s at the largest size.

    more: ranks and name (whether they are printed), wrong (values), tag (of mpirun).
    """
    total = sum(hosts.values())
    lines = []
    if more.get("name", True):
        lines.append(f"# Collective test starting: {test}_perf")
    lines.append(
        f"# nThread 1 nGpus 1 minBytes 8 maxBytes {size} step: 2(factor) warmup iters: 5 iters: 20 "
        "agg iters: 1 validation: 1 graph: 0"
    )
    lines += ["#", "# Using devices"]
    rank = 0
    for host, gpus in hosts.items():
        for device in range(gpus):
            if more.get("ranks", True):
                place = f"{host} device {device:2d} [0x{0x18 + device:02x}] {gpu}"
                lines.append(f"#  Rank {rank:2d} Group  0 Pid {1887 + rank:6d} on {place}")
            rank += 1
    lines += [
        "#",
        "#                                              out-of-place                in-place",
        f"#       size   count  type  redop  root {'  time  algbw  busbw #wrong' * 2}",
        f"#        (B)  (elements)                {'  (us)  (GB/s)  (GB/s)      ' * 2}",
    ]
    ratio = (2 if test == "all_reduce" else 1) * (total - 1) / total
    redop = "sum" if test in ("all_reduce", "reduce_scatter") else "none"
    for share, bytes_ in ((0.001, 1 << 15), (0.6, size // 16), (1.0, size)):
        alg = bus * share / ratio
        time = bytes_ / (alg * 1e9) * 1e6
        result = f"{time:.2f} {alg:.2f} {bus * share:.2f}"
        wrong = more.get("wrong", 0)
        last = "N/A" if test == "alltoall" else wrong
        lines.append(
            f"{bytes_:12d} {bytes_ // 4:12d}     float    {redop}      -1 {result}      {wrong} "
            f"{result}      {last}"
        )
    lines += ["# Out of bounds values : 0 OK", f"# Avg bus bandwidth    : {bus * 0.534:.3f} ", "#"]
    return "".join(f"{more.get('tag', '')}{line}\n" for line in lines)


@pytest.fixture(scope="session", autouse=True)
def _one_catalogue():
    """Read the shipped catalogue once, not for every command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ingest_cluster, "_catalogue", cache(_ingest_cluster._catalogue))
        yield


@pytest.fixture(scope="session")
def shapes():
    """All builders of outputs by name."""
    return {
        "matrix": matrix,
        "cards": cards,
        "node": node,
        "kubectl": kubectl,
        "scontrol": scontrol,
        "nccl": nccl,
    }


@pytest.fixture
def save(tmp_path):
    """Write texts below a folder of their own; returns its path."""

    def write(files, folder="in"):
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, bytes):
                path.write_bytes(text)
            else:
                path.write_text(text, encoding="utf-8", newline="")
        return tmp_path / folder

    return write


@pytest.fixture
def output():
    """An output of a command, as if read from a file called `saved.txt`."""
    return lambda text, label="saved.txt": Output.of(text, label)


def _links(node_gb, fabric_gb):
    link = {"bandwidth_bytes_per_s": node_gb * 1e9, "latency_us": 1.0}
    fabric = {"bandwidth_bytes_per_s": fabric_gb * 1e9, "latency_us": 4.0}
    return Links.model_validate({"node": link, "domain": link, "fabric": fabric})


@pytest.fixture(scope="session")
def catalogue():
    """A small catalogue, so that tests of the readers need no files."""
    gib = 2.0**30
    gpus = {
        "a100-pcie-80gb": 80 * gib,
        "a100-sxm-40gb": 40 * gib,
        "a100-sxm-80gb": 80 * gib,
        "gb200-186gb": 185 * gib,
        "h100-pcie-80gb": 80 * gib,
        "h100-sxm-80gb": 80 * gib,
        "h200-sxm-141gb": 140.4 * gib,
        "l40s-48gb": 45 * gib,
        "mi300x-192gb": 192 * gib,
        "own-gpu-64gb": 64 * gib,
    }
    clusters = (
        KnownCluster("1xhgx-h100", "h100-sxm-80gb", 1, 8, 8, _links(450, 50)),
        KnownCluster("4xhgx-h100", "h100-sxm-80gb", 4, 8, 8, _links(450, 50)),
        KnownCluster("1x8-h100-pcie", "h100-pcie-80gb", 1, 8, 8, _links(64, 50)),
        KnownCluster("1xhgx-h200", "h200-sxm-141gb", 1, 8, 8, _links(450, 50)),
        KnownCluster("8xl40s", "l40s-48gb", 1, 8, 8, _links(32, 25)),
        KnownCluster("1xgb200-nvl72", "gb200-186gb", 18, 4, 72, _links(900, 50)),
        KnownCluster("1x8-mi300x", "mi300x-192gb", 1, 8, 8, _links(448, 50)),
    )
    return Catalogue(gpus, DEVICE_NAMES, clusters)
