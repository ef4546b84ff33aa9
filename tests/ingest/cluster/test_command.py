"""`autopar ingest cluster` as a user runs it: real outputs in, a spec out that `solve` takes."""

import json

import pytest
from click.testing import CliRunner

from autopar.catalog import load_scenario
from autopar.cli import main
from autopar.documents import parse
from autopar.units import BYTES_PER_S, DURATION_US
from autopar.units import parse as number

H100, L40S, GB200 = "NVIDIA H100 80GB HBM3", "NVIDIA L40S", "NVIDIA-GB200"
UUID = "1f0d2c8e-51ad-4b0f-9d46-3c6e6d1c2b7a"


def run(*args, stdin=None):
    return CliRunner().invoke(main, ["ingest", "cluster", *(str(a) for a in args)], input=stdin)


def ok(*args, stdin=None):
    """The document of a run that succeeds."""
    result = run(*args, "--json", stdin=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*args, stdin=None):
    """The message of a run that is refused, on one line."""
    result = run(*args, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line


def why(document, field):
    """How a field came about, and why."""
    rows = [r for part in ("read", "given", "inferred", "assumed") for r in document[part]]
    (row,) = [r for r in rows if r["field"] == field]
    return row["how"], row["why"]


GOOGLE = {
    "nvidia-tesla-v100": "v100-sxm-16gb",
    "nvidia-tesla-a100": "a100-sxm-40gb",
    "nvidia-a100-80gb": "a100-sxm-80gb",
    "nvidia-h100-80gb": "h100-sxm-80gb",
    "nvidia-h100-mega-80gb": "h100-sxm-80gb",
    "nvidia-h200-141gb": "h200-sxm-141gb",
    "nvidia-b200": "b200-sxm-180gb",
    "nvidia-gb200": "gb200-186gb",
    "nvidia-l4": "l4-24gb",
    "nvidia-rtx-pro-6000": "rtx-pro-6000-96gb",
}


def bandwidths(document):
    (cluster,) = document["clusters"]
    return [link["bandwidth_bytes_per_s"] / 1e9 for link in cluster["links"].values()]


@pytest.fixture
def machine(shapes):
    """The two files of a node with one kind of GPU."""

    def build(name="NVIDIA H100 80GB HBM3", count=8, cell="NV18", nics=8, memory=81559, **more):
        return {
            "topo.txt": shapes["matrix"](count, cell, nics, **more),
            "gpus.csv": shapes["cards"](*[name] * count, memory=memory),
        }

    return build


@pytest.fixture
def hgx(save, machine):
    """A node of 8 H100."""
    return save(machine(color=True), "hgx1")


def test_one_node_is_a_cluster_that_solve_takes(hgx, tmp_path):
    file = tmp_path / "mine.yaml"
    result = run(hgx, "-o", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{file}: 1 node of 8 h100-sxm-80gb\n")
    parts = {"llm": "llama-3.1-8b", "cluster": str(file), "workload": "chat-4k-1k"}
    cluster = load_scenario(parts=parts).cluster
    assert (cluster.gpu.name, cluster.num_gpus, cluster.domain_gpus) == ("h100-sxm-80gb", 8, 8)
    assert cluster.links.node.bandwidth_bytes_per_s == 450e9


def test_the_file_that_was_written_is_planned_with(hgx, tmp_path):
    file = tmp_path / "mine.yaml"
    assert run(hgx, "-o", file).exit_code == 0
    asked = ["--model", "llama-3.1-8b", "--workload", "chat-4k-1k", "--tpot", "30ms"]
    result = CliRunner().invoke(main, ["solve", *asked, "--cluster", str(file)])
    assert result.exit_code == 0
    assert "1x8-h100-sxm-80gb: proven optimal" in result.stdout


def test_every_field_says_how_it_came_about(hgx):
    text = run(hgx, "--num-nodes", 4, "--fabric-bandwidth", "400 Gbit/s").stdout
    lines = text.splitlines()
    assert lines[lines.index("gpu: h100-sxm-80gb") - 1] == "# read: 'NVIDIA H100 80GB HBM3'"
    assert (
        lines[lines.index("num_nodes: 4") - 1]
        == "# given: --num-nodes; hgx1 stands for all of them"
    )
    plain = " ".join(text.replace("#", " ").split())
    assert "bandwidth inferred: NV18 x 25 GB/s per link and direction; " in plain
    assert "# bandwidth given: --fabric-bandwidth" in text
    assert max(map(len, (line for line in lines if line.startswith("#")))) <= 100


def test_text_and_json_hold_the_same(hgx):
    written = parse(run(hgx).stdout, "x.yaml")
    for link in written["links"].values():
        link["bandwidth_bytes_per_s"] = number(link["bandwidth_bytes_per_s"], BYTES_PER_S, "")
        link["latency_us"] = number(link["latency_us"], DURATION_US, "")
    document = ok(hgx)
    assert document["nodes"] == [{"cluster": "1x8-h100-sxm-80gb", "nodes": ["hgx1"]}]
    assert document["clusters"] == [written]


def test_json_says_what_was_read_and_what_was_not(hgx):
    document = ok(hgx, "--num-nodes", 2)
    assert document["schema"] == 1
    assert why(document, "gpus_per_node")[0] == "read"
    assert why(document, "num_nodes")[0] == "given"
    assert why(document, "links.node.bandwidth_bytes_per_s")[0] == "inferred"
    assert why(document, "links.fabric.bandwidth_bytes_per_s") == (
        "assumed",
        "as in 1xhgx-h100 of the catalogue: no input states it",
    )
    assert "a fabric of 50 GB/s per GPU is assumed" in document["warnings"][0]


def test_an_assumption_that_carries_traffic_is_said_on_stderr(hgx):
    assert run(hgx).stderr == ""  # one node: the fabric is idle
    assert run(hgx, "--num-nodes", 2).stderr.startswith("warning: a fabric of 50 GB/s per GPU is")
    assert run(hgx, "--num-nodes", 2, "-q").stderr == ""


@pytest.mark.parametrize("layout", ["folders", "folder of folders", "stems"])
def test_several_nodes_are_folders_or_files_of_one_name(machine, save, layout):
    if layout == "stems":
        files = {f"n{i}.{k}": text for i in (1, 2) for k, text in machine().items()}
        sources = [save(files, "all")]
    else:
        folders = [save(machine(), f"all/n{i}") for i in (1, 2)]
        sources = folders if layout == "folders" else [folders[0].parent]
    document = ok(*sources)
    assert document["clusters"][0]["num_nodes"] == 2
    assert document["nodes"][0]["nodes"] == ["n1", "n2"]


def test_both_commands_may_stand_in_one_file_or_come_by_a_pipe(machine):
    text = "\n".join(machine().values())
    assert bandwidths(ok("-", stdin=text))[0] == 450
    assert ok("-", stdin=text.replace("\n", "\r\n"))["clusters"][0]["gpus_per_node"] == 8


def test_a_matrix_alone_wants_the_name_of_the_gpu(machine, save):
    folder = save({"topo.txt": machine()["topo.txt"]})
    assert "GPUs without a name, expected one in the input, or --gpu NAME" in refused(folder)
    document = ok(folder, "--gpu", "h200-sxm-141gb")
    assert why(document, "gpu") == ("given", "--gpu; the input says no name")


def test_a_list_alone_leaves_the_links_to_the_catalogue(machine, save):
    document = ok(save({"gpus.csv": machine()["gpus.csv"]}))
    how, text = why(document, "links.node.bandwidth_bytes_per_s")
    assert how == "assumed"
    assert text.endswith("no nvidia-smi topo -m was given")


def test_cards_without_nvlink_have_pcie(machine, save):
    document = ok(save(machine(L40S, 4, "NODE", 0, 46068, cells={(0, 1): "PIX", (1, 3): "SYS"})))
    assert bandwidths(document)[0] == 32
    assert "the longest way between two GPUs (SYS) crosses the processor" in document["warnings"][0]
    assert why(document, "links.node.latency_us")[1].startswith("that of PCIe nodes")


def test_an_sxm_node_without_nvlink_is_said_to_be_strange(machine, save):
    document = ok(save(machine(cell="SYS")))
    assert bandwidths(document)[0] == 64
    assert "no NVLink, which h100-sxm-80gb has: is it a virtual machine" in document["warnings"][0]


def test_bridges_between_pairs_are_said_and_not_counted(machine, save):
    pairs = {(i, i + 1): "NV12" for i in (0, 2)}
    document = ok(save(machine("NVIDIA H100 PCIe", 4, "SYS", 0, cells=pairs)))
    assert bandwidths(document)[0] == 64
    assert "NVLink joins groups of 2 GPUs alone (NV12)" in document["warnings"][0]


def test_a_board_without_switch_counts_all_links_of_a_gpu(machine, save):
    document = ok(save(machine("NVIDIA A100-SXM4-80GB", 4, "NV4", 0, 81920)))
    assert bandwidths(document)[0] == 300
    assert "no NVLink switch" in document["warnings"][0]


def test_a_gpu_with_fewer_links_slows_all_and_is_said(machine, save):
    weak = {(3, i): "NV16" for i in range(8) if i != 3}
    document = ok(save(machine(cells=weak)))
    assert bandwidths(document)[0] == 400
    assert "GPU3 of node in has fewer NVLinks than the others" in document["warnings"][0]


def test_broken_nvlink_is_refused_with_the_way_out(machine, save):
    lost = {(5, i): "SYS" for i in range(8) if i != 5}
    good, bad = save(machine(), "n1"), save(machine(cells=lost), "n2")
    message = refused(good, bad)
    assert "n2/topo.txt: line 1: NVLink of node n2 is not whole: GPU5 reach fewer GPUs" in message
    assert "--without n2" in message
    document = ok(good, bad, "--without", "n2")
    assert document["left_out"] == [{"node": "n2", "why": "--without"}]
    assert bandwidths(ok(good, bad, "--node-bandwidth", "64 GB/s"))[0] == 64


def test_nodes_that_are_wired_differently_are_refused(machine, save):
    message = refused(save(machine(), "n1"), save(machine(cell="SYS"), "n2"))
    assert "wired in different ways: n2: no NVLink; n1: NVLink between all GPUs" in message


def test_nodes_with_different_numbers_of_gpus_are_refused(machine, save):
    folders = [save(machine(), "n1"), save(machine(), "n2"), save(machine(count=7), "n3")]
    message = refused(*folders)
    assert "different numbers of h100-sxm-80gb: 8 in n[1-2], 7 in n3" in message
    assert "--without n3" in message
    assert ok(*folders, "--nodes", "n[1-2]")["clusters"][0]["num_nodes"] == 2


def test_two_kinds_are_a_choice_or_two_files(machine, save, tmp_path):
    folders = [save(machine(), "n1"), save(machine(), "n2"),
               save(machine(L40S, 4, "SYS", 0, 46068), "n3")]  # fmt: skip
    message = refused(*folders)
    assert "h100-sxm-80gb (2 nodes, 16 GPUs), l40s-48gb (1 node, 4 GPUs)" in message
    assert "--kind NAME" in message
    assert "-o DIR" in message
    document = ok(*folders, "--kind", "l40s-48gb")
    assert document["clusters"][0]["name"] == "1x4-l40s-48gb"
    assert {"node": "n1", "why": "its GPU is h100-sxm-80gb"} in document["left_out"]
    result = run(*folders, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "2x8-h100-sxm-80gb.yaml").is_file()
    assert (tmp_path / "1x4-l40s-48gb.yaml").is_file()
    assert [c["gpu"] for c in ok(*folders)["clusters"]] == ["h100-sxm-80gb", "l40s-48gb"]
    assert "--kind: no GPU is 'l4Os-48gb'; did you mean 'l40s-48gb'?" in refused(
        *folders, "--kind", "l4Os-48gb"
    )


def test_two_kinds_in_one_node_are_counted_apart(shapes, save):
    names = ["NVIDIA GeForce RTX 4090", L40S, "NVIDIA GeForce RTX 4090", L40S]
    topo = shapes["matrix"](4, "PHB")
    csv = shapes["cards"](*names).replace("4090, 81559", "4090, 24564").replace("81559", "46068")
    folder = save({"topo.txt": topo, "gpus.csv": csv})
    (cluster,) = ok(folder, "--kind", "rtx-4090-24gb")["clusters"]
    assert cluster["gpus_per_node"] == 2


def test_an_unknown_gpu_is_refused_with_near_ones_and_may_be_named(machine, save):
    folder = save(machine("NVIDIA H100 CNX", 2, "NV12", 0, 95830))
    message = refused(folder)
    assert (
        "gpus.csv: line 2: unknown GPU 'NVIDIA H100 CNX'; did you mean 'h100-nvl-94gb' or"
        in message
    )
    document = ok(folder, "--gpu", "NVIDIA H100 CNX=h100-pcie-80gb")
    assert "found 95830 MiB of memory, expected the 81920 MiB" in document["warnings"][0]
    assert "unknown GPU 'h10O'; did you mean" in refused(folder, "--gpu", "h10O")


def test_a_card_with_another_memory_is_refused(machine, save):
    message = refused(save(machine(memory=65536)))
    assert "found 65536 MiB of memory, expected the 81920 MiB of h100-sxm-80gb" in message


def test_more_nvlinks_than_the_gpu_has_are_refused(machine, save):
    folder = save(machine("NVIDIA A100-SXM4-80GB", 8, "NV18", 0, 81920))
    assert "found NV18, expected at most the 12 NVLinks of a100-sxm-80gb" in refused(folder)


def test_fewer_network_cards_than_gpus_are_said(machine, save):
    warnings = ok(save(machine(nics=4)), "--num-nodes", 2)["warnings"]
    assert any("4 network cards for 8 GPUs of node in" in text for text in warnings)


def test_the_two_commands_must_speak_of_the_same_gpus(machine, save):
    files = {"topo.txt": machine()["topo.txt"], "gpus.csv": machine(count=4)["gpus.csv"]}
    message = refused(save(files))
    assert "gpus.csv: line 2: 4 GPUs with the indices 0, 1, 2, 3, expected those of " in message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "the file is empty; expected the output of a command"),
        (" \n\n", "the file is empty"),
        (b"\x7fELF\x00\x01", "found binary data, expected the output of a command"),
        (b"\xff\xfe\x00", "found binary data"),
        (b"caf\xe9\n", "byte 3 is not UTF-8; expected the output of a command"),
        ("| NVIDIA-SMI 550.54   Driver Version: 550.54 |\n", "this is the table of nvidia-smi"),
        ("NAME   STATUS   ROLES   AGE\n", "this is a table of kubectl"),
        ("apiVersion: v1\nitems:\n", "this is YAML of Kubernetes"),
        ("PARTITION AVAIL  TIMELIMIT\n", "this is a table of sinfo"),
        ("hello world\n", "line 1: found 'hello world', expected the output of nvidia-smi topo -m"),
        ("{", "not valid JSON"),
        ("SwitchName=s Nodes=n1\n", "a topology.conf alone, expected scontrol show node too"),
    ],
)
def test_other_files_are_refused_by_name(save, text, found):
    file = save({"saved.txt": text}) / "saved.txt"
    message = refused(file)
    assert message.startswith(f"error: {file}: ")
    assert found in message


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "none.txt")
    (tmp_path / "empty").mkdir()
    assert "no file in the folder" in refused(tmp_path / "empty")


def test_a_file_that_cannot_be_written_is_refused_before_the_work(hgx, tmp_path):
    assert "create it first" in refused(hgx, "-o", tmp_path / "no" / "x.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fabric-bandwidth", "50"], "expected a rate with its unit, such as"),
        (["--fabric-bandwidth", "fast"], "--fabric-bandwidth: found 'fast', expected a rate"),
        (["--node-bandwidth", "0 GB/s"], "--node-bandwidth: found '0 GB/s', expected"),
        (["--domain-gpus", "12"], "--domain-gpus, --num-nodes: "),
        (["--name", "no spaces"], "--name: "),
        (["--nodes", "hgx9"], "--nodes: found 'hgx9', expected nodes that the input lists; did"),
        (["--without", "hgx1"], "no node with GPUs is left, expected one (hgx1: --without)"),
    ],
)
def test_options_that_make_no_sense_are_refused(hgx, options, message):
    assert message in refused(hgx, *options)


@pytest.fixture
def own_catalogue(save):
    """A catalogue with a GPU that no cluster has, and a document that is not whole."""
    gpu = "schema: 1\nkind: gpu\nname: own\npeak_flops_per_s: 400 TFLOPS\nmemory_bytes: 64 GiB\n"
    broken = "schema: 1\nkind: gpu\nname: broken\n"
    return save({"gpus/own.yaml": gpu, "gpus/broken.yaml": broken}, "catalogue")


def test_what_no_cluster_of_the_catalogue_has_is_to_be_stated(machine, save, own_catalogue):
    folder = save(machine("Own GPU", 4, "SYS", 0, 65536))
    asked = [folder, "--catalog", own_catalogue, "--gpu", "own"]
    for level in ("node", "fabric"):
        assert f"state it by --{level}-bandwidth RATE" in refused(*asked)
        asked += [f"--{level}-bandwidth", "64 GB/s"]
    assert bandwidths(ok(*asked)) == [64, 64, 64]


def test_clusters_of_ones_own_catalogue_are_assumed_too(machine, save, own_catalogue):
    link = "{bandwidth_bytes_per_s: 90 GB/s, latency_us: 1 us}"
    spec = (
        "schema: 1\nkind: cluster\nname: mine\ngpu: own\nnum_nodes: 2\ngpus_per_node: 4\n"
        f"links: {{node: {link}, domain: {link}, fabric: {link}}}\n"
    )
    based = (
        "schema: 1\nkind: cluster\nname: more\nbase: mine\nlinks: {fabric: {latency_us: 9 us}}\n"
    )
    save({"clusters/mine.yaml": spec, "clusters/more.yaml": based}, "catalogue")
    folder = save({"gpus.csv": machine("own", 4, "SYS", 0, 65536)["gpus.csv"]})
    document = ok(folder, "--catalog", own_catalogue)
    assert bandwidths(document) == [90, 90, 90]
    assert why(document, "links.node.bandwidth_bytes_per_s")[1].startswith("as in mine of the")


@pytest.mark.parametrize(
    "name", ["a\nkind: gpu", "# b", "\U0001f600", "c: d", "\x7f\x85", "e" * 200, "é"]
)
def test_names_of_folders_cannot_break_the_file(machine, save, tmp_path, name):
    file = tmp_path / "mine.yaml"
    assert run(save(machine(), name), "-o", file).exit_code == 0
    parts = {"llm": "llama-3.1-8b", "cluster": str(file), "workload": "chat-4k-1k"}
    assert load_scenario(parts=parts).cluster.num_gpus == 8


def test_a_hundred_nodes_are_named_in_few_lines(machine, save):
    folder = save({f"n{i}/{name}": text for i in range(100) for name, text in machine().items()})
    (cluster,) = ok(folder)["clusters"]
    assert cluster["num_nodes"] == 100
    assert cluster["description"] == "100 nodes of 8 h100-sxm-80gb: n[0-99]."
    assert [source.partition(", and ")[2] for source in cluster["sources"]] == [
        "96 other files"
    ] * 2


@pytest.mark.parametrize("label", GOOGLE)
def test_accelerators_of_gke_are_known_without_a_doubt(shapes, save, label):
    """The label of nodes on which no GPU feature discovery runs."""
    labels = {"cloud.google.com/gke-accelerator": label}
    nodes = [shapes["node"](f"gke-{i}", 4, None, labels=labels) for i in (1, 2)]
    folder = save({"nodes.json": shapes["kubectl"](*nodes)})
    document = ok(folder / "nodes.json")
    assert document["clusters"][0]["gpu"] == GOOGLE[label]
    assert not any("it may be" in warning for warning in document["warnings"])
    assert label in why(document, "gpu")[1]


def test_an_accelerator_of_gke_that_is_not_in_the_catalogue_is_refused_and_may_be_named(
    shapes, save
):
    labels = {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}
    folder = save({"n.json": shapes["kubectl"](shapes["node"]("g", 4, None, labels=labels))})
    assert "unknown GPU 'nvidia-tesla-t4'" in refused(folder / "n.json")
    document = ok(folder / "n.json", "--gpu", "nvidia-tesla-t4=l4-24gb")
    assert document["clusters"][0]["gpu"] == "l4-24gb"


def test_what_the_user_says_of_an_accelerator_of_gke_goes_before_the_table(shapes, save):
    labels = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    folder = save({"n.json": shapes["kubectl"](shapes["node"]("g", 4, None, labels=labels))})
    document = ok(folder / "n.json", "--gpu", "h100-pcie-80gb")
    assert document["clusters"][0]["gpu"] == "h100-pcie-80gb"


def test_a_run_without_ranks_says_that_its_hosts_are_not_in_the_file(shapes, save, machine):
    folder = save(machine())
    save({"ar.txt": shapes["nccl"]({"n1": 8}, 480.0, ranks=False)}, folder="runs")
    result = ok(folder, "--bandwidth", f"node={folder.parent / 'runs' / 'ar.txt'}")
    how, text = why(result, "links.node.bandwidth_bytes_per_s")
    assert how == "measured"
    assert "on hosts that the file does not name" in text
    assert "1 host" not in text


def test_a_node_of_two_kinds_is_left_out_once(shapes, save):
    text = shapes["scontrol"]("n1") + shapes["scontrol"](
        "n2", gres="gpu:h100:4,gpu:l40s:4", state="DOWN"
    )
    result = run(save({"nodes.txt": text}) / "nodes.txt")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("# left out: n2: ") == 1
    assert result.stderr.count("left out: n2: ") == 1


@pytest.mark.parametrize(
    ("name", "count", "cell", "memory", "gpu", "rate"),
    [
        ("NVIDIA H100 NVL", 2, "NV12", 95830, "h100-nvl-94gb", 300),  # a pair with its bridge
        ("NVIDIA H100 NVL", 8, "NODE", 95830, "h100-nvl-94gb", 64),
        ("NVIDIA GH200 480GB", 4, "NV6", 97871, "gh200-96gb", 450),
        ("Tesla V100-SXM2-32GB", 4, "NV2", 32768, "v100-sxm-32gb", 150),
        ("Tesla V100-SXM2-16GB", 8, "SYS", 16384, "v100-sxm-16gb", 16),
    ],
)
def test_cards_that_are_not_in_hgx_nodes(machine, save, name, count, cell, memory, gpu, rate):
    """Hand-worked: 12, 18 and 6 links of 25 GB/s; PCIe 5.0 and 3.0 x16."""
    document = ok(save(machine(name, count, cell, 0, memory)))
    assert document["clusters"][0]["gpu"] == gpu
    assert bandwidths(document)[0] == rate


# NVLinks between GPUs of DGX-1 with V100: two fours, each GPU of one with its like of the other.
CUBE = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2,
    (2, 6): 1, (3, 7): 1, (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip


def cube(machine, save, **broken):
    cells = {pair: f"NV{number}" for pair, number in CUBE.items()} | broken.get("cells", {})
    return save(machine("Tesla V100-SXM2-32GB", 8, "SYS", 0, 32768, cells=cells), "n1")


def test_the_hybrid_cube_mesh_of_dgx_1_is_taken_with_all_links_and_that_is_said(machine, save):
    """6 links of 25 GB/s, as in 1x8-v100-32gb of the catalogue."""
    document = ok(cube(machine, save))
    assert bandwidths(document)[0] == 150
    (warning,) = [text for text in document["warnings"] if "hybrid cube mesh" in text]
    assert "NVLink from each GPU to 4 others" in warning
    assert "all-to-all gets less" in warning


def test_a_cube_mesh_that_lacks_links_is_refused_without_naming_all_gpus(machine, save):
    thin = dict.fromkeys(CUBE, "NV1")
    message = refused(cube(machine, save, cells=thin))
    assert "is not whole: each GPU reaches 4 of the 7 others over it, with 4 links;" in message
    assert "; state the bandwidth that you plan with by --node-bandwidth" in message
    assert "--without" not in message
    lost = refused(cube(machine, save, cells={(0, 4): "SYS"}))
    assert "GPU0, GPU4 reach fewer GPUs over it than the others; state" in lost
