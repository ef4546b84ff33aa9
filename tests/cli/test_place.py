"""`autopar place` as a user runs it: streams, documents, files of engines, wrong input."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from autopar.cli import main, place
from autopar.documents import parse
from autopar.placement.files.engines import TARGETS, read_map
from autopar.placement.machine import Machine, gpu_loads
from autopar.placement.synthetic import clustered_routing, made_up, windows

LOADS = np.round(made_up("lognormal", 3, 8, 6)).astype(int)
GPUS = ("--gpus", "4", "--slots", "12", "--effort", "quick")
MODEL = """
name: small
num_layers: 4
num_experts: 8
experts_per_token: 2
num_parameters: 568832
architecture:
  hidden_size: 64
  vocab_size: 128
  attention: {full: {kind: gqa, num_heads: 4, num_kv_heads: 4, head_dim: 16}}
  feed_forward:
    dense: {kind: dense, ffn_size: 128}
    experts: {kind: moe, num_experts: 8, experts_per_token: 2, expert_size: 100}
  layers:
    - {count: 1, layers: [{attention: full, feed_forward: dense}]}
    - {count: 3, layers: [{attention: full, feed_forward: experts}]}
"""


def run(*args, stdin=None):
    return CliRunner().invoke(main, ["place", *(str(a) for a in args)], input=stdin)


@pytest.fixture
def loads(tmp_path):
    file = tmp_path / "loads.json"
    file.write_text(json.dumps(LOADS.tolist()))
    return file


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(MODEL)
    return file


def document_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_run_prints_the_answer_and_nothing_else(loads):
    result = run(loads, *GPUS)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "3 layers of 8 experts on 12 slots of 4 GPUs" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert not any(line != line.rstrip() for line in result.stdout.splitlines())


def test_json_is_one_document_whose_figures_follow_from_its_map(loads, tmp_path):
    file = tmp_path / "answer.json"
    result = run(loads, *GPUS, "--json", "-o", file)
    document = document_of(result)
    assert (
        json.loads(file.read_text())["physical_to_logical_map"]
        == (document["physical_to_logical_map"])
    )
    slots = np.array(document["physical_to_logical_map"])
    assert slots.shape == (3, 12)
    assert (document["schema"], document["kind"]) == (1, "expert_placement")
    reached, means = [], []
    for row, load, held in zip(document["layers"], LOADS, slots, strict=True):
        gpus = held.reshape(4, 3).tolist()
        counts = np.bincount(held, minlength=8)
        work = [sum(load[e] / counts[e] for e in gpu) for gpu in gpus]
        assert all(len(set(gpu)) == 3 for gpu in gpus)
        assert row["replicas"] == counts.tolist()
        assert row["max_over_mean"] == pytest.approx(max(work) / np.mean(work))
        assert 1 - 1e-9 <= row["bound"] <= row["max_over_mean"] + 1e-12
        assert row["gap"] == pytest.approx(row["max_over_mean"] / row["bound"] - 1)
        reached.append(max(work))
        means.append(np.mean(work))
    assert document["max_over_mean"] == pytest.approx(sum(reached) / sum(means))
    assert document["gap"] == pytest.approx(document["max_over_mean"] / document["bound"] - 1)


def test_the_answer_is_written_as_yaml_too_and_read_as_the_placement_now(loads, tmp_path):
    file = tmp_path / "answer.yaml"
    document = document_of(run(loads, *GPUS, "--json", "-o", file))
    assert parse(file.read_text(), "answer.yaml")["notes"] == document["notes"]
    again = document_of(run(loads, *GPUS, "--json", "--current", file, "--max-moves", 0))
    assert again["physical_to_logical_map"] == document["physical_to_logical_map"]


def test_the_same_input_and_seed_give_the_same_placement(loads):
    one, two, other = (
        document_of(run(loads, *GPUS, "--json", "--seed", seed)) for seed in (1, 1, 2)
    )
    for document in (one, two, other):
        document["solver"].pop("wall_s")
    assert one == two
    assert other["solver"]["seed"] == 2


def test_loads_come_from_standard_input_as_json_or_csv():
    text = "\n".join(",".join(map(str, row)) for row in LOADS.tolist())
    csv, js = (
        document_of(run("-", *GPUS, "--json", stdin=stdin))
        for stdin in (text, json.dumps(LOADS.tolist()))
    )
    assert csv["physical_to_logical_map"] == js["physical_to_logical_map"]


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ((), 8),
        (("--slots", 16), 16),
        (("--slots-per-gpu", 3), 12),
        (("--redundant", 4), 12),
        (("--redundant", 0), 8),
    ],
)
def test_slots_are_stated_in_three_ways_or_are_the_fewest(loads, options, slots):
    result = run(loads, "--gpus", 4, *options, "--effort", "quick", "--json")
    assert document_of(result)["num_slots"] == slots


@pytest.mark.parametrize("engine", ["document", "sglang.json", "balancer.yaml", "standard input"])
def test_a_placement_is_changed_with_few_moves(loads, tmp_path, engine):
    """The placement now is that for other loads, in a document of ours or an engine's file."""
    old = tmp_path / "old.json"
    old.write_text(json.dumps(LOADS[:, ::-1].tolist()))
    files = {"document": tmp_path / "now.json", "sglang.json": tmp_path / "sglang.json",
             "balancer.yaml": tmp_path / "balancer.yaml"}  # fmt: skip
    assert run(old, *GPUS, "-o", files["document"], "--export", f"sglang={files['sglang.json']}",
               "--export", f"tensorrt-llm={files['balancer.yaml']}").exit_code == 0  # fmt: skip
    piped = engine == "standard input"
    now = "-" if piped else files[engine]
    stdin = files["balancer.yaml"].read_text() if piped else None
    result = run(loads, *GPUS, "--json", "--current", now, "--max-moves", 5, stdin=stdin)
    document = document_of(result)
    before = read_map(str(files["document"])).slots
    after = np.array(document["physical_to_logical_map"])
    moves = sum(
        len(set(new) - set(had))
        for new, had in zip(
            after.reshape(-1, 3).tolist(), before.reshape(-1, 3).tolist(), strict=True
        )
    )
    assert document["moves"]["replicas"] == moves
    assert 1 <= moves <= document["moves"]["limit"] == 5
    was = gpu_loads(LOADS.astype(float), before, Machine(4, 3)).max(axis=1)
    means = LOADS.sum(axis=1) / 4
    assert document["max_over_mean_before"] == pytest.approx(was.sum() / means.sum())
    assert document["max_over_mean"] < document["max_over_mean_before"]


@pytest.mark.parametrize(("share", "limit"), [("29%", 29), ("10%", 10), ("0%", 0), ("100%", 100)])
def test_moves_may_be_a_share_of_all_slots(tmp_path, share, limit):
    file = tmp_path / "loads.json"
    file.write_text(json.dumps(np.ones((10, 5)).tolist()))
    now = tmp_path / "now.json"
    now.write_text(json.dumps([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]] * 10))
    result = run(file, "--gpus", 5, "--slots", 10, "--json", "--current", now, "--max-moves", share)
    assert document_of(result)["moves"]["limit"] == limit


def test_windows_are_held_out_by_default_and_on_demand(tmp_path):
    counts = windows(LOADS.astype(float), 8, 1000, 0.2, 0)
    file = tmp_path / "loads.npy"
    np.save(file, counts)
    for options, held in (((), 2), (("--hold-out", 5), 5), (("--hold-out", 0), None)):
        document = document_of(run(file, *GPUS, "--json", *options))
        found = document["windows"]["held_out"]
        assert (found and found["num_windows"]) == held
        assert document["windows"]["planned_on"]["num_windows"] == 8 - (held or 0)
    refused = run(file, *GPUS, "--hold-out", 8)
    assert refused.exit_code == 2
    assert "8 of 8 windows held out" in refused.stderr


def test_balance_is_traded_for_fewer_nodes_per_token(tmp_path):
    routing = np.array([clustered_routing(800, 8, 2, 2, seed) for seed in range(3)])
    file = tmp_path / "loads.npz"
    counts = [np.bincount(row.ravel(), minlength=8) for row in routing]
    np.savez(file, loads=np.array(counts), routing=routing)
    plain, traded = (
        document_of(run(file, *GPUS, "--nodes", 2, "--json", *options))
        for options in ((), ("--balance-tolerance", "10%"))
    )
    for one, other in zip(plain["layers"], traded["layers"], strict=True):
        assert other["max_over_mean"] <= one["max_over_mean"] * 1.1 + 1e-9
    nodes = [
        sum(row["nodes_per_token"] for row in document["layers"]) for document in (plain, traded)
    ]
    assert nodes[1] < nodes[0]


def test_rules_and_speeds_reach_the_answer(loads):
    options = ("--nodes", 2, "--distinct-nodes", "--forbid", "0,1", "--forbid", "2,3")
    document = document_of(run(loads, *GPUS, *options, "--json"))
    for row in document["physical_to_logical_map"]:
        gpus = [set(row[3 * g : 3 * g + 3]) for g in range(4)]
        assert not any({0, 1} <= held or {2, 3} <= held for held in gpus)
        assert len(gpus[0] | gpus[1]) == len(gpus[2] | gpus[3]) == 6
    grouped = document_of(run(loads, *GPUS, "--nodes", 2, "--groups", 4, "--json"))
    for row in grouped["physical_to_logical_map"]:
        assert len({e // 2 for e in row[:6]}) == len({e // 2 for e in row[6:]}) == 2
    fast = document_of(run(loads, *GPUS, "--speeds", "3x1,1x0.25", "--json"))
    slots = np.array(fast["physical_to_logical_map"])
    work = gpu_loads(LOADS.astype(float), slots, Machine(4, 3))
    assert (work[:, 3] < work[:, :3].min(axis=1)).all()


def test_rules_that_no_placement_keeps_exit_with_3(tmp_path):
    result = run("-", "--gpus", 2, "--forbid", "0,1", "--forbid", "0,2", "--forbid", "1,2",
                 stdin="[[1, 1, 1, 1]]")  # fmt: skip
    assert result.exit_code == 3
    assert "no placement keeps the rules" in result.stderr


@pytest.mark.parametrize("with_model", [False, True])
def test_every_engine_gets_its_file(loads, model, tmp_path, with_model):
    endings = {"tensorrt-llm": "yaml"}
    files = {t: tmp_path / f"{t}.{endings.get(t, 'json')}" for t in TARGETS}
    exports = [part for t, file in files.items() for part in ("--export", f"{t}={file}")]
    known = ("--model", model) if with_model else ()
    options = ("--gpus", 4, "--effort", "quick", *known, *exports)
    document = document_of(run(loads, *options, "--json"))
    slots = document["physical_to_logical_map"]
    numbers = [1, 2, 3] if with_model else [0, 1, 2]
    assert [row["layer"] for row in document["layers"]] == numbers
    for target, file in files.items():
        found = read_map(str(file), target)
        rows = found.slots.tolist()
        if target == "sglang":
            assert len(rows) == numbers[-1] + 1
            rows = [rows[number] for number in numbers]
        assert rows == slots
    assert (document["memory"] is None) != with_model


def test_layers_that_do_not_begin_at_0_are_exported_without_a_model(tmp_path):
    result = run("-", *GPUS, "--dense-layers", "0-1", "--export", f"sglang={tmp_path}/map.json",
                 "--json", stdin=json.dumps([[0] * 8, [0] * 8, *LOADS.tolist()]))  # fmt: skip
    document = document_of(result)
    rows = json.loads((tmp_path / "map.json").read_text())["physical_to_logical_map"]
    assert rows[2:] == document["physical_to_logical_map"]
    assert len(rows) == 5


def test_a_model_knows_its_dense_layers_and_the_bytes_of_an_expert(model):
    """Three matrices of 64 x 100 in 2 bytes; three slots in three layers on a GPU."""
    text = json.dumps([[0] * 8, *LOADS.tolist()])
    document = document_of(run("-", *GPUS, "--model", model, "--json", stdin=text))
    assert [row["layer"] for row in document["layers"]] == [1, 2, 3]
    assert document["memory"]["slot_bytes"] == 3 * 64 * 100 * 2
    assert document["memory"]["expert_weights_bytes_per_gpu"] == 9 * 38400
    given = document_of(
        run("-", *GPUS, "--model", model, "--slot-bytes", "44MB", "--json", stdin=text)
    )
    assert given["memory"]["slot_bytes"] == 44e6


ONES = "[[1, 1, 1, 1], [1, 1, 1, 1]]"


@pytest.mark.parametrize(
    ("stdin", "options", "said"),
    [
        (ONES, (), "missing option --gpus"),
        (ONES, ("--gpus", 2, "--slots", 8, "--redundant", 4), "found --slots and --redundant"),
        (ONES, ("--gpus", 3, "--slots", 8), "--slots: 8 slots on 3 GPUs, .* such as 6 or 9"),
        (ONES, ("--gpus", 3, "--redundant", 1), "--redundant: 5 slots on 3 GPUs, .* such as 6"),
        (ONES, ("--gpus", 2, "--slots", 2), "2 slots for 4 experts; expected at least 4"),
        (ONES, ("--gpus", 2, "--slots-per-gpu", 5), "a GPU would hold one twice"),
        (ONES, ("--gpus", 4, "--nodes", 3), "4 GPUs on 3 nodes"),
        (ONES, ("--gpus", 2, "--forbid", "1"), "--forbid: found '1', expected two experts"),
        (ONES, ("--gpus", 2, "--forbid", "1,1"), "forbidden pair 1,1"),
        (ONES, ("--gpus", 2, "--forbid", "1,9"), "forbidden pair 1,9"),
        (ONES, ("--gpus", 2, "--speeds", "fast"), "--speeds: found 'fast'"),
        (ONES, ("--gpus", 2, "--speeds", "1,0"), "--speeds: found '0', expected a speed above"),
        (ONES, ("--gpus", 2, "--speeds", "3x1"), "found 3 speeds for 2 GPUs"),
        (ONES, ("--gpus", 2, "--slot-bytes", "much"), "--slot-bytes: found 'much'"),
        (ONES, ("--gpus", 2, "--slot-bytes", "0B"), "--slot-bytes: found '0B', expected more"),
        (ONES, ("--gpus", 2, "--dense-layers", "x"), "--dense-layers: found 'x'"),
        (ONES, ("--gpus", 2, "--dense-layers", "1-0"), "--dense-layers: found '1-0'"),
        (ONES, ("--gpus", 2, "--dense-layers", "2"), "the loads have no layer 2"),
        (ONES, ("--gpus", 2, "--dense-layers", "0-1"), "no layer is left"),
        (ONES, ("--gpus", 2, "--max-moves", 3), "a limit on moves needs the current placement"),
        (ONES, ("--gpus", 2, "--balance-tolerance", "2"), "--balance-tolerance: found '2'"),
        (ONES, ("--gpus", 2, "--balance-tolerance", "1%"), "needs routing or coactivation"),
        (ONES, ("--gpus", 2, "--current", "-"), "LOADS and --current are both -"),
        (ONES, ("--gpus", 2, "--current", "none.json"), "none.json: no such file"),
        (ONES, ("--gpus", 2, "--export", "sglang"), "expected ENGINE=FILE"),
        (ONES, ("--gpus", 2, "--export", "sglan=a.json"), "did you mean 'sglang'"),
        (ONES, ("--gpus", 2, "--export", "sglang=a.pt"), r"expected \*.json"),
        (ONES, ("--gpus", 2, "--export", "tensorrt-llm=a.json"), r"expected \*.yaml"),
        (ONES, ("--gpus", 2, "--export", "vllm=none/a.json"), "is not a directory"),
        (ONES, ("--gpus", 2, "--groups", 3), "3 groups: expected as many experts"),
        (ONES, ("--gpus", 2, "--model", "llama-3.1-8b"), "is dense: it has no experts"),
        (ONES, ("--gpus", 2, "--model", "mixtral-8x7b"), "loads are of 4 experts per layer"),
        (
            json.dumps(LOADS.tolist()),
            ("--gpus", 2, "--model", "mixtral-8x7b"),
            "the loads are of 3 layers, but llm 'mixtral-8x7b' has 32 layers",
        ),
        ("[[0, 0], [0, 0]]", ("--gpus", 2), "all loads are 0; expected counts"),
        ("[[1, 1], [0, 0]]", ("--gpus", 2), "layer 1: all loads are 0; .* --dense-layers 1"),
        ("[[1, -1]]", ("--gpus", 2), "standard input: loads: layer 0, expert 1: found -1"),
        ("[[1, 1], [1]]", ("--gpus", 2), r"standard input: loads\[1\]"),
        ("", ("--gpus", 2), "standard input: the file is empty"),
        ('{"load": [[1]]}', ("--gpus", 1), "load: unknown field; did you mean 'loads'"),
    ],
)
def test_wrong_input_exits_with_2_and_says_where(stdin, options, said):
    result = run("-", *options, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    text = " ".join(result.stderr.split())
    assert re.search(said, text), text


def test_a_model_with_loads_in_a_dense_layer_or_of_another_layer_is_refused(model):
    wrong = run("-", *GPUS, "--model", model, stdin=json.dumps([[1] * 8] * 4))
    assert wrong.exit_code == 2
    assert "layer 0 has loads, but is dense in llm 'small'" in wrong.stderr
    named = json.dumps({"loads": LOADS.tolist(), "layers": [1, 2, 9]})
    strange = run("-", *GPUS, "--model", model, stdin=named)
    assert strange.exit_code == 2
    assert "the loads are of layer 9" in " ".join(strange.stderr.split())
    some = json.dumps({"loads": LOADS[:2].tolist(), "layers": [3, 1]})
    document = document_of(run("-", *GPUS, "--model", model, "--json", stdin=some))
    assert [row["layer"] for row in document["layers"]] == [3, 1]


def test_the_engines_of_help_are_those_that_there_are():
    """They are written out in the command line, which may not import numpy to start."""
    assert place._TARGETS == TARGETS


def test_help_imports_no_numpy():
    code = (
        "import sys; from autopar.cli import main\n"
        "try: main(['place', '--help'], prog_name='autopar')\nexcept SystemExit: pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max-moves" in done.stdout
    assert not {"numpy", "ortools", "pydantic", "yaml", "rich"} & set(done.stderr.split())


def test_a_map_that_counts_layers_with_experts_alone_is_the_placement_now(tmp_path):
    """vllm-ascend numbers rows from 0, also where the first layers of the model are dense."""
    loads = tmp_path / "loads.json"
    loads.write_text(json.dumps({"loads": [[5, 3, 2, 1], [1, 4, 2, 2]], "layers": [3, 4]}))
    file = tmp_path / "map.json"
    run(loads, "--gpus", "2", "--export", f"vllm-ascend={file}", "--json")
    again = json.loads(run(loads, "--gpus", "2", "--current", file, "--json").stdout)
    assert again["moves"]["replicas"] == 0
    assert [layer["layer"] for layer in again["layers"]] == [3, 4]


def test_the_files_of_engines_have_layers_by_their_number(tmp_path):
    file = tmp_path / "loads.json"
    file.write_text(json.dumps({"loads": [[10, 1, 1, 1], [1, 1, 1, 10]], "layers": [5, 3]}))
    ascend, balancer = tmp_path / "map.json", tmp_path / "lb.yaml"
    targets = ("--export", f"vllm-ascend={ascend}", "--export", f"tensorrt-llm={balancer}")
    document = json.loads(run(file, "--gpus", "2", *targets, "--json").stdout)
    rows = {
        layer["layer"]: row
        for layer, row in zip(document["layers"], document["physical_to_logical_map"], strict=True)
    }
    first, second = json.loads(ascend.read_text())["layer_list"]
    held = [
        [e for d in layer["device_list"] for e in d["device_expert"]] for layer in (first, second)
    ]
    assert held == [rows[3], rows[5]]
    assert balancer.read_text().index("  3: ") < balancer.read_text().index("  5: ")


@pytest.mark.parametrize(
    "options",
    [("--export", "sglang=o.json", "-o", "o.json"),
     ("--export", "sglang=o.json", "--export", "vllm-ascend=./o.json")],
)  # fmt: skip
def test_two_outputs_to_one_file_are_refused(loads, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(loads, "--gpus", "2", *options)
    assert result.exit_code == 2
    assert "o.json" in result.stderr
    assert not (tmp_path / "o.json").exists()


def test_a_placement_that_is_as_good_stays(tmp_path):
    file, current = tmp_path / "loads.json", tmp_path / "now.json"
    file.write_text(json.dumps([[4, 3, 2, 1]]))
    current.write_text(json.dumps({"physical_to_logical_map": [[3, 0, 1, 2]]}))
    document = json.loads(run(file, "--gpus", "2", "--current", current, "--json").stdout)
    assert document["physical_to_logical_map"] == [[3, 0, 1, 2]]
    assert document["moves"]["replicas"] == 0


def test_a_permutation_does_not_tear_the_groups_of_the_models_router(tmp_path):
    """DeepSeek-V3 picks 4 of 8 groups of 32 experts first: mixed, it would pick others."""
    file = tmp_path / "loads.json"
    rows = np.random.RandomState(0).randint(1, 100, (58, 256)).tolist()
    file.write_text(json.dumps(rows))
    target = ("--export", f"vllm={tmp_path / 'new.json'}")
    torn = run(file, "--gpus", "8", "--model", "deepseek-v3", *target)
    assert torn.exit_code == 2
    assert "groups" in torn.stderr
    whole = run(
        file, "--gpus", "8", "--nodes", "8", "--groups", "8", "--model", "deepseek-v3", *target
    )
    assert whole.exit_code == 0, whole.stderr
