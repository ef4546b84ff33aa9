"""`scontrol show node` and topology.conf."""

import re

import pytest

from autopar.errors import SpecError
from autopar.ingest.cluster.slurm import read_network, read_nodes

TREE = """\
# Two leaves below one spine.
SwitchName=leaf1 Nodes=node[001-004]
SwitchName=leaf2 \\
    Nodes=node[005-008]   # the second rack
SwitchName=spine Switches=leaf[1-2]
"""


def one(shapes, output, *args, **more):
    nodes, _ = read_nodes(output(shapes["scontrol"]("node001", *args, **more)))
    return nodes


@pytest.mark.parametrize("one_line", [False, True])
def test_both_forms_of_scontrol_are_read(shapes, output, one_line):
    text = "".join(shapes["scontrol"](f"node00{i}", one_line=one_line) for i in (1, 2))
    nodes, idle = read_nodes(output(text))
    assert [(n.name, n.gpu, n.num_gpus, n.down) for n in nodes] == [
        ("node001", "h100", 8, None),
        ("node002", "h100", 8, None),
    ]
    assert idle == 0


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:h100:8", [("h100", 8)]),
        ("gpu:8", [(None, 8)]),
        ("gpu", [(None, 1)]),
        ("gpu:8(S:0-1)", [(None, 8)]),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0,1)", [("nvidia_h100_80gb_hbm3", 8)]),
        ("nvme:1,gpu:h200:8(S:0-1),shard:h200:64(0/8,1/8)", [("h200", 8)]),
        ("gpu:a100:4(S:0),gpu:l40s:2(S:1)", [("a100", 4), ("l40s", 2)]),
        ("gpu:a100:4,gpu:a100:4", [("a100", 8)]),
        ("gpu:(null):8", [(None, 8)]),
        ("gpu:(null):8(S:0-1)", [(None, 8)]),
        ("gpu:h100:no_consume:8", [("h100", 8)]),
        ("gpu:h100:no_consume:8(S:0-1)", [("h100", 8)]),
        ("gpu:no_consume:8", [(None, 8)]),
        ("(null)", []),
        ("gpu:0", []),
    ],
)
def test_gres_gives_type_and_number(shapes, output, gres, expected):
    assert [(n.gpu, n.num_gpus) for n in one(shapes, output, gres)] == expected


def test_slices_are_noticed(shapes, output):
    (node,) = one(shapes, output, "gpu:a100_1g.10gb:56")
    assert node.parts == "MIG slices"


@pytest.mark.parametrize(
    "state",
    ["DOWN", "DOWN*", "IDLE+DRAIN", "MIXED+DRAIN", "DRAINED", "FAIL", "IDLE*", "FUTURE",
     "IDLE+NOT_RESPONDING", "DOWN+DRAIN+INVALID_REG", "IDLE+MAINT", "UNKNOWN"],
)  # fmt: skip
def test_nodes_that_take_no_jobs_are_down(shapes, output, state):
    (node,) = one(shapes, output, state=state)
    assert node.down == f"State={state}"


@pytest.mark.parametrize("state", ["IDLE", "MIXED", "ALLOCATED", "IDLE+CLOUD", "MIXED+PLANNED"])
def test_nodes_at_work_are_up(shapes, output, state):
    (node,) = one(shapes, output, state=state)
    assert node.down is None


def test_lines_of_slurm_conf_name_many_nodes(output):
    text = "NodeName=node[001-003] Gres=gpu:h100:8 CPUs=224 State=UNKNOWN\n"
    nodes, _ = read_nodes(output(text))
    assert [n.name for n in nodes] == ["node001", "node002", "node003"]


@pytest.mark.parametrize(
    ("state", "down"),
    [("UNKNOWN", None), ("unknown", None), ("CLOUD", None), ("DOWN", "State=DOWN"),
     ("FUTURE", "State=FUTURE"), ("DRAIN", "State=DRAIN")],
)  # fmt: skip
@pytest.mark.parametrize("end", [" NodeHostName=h[1-4] ", " \\\n    CPUs=224 "])
def test_states_of_slurm_conf_are_those_at_the_start(output, state, down, end):
    """UNKNOWN is the default there: the state that slurmd will report."""
    text = f"NodeName=n[1-4] Gres=gpu:h100:8{end}State={state}\n"
    nodes, _ = read_nodes(output(text))
    assert [n.down for n in nodes] == [down] * 4


@pytest.mark.parametrize("one_line", [False, True])
def test_a_node_that_never_came_up_is_down(shapes, output, one_line):
    """Scontrol prints no Arch= and no OS= of it."""
    text = shapes["scontrol"]("n1", state="UNKNOWN", one_line=one_line)
    text = re.sub(r"Arch=\S+ |OS=.*?(?=\s+RealMemory)", "", text)
    (node,) = read_nodes(output(text))[0]
    assert node.down == "State=UNKNOWN"


def test_lines_that_were_picked_from_scontrol_are_told_too(shapes, output):
    lines = shapes["scontrol"]("n1", state="UNKNOWN").replace("Arch=x86_64 ", "").splitlines()
    picked = [line for line in lines if re.match(r"NodeName|\s+(?:Gres|State)=", line)]
    (node,) = read_nodes(output("\n".join(picked)))[0]
    assert node.down == "State=UNKNOWN"


def test_a_node_of_slurm_conf_without_gres_has_no_gpus(output):
    text = "NodeName=login1 CPUs=64 State=UNKNOWN\nNodeName=n1 Gres=gpu:8 State=UNKNOWN\n"
    nodes, idle = read_nodes(output(text))
    assert ([n.name for n in nodes], idle) == (["n1"], 1)


@pytest.mark.parametrize(
    "line",
    ["PartitionName=main Nodes=ALL State=DOWN", "PartitionName=main \\\n    State=DOWN",
     "NodeSet=fast Feature=h100\nPartitionName=p State=INACTIVE"],
)  # fmt: skip
def test_states_of_partitions_are_not_those_of_nodes(output, line):
    text = f"NodeName=n1 Gres=gpu:h100:8\n{line}\nNodeName=n2 Gres=gpu:h100:8\n"
    nodes, _ = read_nodes(output(text))
    assert [(n.name, n.down) for n in nodes] == [("n1", None), ("n2", None)]


def test_lists_of_nodes_that_are_down_are_left_to_scontrol(output):
    text = "NodeName=n[1-2] Gres=gpu:h100:8\nDownNodes=n2 State=DOWN\n"
    with pytest.raises(SpecError, match="line 2: found 'DownNodes=n2 State=DOWN', expected"):
        read_nodes(output(text))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tres": ",gres/gpu=7"}, "line 1: found 'Gres=gpu:h100:8(S:0-1) and gres/gpu=7 in CfgTR"),
        ({"used": "gpu:h100:9(IDX:0-8)"}, "expected no more GPUs in use than Gres="),
        ({"used": "gpu:(null):9(IDX:0-8)"}, "expected no more GPUs in use than Gres="),
        (
            {"gres": "(null)", "tres": ",gres/gpu=2"},
            "found 'Gres=(null) and gres/gpu=2 in CfgTRES'",
        ),
        ({"gres": "gpu:h100:eight"}, "found 'Gres=gpu:h100:eight', expected gpu:8 or gpu:h100:8"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(shapes, output, more, message):
    with pytest.raises(SpecError, match=r"^saved\.txt: line 1: ") as error:
        one(shapes, output, **more)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NodeName=a\n", "line 1: found 'NodeName=a', expected fields such as Gres="),
        ("NodeName=a Arch=x86\n  State=IDLE\n", "line 1: found 'node a without Gres=', expected"),
        ("NodeName=a[1 Gres=gpu:8\n", "line 1: NodeName: found 'a[1', expected a ]"),
        ("NodeName=DEFAULT Gres=gpu:8\n", "line 1: found 'NodeName=DEFAULT', expected"),
        ("NodeName=a Gres=gpu:8 NodeName=b Gres=gpu:8\n", "line 1: found 'two NodeNames"),
        ("NodeName=a Gres=gpu:8\n\nNodeName=a Gres=gpu:8\n", "line 3: found 'node a again'"),
        ("nothing\n", "found no NodeName=, expected scontrol show node"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(output, text, message):
    with pytest.raises(SpecError, match=r"^saved\.txt: ") as error:
        read_nodes(output(text))
    assert message in str(error.value)


def test_a_node_in_use_is_read_as_it_is(shapes, output):
    (node,) = one(shapes, output, tres=",gres/gpu=8,gres/gpu:h100=8", used="gpu:h100:6(IDX:0-5)")
    assert node.num_gpus == 8


@pytest.mark.parametrize("used", ["gpu:(null):0(IDX:N/A)", "gpu:(null):3(IDX:0-2)"])
def test_details_of_gpus_without_a_type_are_read(shapes, output, used):
    """What scontrol -d prints."""
    (node,) = one(shapes, output, "gpu:8", used=used)
    assert (node.gpu, node.num_gpus) == (None, 8)


def test_a_tree_gives_each_node_its_leaf(output):
    network = read_network(output(TREE))
    assert network.leaves["node004"] == "leaf1"
    assert network.leaves["node005"] == "leaf2"
    assert not network.blocks


def test_blocks_give_each_node_its_block(output):
    text = "BlockName=b1 Nodes=t[01-18]\r\nBlockName=b2 Nodes=t[19-36]\r\nBlockSizes=18\r\n"
    network = read_network(output(text))
    assert (network.blocks["t18"], network.blocks["t19"]) == ("b1", "b2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TREE.replace("leaf[1-2]", "leaf[1-3]"), "line 5: found 'switch leaf3', expected one with"),
        (TREE.replace("005-008", "004-008"), "line 3: found \"node 'node004' in leaf2\", expected"),
        (TREE.replace("Nodes", "Node"), "line 2: found 'Node=node[001-004]', expected"),
        ("SwitchName=a Nodes=\n", "line 1: found 'Nodes=', expected"),
        ("SwitchName=a Nodes=n[1-\n", "line 1: Nodes: found 'n[1-', expected a ]"),
        ("SwitchName=a Switches=b\nSwitchName=b\n", "found no line with Nodes="),
        ("# nothing\n", "found no line with Nodes="),
    ],
)
def test_a_wrong_topology_is_refused_with_its_line(output, text, message):
    with pytest.raises(SpecError, match=r"^saved\.txt: ") as error:
        read_network(output(text))
    assert message in str(error.value)
