"""`autopar ingest cluster` on what Kubernetes and Slurm list, and on measured bandwidths."""

import json

import pytest
from click.testing import CliRunner

from autopar.cli import main

GB200 = "NVIDIA-GB200"
UUID = "1f0d2c8e-51ad-4b0f-9d46-3c6e6d1c2b7a"
TREE = "SwitchName=leaf1 Nodes=node[001-002]\nSwitchName=leaf2 Nodes=node[003-004]\n"


def run(*args):
    return CliRunner().invoke(main, ["ingest", "cluster", *(str(a) for a in args)])


def ok(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*args):
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line


def row(document, field):
    rows = [r for part in ("read", "given", "inferred", "assumed") for r in document[part]]
    (found,) = [r for r in rows if r["field"] == field]
    return found


@pytest.fixture
def kubectl(shapes, save):
    return lambda *nodes: save({"nodes.json": shapes["kubectl"](*nodes)}, "k8s") / "nodes.json"


@pytest.fixture
def rack(shapes):
    """The trays of NVL72 racks: trays per clique."""

    def build(*cliques, first=1):
        numbers = iter(range(first, 1000))
        return [
            shapes["node"](
                f"tray{next(numbers):02d}", 4, GB200, memory=189471,
                labels={"nvidia.com/gpu.clique": f"{UUID}.{clique}"},
            )
            for clique, trays in enumerate(cliques)
            for _ in range(trays)
        ]  # fmt: skip

    return build


@pytest.fixture
def slurm(shapes, save):
    """Four nodes of 8 H100 and their switches; replaced: other nodes by name."""

    def build(topology=TREE, **replaced):
        names = [f"node00{i}" for i in range(1, 5)]
        texts = [shapes["scontrol"](name, **replaced.get(name, {})) for name in names]
        files = {"nodes.txt": "\n".join(texts)}
        if topology:
            files["topology.conf"] = topology
        return save(files, "slurm")

    return build


def test_a_rack_is_one_nvlink_domain(kubectl, rack):
    document = ok(kubectl(*rack(18)))
    (cluster,) = document["clusters"]
    sizes = [cluster[k] for k in ("num_nodes", "gpus_per_node", "gpus_per_domain")]
    assert sizes == [18, 4, 72]
    found = row(document, "gpus_per_domain")
    assert found["how"] == "read"
    assert "1 domain by NVLink cliques (label nvidia.com/gpu.clique): tray[01-18]" in found["why"]
    assert cluster["links"]["domain"]["bandwidth_bytes_per_s"] == 900e9


def test_the_smaller_rack_comes_last(kubectl, rack):
    document = ok(kubectl(*rack(17, 18)))
    (cluster,) = document["clusters"]
    assert cluster["gpus_per_domain"] == 72
    assert document["nodes"][0]["nodes"][0] == "tray18"
    assert "the last domain has 68 GPUs, the others 72" in document["warnings"]


def test_racks_of_different_sizes_are_refused(kubectl, rack):
    message = refused(kubectl(*rack(18, 17, 17)))
    assert "of different sizes: 18 nodes: tray[01-18]; 17 nodes: tray[19-35]" in message
    assert ok(kubectl(*rack(18, 17, 17)), "--without", "tray01")["clusters"][0]["num_nodes"] == 51


def test_a_tray_without_a_clique_is_refused(kubectl, rack, shapes):
    loose = shapes["node"]("tray99", 4, GB200, memory=189471)
    message = refused(kubectl(*rack(18), loose))
    assert "tray99 in none of the NVLink cliques" in message
    assert ok(kubectl(*rack(18), loose), "--without", "tray99")["clusters"][0]["num_nodes"] == 18


def test_without_cliques_the_racks_domain_is_assumed_and_said(kubectl, shapes):
    nodes = [shapes["node"](f"t{i}", 4, GB200, memory=189471) for i in range(18)]
    document = ok(kubectl(*nodes))
    assert row(document, "gpus_per_domain")["how"] == "assumed"
    assert any("NVLink domains of 72 GPUs are assumed" in text for text in document["warnings"])
    assert row(ok(kubectl(*nodes), "--domain-gpus", 36), "gpus_per_domain")["how"] == "given"


@pytest.mark.parametrize(
    ("trays", "domain", "warning"),
    [
        (20, None, "the last domain has 8 GPUs, the others 72"),
        (20, 48, "the last domain has 32 GPUs, the others 48"),
        (36, None, None),
        (5, None, None),
        (9, 12, None),
        (2, 72, None),
    ],
)
def test_a_smaller_last_domain_is_said_however_it_came_about(
    kubectl, shapes, trays, domain, warning
):
    nodes = [shapes["node"](f"t{i}", 4, GB200, memory=189471) for i in range(trays)]
    stated = () if domain is None else ("--domain-gpus", domain)
    found = [t for t in ok(kubectl(*nodes), *stated)["warnings"] if "the last domain" in t]
    assert found == ([] if warning is None else [warning])


def test_nodes_that_take_no_work_are_left_out_and_said(kubectl, shapes):
    node = shapes["node"]
    nodes = [node("a1"), node("a2", cordoned=True), node("a3", ready="Unknown"), node("a4")]
    file = kubectl(*nodes)
    result = run(file)
    assert "left out: a2: cordoned\nleft out: a3: NotReady\n" in result.stderr
    assert "# left out: a2: cordoned" in result.stdout
    assert ok(file)["nodes"][0]["nodes"] == ["a1", "a4"]
    assert ok(file, "--all-nodes")["clusters"][0]["num_nodes"] == 4


def test_sliced_nodes_are_left_out(kubectl, shapes):
    mig = shapes["node"]("m1", 56, "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", memory=9728)
    document = ok(kubectl(mig, shapes["node"]("a1")))
    assert document["left_out"][0]["why"].startswith("its GPUs are cut into MIG slices")
    message = refused(kubectl(mig))
    assert "no node with GPUs is left" in message
    assert "--all-nodes" not in message  # which would not count it


def test_partitioned_nodes_of_amd_are_left_out(kubectl, shapes):
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}
    rows = [("a1", {"amd.com/gpu": "8"}), ("a2", {"amd.com/cpx_nps4": "64"})]
    nodes = [
        shapes["node"](name, 8, None, labels=labels, usable={"nvidia.com/gpu": None} | usable)
        for name, usable in rows
    ]
    document = ok(kubectl(*nodes))
    assert [c["gpus_per_node"] for c in document["clusters"]] == [8]
    assert document["left_out"][0]["why"].startswith("its GPUs are cut into partitions (cpx_nps4)")


def test_a_node_with_a_sick_gpu_is_refused_with_its_name(kubectl, shapes):
    sick = shapes["node"]("a2", usable={"nvidia.com/gpu": "7"}, capacity={"nvidia.com/gpu": "8"})
    message = refused(kubectl(shapes["node"]("a1"), sick, shapes["node"]("a3")))
    assert "8 in a[1,3], 7 in a2" in message
    assert "a2: 7 GPUs are allocatable, 8 by the label" in message


def test_mixed_kinds_of_kubernetes(kubectl, shapes):
    l40s = [shapes["node"](f"l{i}", 4, "NVIDIA-L40S", memory=46068) for i in (1, 2)]
    file = kubectl(shapes["node"]("h1"), *l40s)
    assert "h100-sxm-80gb (1 node, 8 GPUs), l40s-48gb (2 nodes, 8 GPUs)" in refused(file)
    assert ok(file, "--kind", "l40s-48gb")["clusters"][0]["num_nodes"] == 2


def test_nodes_of_amd(kubectl, shapes):
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}
    usable = {"nvidia.com/gpu": None, "amd.com/gpu": "8"}
    nodes = [shapes["node"](f"m{i}", 8, None, labels=labels, usable=usable) for i in (1, 2)]
    assert ok(kubectl(*nodes))["clusters"][0]["gpu"] == "mi300x-192gb"


@pytest.mark.parametrize("domain", [(), ("--domain-gpus", 16, "--node-bandwidth", "448 GB/s")])
def test_nothing_is_said_of_nvlink_where_gpus_are_of_amd(kubectl, shapes, domain):
    labels = {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}
    usable = {"nvidia.com/gpu": None, "amd.com/gpu": "8"}
    nodes = [shapes["node"](f"m{i}", 8, None, labels=labels, usable=usable) for i in (1, 2)]
    result = run(kubectl(*nodes), *domain)
    assert result.exit_code == 0
    assert "gpus_per_domain: " in result.stdout
    assert "NVLink" not in result.output


def test_slurm_lists_nodes_and_switches(slurm):
    document = ok(slurm())
    assert document["nodes"][0]["nodes"] == [f"node00{i}" for i in range(1, 5)]
    assert row(document, "gpu")["how"] == "inferred"
    assert any(
        "taken for the SXM form; it may be h100-nvl-94gb or h100-pcie-80gb" in w
        for w in document["warnings"]
    )
    assert any("below 2 leaf switches" in text for text in document["warnings"])


def test_drained_nodes_are_left_out(slurm):
    document = ok(slurm(node002={"state": "IDLE+DRAIN"}, node004={"state": "DOWN*"}))
    assert document["nodes"][0]["nodes"] == ["node001", "node003"]
    assert {"node": "node004", "why": "State=DOWN*"} in document["left_out"]


def test_a_type_that_slurm_does_not_say_is_to_be_named(slurm):
    bare = {f"node00{i}": {"gres": "gpu:8"} for i in range(1, 5)}
    assert "GPUs without a name" in refused(slurm(**bare))
    assert ok(slurm(**bare), "--gpu", "h200-sxm-141gb")["clusters"][0]["num_nodes"] == 4


def test_blocks_are_nvlink_domains_where_the_gpu_has_racks(shapes, save):
    texts = [shapes["scontrol"](f"t{i:02d}", "gpu:gb200:4") for i in range(1, 37)]
    conf = "BlockName=b1 Nodes=t[01-18]\nBlockName=b2 Nodes=t[19-36]\nBlockSizes=18\n"
    document = ok(save({"nodes.txt": "\n".join(texts), "topology.conf": conf}))
    assert document["clusters"][0]["gpus_per_domain"] == 72
    assert row(document, "gpus_per_domain")["how"] == "inferred"


def test_nvidia_smi_on_a_node_of_the_scheduler_adds_its_links(slurm, shapes, save):
    machine = {
        "topo.txt": shapes["matrix"](8, "NV18", 8),
        "gpus.csv": shapes["cards"](*["NVIDIA H100 80GB HBM3"] * 8),
    }
    own = ok(slurm(), save(machine, "node003"))
    assert row(own, "links.node.bandwidth_bytes_per_s")["how"] == "inferred"
    example = ok(slurm(), save(machine, "some-node"))
    found = row(example, "links.node.bandwidth_bytes_per_s")
    assert found["how"] == "inferred"
    assert found["why"].endswith("taken for all 4 nodes")


def test_nvidia_smi_and_scheduler_must_agree(slurm, shapes, save):
    seven = {"gpus.csv": shapes["cards"](*["NVIDIA H100 80GB HBM3"] * 7)}
    assert "7 GPUs in node node001, expected the 8 of" in refused(slurm(), save(seven, "node001"))
    other = {"gpus.csv": shapes["cards"](*["NVIDIA H200"] * 8, memory=143771)}
    message = refused(slurm(), save(other, "node001"))
    assert "found the GPU 'h100' in node node001, and nvidia-smi says 'NVIDIA H200'" in message


def test_two_schedulers_are_refused(slurm, kubectl, shapes):
    assert "found nodes of Slurm and of Kubernetes" in refused(
        slurm(), kubectl(shapes["node"]("a"))
    )


def test_num_nodes_is_for_nodes_that_no_scheduler_lists(slurm):
    one = ("--nodes", "node001", "--num-nodes", 2)
    assert "found 2, expected the 1 that the scheduler lists" in refused(slurm(), *one)


def test_num_nodes_does_not_contradict_a_scheduler(slurm):
    message = refused(slurm(), "--num-nodes", 8)
    assert "--num-nodes: found 8, expected the 4 nodes of the input" in message


@pytest.fixture
def measured(shapes, save):
    """A run of nccl-tests in a file."""

    def build(hosts, bus, name="nccl.txt", **more):
        return save({name: shapes["nccl"](hosts, bus, **more)}, "nccl") / name

    return build


def links(document):
    found = document["clusters"][0]["links"]
    return {level: link["bandwidth_bytes_per_s"] / 1e9 for level, link in found.items()}


def test_a_run_on_one_node_measures_the_link_of_a_node(slurm, measured):
    document = ok(slurm(), "--bandwidth", measured({"node001": 8}, 360.0))
    assert links(document)["node"] == links(document)["domain"] == pytest.approx(352.6, abs=0.1)
    found = row(document, "links.node.bandwidth_bytes_per_s")
    assert found["how"] == "measured"
    assert "all_reduce on 8 GPUs of 1 host: 360 GB/s bus bandwidth at 8,192 MiB" in found["why"]


def test_a_measured_link_has_no_more_figures_than_it_is_worth(slurm, measured):
    document = ok(slurm(), "--bandwidth", measured({"node001": 8}, 371.2345678))
    found = document["clusters"][0]["links"]["node"]["bandwidth_bytes_per_s"]
    assert found == float(f"{found:.4g}")
    rows = [r for r in document["read"] if r["field"] == "links.node.bandwidth_bytes_per_s"]
    assert "rounded to 4 figures" in rows[0]["why"]


def test_a_run_on_two_nodes_measures_the_fabric(slurm, measured):
    """341 GB/s of bus bandwidth over 8 ports, of which 85 % is reached: 50.15 GB/s each."""
    file = measured({"node001": 8, "node002": 8}, 341.0)
    document = ok(slurm(), "--bandwidth", file)
    assert links(document)["fabric"] == pytest.approx(341 / 8 / 0.85, rel=1e-3)
    assert not any("is assumed" in text for text in document["warnings"])


def test_a_run_on_trays_of_a_rack_measures_the_domain(kubectl, rack, measured):
    hosts = {f"tray{i:02d}": 4 for i in range(1, 5)}
    file = measured(hosts, 700.0, gpu="NVIDIA GB200")
    document = ok(kubectl(*rack(18)), "--bandwidth", file)
    assert row(document, "links.domain.bandwidth_bytes_per_s")["how"] == "measured"
    assert row(document, "links.node.bandwidth_bytes_per_s")["how"] != "measured"


def test_a_run_without_its_devices_wants_the_level(slurm, measured):
    file = measured({"node001": 8}, 360.0, ranks=False)
    assert "state it: --bandwidth LEVEL=FILE" in refused(slurm(), "--bandwidth", file)
    assert links(ok(slurm(), "--bandwidth", f"node={file}"))["node"] == pytest.approx(
        352.6, abs=0.1
    )


def test_more_than_the_links_carry_is_said(slurm, measured):
    document = ok(slurm(), "--bandwidth", measured({"node001": 8}, 480.0))
    assert any("is more than the 450 GB/s of 18 NVLinks" in text for text in document["warnings"])


@pytest.mark.parametrize("test", ["all_gather", "reduce_scatter", "alltoall"])
def test_other_collectives_measure_links_too(slurm, measured, test):
    document = ok(slurm(), "--bandwidth", measured({"node001": 8}, 300.0, test=test))
    assert 200 < links(document)["node"] < 500


@pytest.mark.parametrize(
    ("hosts", "more", "level", "message"),
    [
        ({"a": 8, "b": 8}, {}, "node=", "which measures the fabric, expected the node that"),
        ({"a": 8}, {}, "fabric=", "which measures the node, expected the fabric that"),
        ({"a": 4, "b": 4}, {}, "", "expected a run on all 8 GPUs of every host"),
        ({"a": 16}, {}, "", "16 GPUs on one host, expected at most the 8 of a node"),
        (dict.fromkeys("abcde", 8), {}, "", "a run on 40 GPUs, expected one on 2 to 32"),
        ({"a": 8}, {"gpu": "NVIDIA H200"}, "", "a run on h200-sxm-141gb, expected one on h100-"),
        ({"a": 8}, {"test": "sendrecv"}, "", "found the test sendrecv_perf, expected one of"),
        ({"a": 8}, {"size": 1 << 18}, "", "which no bandwidth of the node explains"),
    ],
)
def test_runs_that_do_not_fit_are_refused(slurm, measured, hosts, more, level, message):
    bus = 0.05 if "size" in more else 300.0
    file = measured(hosts, bus, **more)
    assert message in refused(slurm(), "--bandwidth", f"{level}{file}")


def test_a_run_among_the_files_is_refused_with_the_option(slurm, measured):
    message = refused(slurm(), measured({"node001": 8}, 300.0))
    assert "found the output of nccl-tests" in message
    assert "give this one by --bandwidth" in message


def test_two_runs_of_a_level_are_refused(slurm, measured):
    one, two = measured({"a": 8}, 300.0), measured({"a": 8}, 310.0, "other.txt")
    message = refused(slurm(), "--bandwidth", one, "--bandwidth", two)
    assert "the node is measured by " in message


def test_a_bandwidth_that_is_given_and_measured_is_refused(slurm, measured):
    file = measured({"node001": 8, "node002": 8}, 341.0)
    message = refused(slurm(), "--bandwidth", file, "--fabric-bandwidth", "50 GB/s")
    assert "--fabric-bandwidth: found it beside " in message


def test_an_all_to_all_over_nodes_measures_the_fabric(slurm, measured):
    file = measured({"node001": 8, "node002": 8}, 60.0, test="alltoall")
    document = ok(slurm(), "--bandwidth", file)
    assert row(document, "links.fabric.bandwidth_bytes_per_s")["how"] == "measured"
    assert 25 < links(document)["fabric"] < 60


def smi(shapes, name, cell="NV18", memory=81559, count=8):
    return {
        "topo.txt": shapes["matrix"](count, cell, 8),
        "gpus.csv": shapes["cards"](*[name] * count, memory=memory),
    }


@pytest.mark.parametrize("folder", ["node002", "example"])
def test_nvidia_smi_says_which_form_a_short_type_of_slurm_is(slurm, shapes, save, folder):
    """gpu:h100 is said of both forms; the files of nvidia-smi decide, and their links are used."""
    machine = save(smi(shapes, "NVIDIA H100 PCIe", "SYS"), folder)
    document = ok(slurm(), machine)
    cluster = document["clusters"][0]
    assert (cluster["gpu"], cluster["num_nodes"]) == ("h100-pcie-80gb", 4)
    assert row(document, "gpu")["how"] == "inferred"
    assert "nvidia-smi says 'NVIDIA H100 PCIe'" in row(document, "gpu")["why"]
    link = row(document, "links.node.bandwidth_bytes_per_s")
    assert link["why"].startswith("PCIe x16 of this GPU")
    assert cluster["links"]["node"]["bandwidth_bytes_per_s"] < 100e9
    assert not any("may be" in text or "not used" in text for text in document["warnings"])


@pytest.mark.parametrize("folder", ["node003", "example"])
def test_what_nvidia_smi_says_is_in_no_doubt(slurm, shapes, save, folder):
    document = ok(slurm(), save(smi(shapes, "NVIDIA H100 80GB HBM3"), folder))
    assert document["clusters"][0]["gpu"] == "h100-sxm-80gb"
    assert not any("may be" in text for text in document["warnings"])


def test_nvidia_smi_says_what_a_scheduler_does_not_name(slurm, shapes, save):
    bare = {f"node00{i}": {"gres": "gpu:8"} for i in range(1, 5)}
    document = ok(slurm(**bare), save(smi(shapes, "NVIDIA H200", memory=143771), "example"))
    assert document["clusters"][0]["gpu"] == "h200-sxm-141gb"
    assert any("names no type" in text for text in document["warnings"])
    fewer = save(smi(shapes, "NVIDIA H200", memory=143771, count=4), "other")
    assert "GPUs without a name" in refused(slurm(**bare), fewer)


def test_a_type_that_is_two_gpus_is_not_guessed(slurm, shapes, save):
    folders = [
        save(smi(shapes, "NVIDIA H100 PCIe", "SYS"), "node001"),
        save(smi(shapes, "NVIDIA H100 80GB HBM3"), "node002"),
    ]
    message = refused(slurm(), *folders)
    assert "node node003 has 'h100', of which nvidia-smi says h100-pcie-80gb" in message
