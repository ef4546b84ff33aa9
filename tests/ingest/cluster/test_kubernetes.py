"""`kubectl get nodes -o json`."""

import json

import pytest
from click.testing import CliRunner

from autopar.cli import main
from autopar.errors import SpecError
from autopar.ingest.cluster.kubernetes import read_nodes

UUID = "1f0d2c8e-51ad-4b0f-9d46-3c6e6d1c2b7a"


def read(shapes, output, *nodes):
    return read_nodes(output(shapes["kubectl"](*nodes), "nodes.json"))


def one(shapes, output, *args, **more):
    (found,), _ = read(shapes, output, shapes["node"](*args, **more))
    return found


def test_labels_give_name_memory_and_number(shapes, output):
    found = one(shapes, output, "gpu-1")
    assert (found.gpu, found.num_gpus) == ("NVIDIA-H100-80GB-HBM3", 8)
    assert found.memory_bytes == 81559 * 2**20
    assert found.where == "nodes.json: items[0]"


def test_nodes_without_gpus_are_counted(shapes, output):
    cpu = shapes["node"]("cpu-1", product=None, usable={"nvidia.com/gpu": None})
    nodes, idle = read(shapes, output, cpu, shapes["node"]("gpu-1"))
    assert ([n.name for n in nodes], idle) == (["gpu-1"], 1)


def test_a_single_node_may_be_the_document(shapes, output):
    nodes, _ = read_nodes(output(json.dumps(shapes["node"]("gpu-1"))))
    assert nodes[0].name == "gpu-1"


def test_the_clique_is_the_nvlink_domain(shapes, output):
    labels = {"nvidia.com/gpu.clique": f"{UUID}.1"}
    assert one(shapes, output, "t1", 4, "NVIDIA-GB200", labels=labels).unit == f"{UUID}.1"


def test_a_clique_of_no_fabric_is_none(shapes, output):
    labels = {"nvidia.com/gpu.clique": "00000000-0000-0000-0000-000000000000.0"}
    assert one(shapes, output, "t1", labels=labels).unit is None


@pytest.mark.parametrize(
    ("more", "why"),
    [({"cordoned": True}, "cordoned"), ({"ready": "False"}, "NotReady"),
     ({"ready": "Unknown"}, "NotReady"), ({}, None)],
)  # fmt: skip
def test_nodes_that_take_no_pods_are_down(shapes, output, more, why):
    assert one(shapes, output, "gpu-1", **more).down == why


def test_slices_of_one_size_are_no_gpus(shapes, output):
    """MIG strategy single: the product's name tells, and the count is that of slices."""
    found = one(shapes, output, "gpu-1", 56, "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", memory=9728)
    assert found.gpu == "NVIDIA-H100-80GB-HBM3"
    assert found.parts == "MIG slices"
    assert found.memory_bytes is None


def test_slices_of_many_sizes_are_no_gpus(shapes, output):
    """MIG strategy mixed: a resource per size."""
    usable = {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-3g.40gb": "2"}
    labels = {"nvidia.com/mig.strategy": "mixed"}
    assert one(shapes, output, "gpu-1", labels=labels, usable=usable).parts == "MIG slices"


def test_shared_gpus_are_counted_once(shapes, output):
    labels = {"nvidia.com/gpu.replicas": "4"}
    usable = {"nvidia.com/gpu": "32"}
    found = one(shapes, output, "g", 8, "NVIDIA-L40S-SHARED", labels=labels, usable=usable)
    assert (found.gpu, found.num_gpus) == ("NVIDIA-L40S", 8)
    assert "offered 4 times" in found.notes[0]


@pytest.mark.parametrize("product", [None, "NVIDIA-H100-80GB-HBM3"])
@pytest.mark.parametrize("strategy", ["time-sharing", "mps"])
def test_gpus_that_gke_shares_are_counted_once(shapes, output, product, strategy):
    labels = {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
        "cloud.google.com/gke-gpu-sharing-strategy": strategy,
        "cloud.google.com/gke-max-shared-clients-per-gpu": "4",
    }
    found = one(shapes, output, "g", 8, product, labels=labels, usable={"nvidia.com/gpu": "32"})
    assert found.num_gpus == 8
    assert "offered 4 times" in found.notes[0]


def test_replicas_of_one_do_not_hide_that_gke_shares(shapes, output):
    """GPU feature discovery writes replicas=1 where its own device plugin shares nothing."""
    labels = {
        "nvidia.com/gpu.replicas": "1",
        "cloud.google.com/gke-max-shared-clients-per-gpu": "2",
    }
    found = one(shapes, output, "g", 8, labels=labels, usable={"nvidia.com/gpu": "16"})
    assert found.num_gpus == 8


RENAMED = "nvidia.com/gpu.shared"


@pytest.mark.parametrize("left", [None, "0"])
@pytest.mark.parametrize("count", [8, None])
def test_shared_gpus_of_another_name_are_counted_once(shapes, output, left, count):
    """renameByDefault: the copies are nvidia.com/gpu.shared, and nvidia.com/gpu may stay, empty."""
    labels = {"nvidia.com/gpu.replicas": "4"}
    if count is None:
        labels["nvidia.com/gpu.count"] = None
    usable, capacity = {"nvidia.com/gpu": left, RENAMED: "32"}, {"nvidia.com/gpu": "8"}
    found = one(shapes, output, "g", 8, labels=labels, usable=usable, capacity=capacity)
    assert (found.gpu, found.num_gpus) == ("NVIDIA-H100-80GB-HBM3", 8)
    assert found.notes == ("shared: each GPU is offered 4 times; whole GPUs are counted",)


def test_shared_gpus_of_another_name_need_no_label_of_their_number(shapes, output):
    labels = {"nvidia.com/gpu.replicas": "4"}
    usable = {"nvidia.com/gpu": None, RENAMED: "32"}
    assert one(shapes, output, "g", 8, None, labels=labels, usable=usable).num_gpus == 8


@pytest.mark.parametrize(
    ("usable", "capacity"),
    [({"nvidia.com/gpu": "28"}, {"nvidia.com/gpu": "32"}),
     ({"nvidia.com/gpu": "28", RENAMED: "0"}, {"nvidia.com/gpu": "32", RENAMED: "32"}),
     ({"nvidia.com/gpu": None, RENAMED: "28"}, {RENAMED: "32"}),
     ({"nvidia.com/gpu": "0", RENAMED: "28"}, {"nvidia.com/gpu": "8", RENAMED: "32"}),
     ({"nvidia.com/gpu": "4", RENAMED: "12"}, {"nvidia.com/gpu": "4", RENAMED: "16"})],
)  # fmt: skip
def test_a_shared_gpu_that_is_not_healthy_is_said_once(shapes, output, usable, capacity):
    labels = {"nvidia.com/gpu.replicas": "4"}
    found = one(shapes, output, "g", labels=labels, usable=usable, capacity=capacity)
    assert found.num_gpus == 7
    assert "7 of 8 GPUs are allocatable: the others are not healthy" in found.notes


def test_shared_gpus_that_are_all_unhealthy_are_none(shapes, output):
    usable, capacity = {"nvidia.com/gpu": "0", RENAMED: "0"}, {"nvidia.com/gpu": "8", RENAMED: "32"}
    labels = {"nvidia.com/gpu.replicas": "4"}
    found = one(shapes, output, "g", labels=labels, usable=usable, capacity=capacity)
    assert found.num_gpus == 0
    assert "0 of 8 GPUs are allocatable: the others are not healthy" in found.notes


def test_gpus_beside_shared_ones_of_another_name_count_too(shapes, output):
    labels = {"nvidia.com/gpu.replicas": "4"}
    found = one(shapes, output, "g", labels=labels, usable={"nvidia.com/gpu": "4", RENAMED: "16"})
    assert found.num_gpus == 8
    with pytest.raises(SpecError, match=r"found 12 allocatable nvidia\.com/gpu and the label"):
        one(shapes, output, "g", labels=labels, usable={"nvidia.com/gpu": "4", RENAMED: "32"})


def test_without_a_label_of_copies_the_number_of_gpus_is_that_of_the_label(shapes, output):
    usable = {"nvidia.com/gpu": None, RENAMED: "32"}
    found = one(shapes, output, "g", usable=usable)
    assert found.num_gpus == 8
    assert found.notes == (
        "shared, and no label nvidia.com/gpu.replicas; the label's count is taken",
    )
    with pytest.raises(SpecError, match=r"found 32 allocatable nvidia\.com/gpu\.shared and no "):
        one(shapes, output, "g", 8, None, usable=usable)


def test_a_gpu_that_is_not_healthy_is_said(shapes, output):
    usable, capacity = {"nvidia.com/gpu": "7"}, {"nvidia.com/gpu": "8"}
    found = one(shapes, output, "gpu-1", usable=usable, capacity=capacity)
    assert found.num_gpus == 7
    assert "7 GPUs are allocatable, 8 by the label" in found.notes
    assert "7 of 8 GPUs are allocatable: the others are not healthy" in found.notes


def test_without_a_device_plugin_the_label_counts(shapes, output):
    found = one(shapes, output, "gpu-1", usable={"nvidia.com/gpu": None})
    assert found.num_gpus == 8
    assert "the label's count is taken" in found.notes[0]


def test_googles_label_names_a_gpu_where_no_other_does(shapes, output):
    labels = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert one(shapes, output, "gke-1", 8, None, labels=labels).gpu == "nvidia-h100-80gb"


@pytest.mark.parametrize("product", [None, "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"])
def test_slices_of_gke_are_no_gpus(shapes, output, product):
    """GKE's own device plugin counts slices as nvidia.com/gpu; its label tells their size."""
    labels = {
        "cloud.google.com/gke-accelerator": "nvidia-a100-80gb",
        "cloud.google.com/gke-gpu-partition-size": "1g.10gb",
    }
    assert one(shapes, output, "gke-1", 56, product, labels=labels).parts == "MIG slices"


def test_labels_of_amd(shapes, output):
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}
    usable = {"nvidia.com/gpu": None, "amd.com/gpu": "8"}
    found = one(shapes, output, "mi-1", 8, None, labels=labels, usable=usable)
    assert (found.gpu, found.num_gpus) == ("AMD_Instinct_MI300X_OAM", 8)
    assert found.memory_bytes == 192 * 2**30


MI300X = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}


def amd(shapes, output, labels, capacity=None, **usable):
    usable = {"nvidia.com/gpu": None} | {f"amd.com/{key}": str(n) for key, n in usable.items()}
    more = {"capacity": {f"amd.com/{key}": str(n) for key, n in (capacity or {}).items()}}
    return one(shapes, output, "mi-1", 8, None, labels=MI300X | labels, usable=usable, **more)


@pytest.mark.parametrize("key", ["amd.com/compute-memory-partition",
                                 "amd.com/gpu.compute-memory-partition"])  # fmt: skip
@pytest.mark.parametrize(("cut", "count"), [("cpx_nps4", 64), ("cpx_nps1", 64), ("dpx_nps2", 16)])
def test_partitions_of_amd_are_no_gpus(shapes, output, key, cut, count):
    """Naming strategy single: all partitions are amd.com/gpu, and a label tells what they are."""
    found = amd(shapes, output, {key: cut}, gpu=count)
    assert found.parts == f"partitions ({cut})"
    assert found.memory_bytes is None


def test_partitions_of_amd_with_names_of_their_own_are_no_gpus(shapes, output):
    """Naming strategy mixed: a resource per kind of partition."""
    found = amd(shapes, output, {}, cpx_nps4=32, spx_nps1=4)
    assert found.parts == "partitions (cpx_nps4)"


@pytest.mark.parametrize("usable", [{"gpu": 8}, {"spx_nps1": 8}, {"spx_nps1": 8, "gpu": 0},
                                    {"spx_nps1": 8, "cpx_nps4": 0}])  # fmt: skip
@pytest.mark.parametrize("labels", [{}, {"amd.com/compute-memory-partition": "spx_nps1"}])
def test_a_partition_that_is_a_whole_gpu_counts(shapes, output, labels, usable):
    found = amd(shapes, output, labels, **usable)
    assert (found.num_gpus, found.parts) == (8, "")
    assert found.memory_bytes == 192 * 2**30


@pytest.mark.parametrize("labels", [{}, MI300X])
def test_no_gpus_of_amd_do_not_hide_those_of_nvidia(shapes, output, labels):
    found = one(shapes, output, "g", 8, labels=labels, usable={"amd.com/gpu": "0"})
    assert (found.gpu, found.num_gpus) == ("NVIDIA-H100-80GB-HBM3", 8)


def test_a_node_may_have_gpus_of_two_makers(shapes, output):
    node = shapes["node"]("g", 4, labels=MI300X, usable={"amd.com/gpu": "2"})
    nodes, idle = read(shapes, output, node)
    assert [(n.gpu, n.num_gpus) for n in nodes] == [
        ("NVIDIA-H100-80GB-HBM3", 4),
        ("AMD_Instinct_MI300X_OAM", 2),
    ]
    assert idle == 0


def test_a_plugin_of_amd_that_found_nothing_is_no_gpu(shapes, output):
    usable = {"nvidia.com/gpu": None, "amd.com/gpu": "0"}
    nodes, idle = read(shapes, output, shapes["node"]("cpu", product=None, usable=usable))
    assert (nodes, idle) == ([], 1)


def test_gpus_of_amd_that_are_all_unhealthy_are_none(shapes, output):
    usable, capacity = {"nvidia.com/gpu": None, "amd.com/gpu": "0"}, {"amd.com/gpu": "8"}
    assert one(shapes, output, "g", 8, None, usable=usable, capacity=capacity).num_gpus == 0


@pytest.mark.parametrize(
    ("usable", "capacity"),
    [({"gpu": 7}, {"gpu": 8}), ({"spx_nps1": 7, "gpu": 0}, {"spx_nps1": 8, "gpu": 8})],
)
def test_a_gpu_of_amd_that_is_not_healthy_is_said(shapes, output, usable, capacity):
    found = amd(shapes, output, {}, capacity, **usable)
    assert found.num_gpus == 7
    assert found.notes == ("7 of 8 GPUs are allocatable: the others are not healthy",)


def test_partitions_and_renamed_gpus_of_amd_are_not_called_unhealthy(shapes, output):
    assert amd(shapes, output, {}, {"gpu": 8}, gpu=0, spx_nps1=8).notes == ()
    assert amd(shapes, output, {}, {"cpx_nps4": 64}, cpx_nps4=56).notes == ()


def test_a_missing_gpu_of_amd_is_told_where_it_matters(shapes):
    def told(**counts):
        usable = {name: {"nvidia.com/gpu": None, "amd.com/gpu": n} for name, n in counts.items()}
        more = {"labels": MI300X, "capacity": {"amd.com/gpu": "8"}}
        nodes = [shapes["node"](name, 8, None, usable=u, **more) for name, u in usable.items()]
        text = shapes["kubectl"](*nodes)
        return CliRunner().invoke(main, ["ingest", "cluster", "-"], input=text).stderr

    note = "g1: 7 of 8 GPUs are allocatable: the others are not healthy"
    assert f"warning: {note}" in told(g1="7")
    assert f"by --without g1 ({note})" in told(g0="8", g1="7")


def test_more_gpus_than_the_label_says_contradict_it(shapes, output):
    with pytest.raises(SpecError) as error:
        one(shapes, output, "gpu-1", 8, usable={"nvidia.com/gpu": "16"})
    assert "items[0]: found 16 allocatable nvidia.com/gpu and the label" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "List", "items": [', "line 1, column 28: not valid JSON"),
        ('{"kind": "PodList", "items": []}', "kind: found 'PodList', expected a List of nodes"),
        ('{"kind": "List", "items": [{"kind": "Pod"}]}', "items[0].kind: found 'Pod', expected"),
        ('{"kind": "List", "items": [3]}', "items[0].kind: found 3, expected Node"),
        ('{"kind": "List"}', "kind: found 'List', expected a List of nodes"),
        ('{"kind": "Node", "metadata": {}}', "metadata.name: found null, expected text"),
        ('{"kind": "Node", "metadata": {"name": "a", "labels": []}}', "labels: found a list of 0"),
        (
            '{"kind":"Node","metadata":{"name":"a"},"status":{"allocatable":{"nvidia.com/gpu":"many"}}}',
            "status.allocatable[nvidia.com/gpu]: found 'many', expected a count",
        ),
        (
            '{"kind":"Node","metadata":{"name":"a"},"status":{"allocatable":{"nvidia.com/gpu":"\u0668"}}}',
            "status.allocatable[nvidia.com/gpu]: found '\u0668', expected a count",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_field(output, text, message):
    with pytest.raises(SpecError, match=r"^nodes\.json: ") as error:
        read_nodes(output(text, "nodes.json"))
    assert message in str(error.value)


def test_a_node_twice_is_refused(shapes, output):
    with pytest.raises(SpecError, match=r"items\[1\]\.metadata\.name: found node 'a' a second"):
        read(shapes, output, shapes["node"]("a"), shapes["node"]("a"))
