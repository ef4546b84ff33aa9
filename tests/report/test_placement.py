"""The answer of `autopar place`: the document's fields, the same as text, and what is printed."""

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from autopar.placement.answer import answer
from autopar.placement.files.maps import ExpertMap
from autopar.placement.files.measured import Measured
from autopar.placement.machine import Machine
from autopar.placement.options import Options
from autopar.placement.results import Request
from autopar.placement.synthetic import clustered_routing, made_up, windows
from autopar.report.placement import placement_document, placement_text, print_placement


@pytest.fixture(scope="module")
def request_of_all():
    """With everything that a request may have."""
    routing = np.array([clustered_routing(300, 8, 2, 2, seed) for seed in (0, 1)])
    counts = windows(made_up("lognormal", 2, 8, 0), 4, 2000, 0.1, 1).astype(float)
    now = np.array([np.arange(12) % 8] * 2)
    return Request(
        Measured(counts, (3, 5), routing=routing), Machine(4, 3, num_nodes=2),
        options=Options(effort="quick", rounds=2), current=ExpertMap(now, (3, 5)), max_moves=6,
        hold_out=1, slot_bytes=1e6,
    )  # fmt: skip


def printed(found, **options):
    console = Console(file=StringIO(), width=80)
    print_placement(console, found, **options)
    return " ".join(console.file.getvalue().split())


def test_the_document_says_what_was_asked_and_found(request_of_all):
    found = answer(request_of_all)
    document = placement_document(found)
    assert document["physical_to_logical_map"] == [row.slots.tolist() for row in found.layers]
    shape = ("num_gpus", "num_nodes", "slots_per_gpu", "num_slots", "num_experts")
    assert [document[key] for key in shape] == [4, 2, 3, 12, 8]
    assert document["status"] == ("optimal" if found.is_proved else "feasible")
    assert document["moves"] == {
        "replicas": found.moves, "limit": 6, "weight_bytes": found.moves * 1e6
    }  # fmt: skip
    # 3 slots of 1 MB in 2 layers; 4 of 12 slots are further replicas
    assert document["memory"] == {
        "slot_bytes": 1e6,
        "expert_weights_bytes_per_gpu": 6e6,
        "of_replicas_bytes_per_gpu": 2e6,
    }
    assert document["windows"]["planned_on"]["num_windows"] == 3
    assert document["windows"]["held_out"]["num_windows"] == 1
    assert [row["layer"] for row in document["layers"]] == [3, 5]
    assert all(row["nodes_per_token"] >= 1 for row in document["layers"])
    assert document["before"] == "current"


def test_the_text_is_the_document(request_of_all):
    found = answer(request_of_all)
    assert json.loads(placement_text(found)) == placement_document(found)


def test_what_was_not_asked_for_is_null(request_of_all):
    bare = replace(
        request_of_all, current=None, max_moves=None, hold_out=0, slot_bytes=None,
        measured=replace(request_of_all.measured, routing=None),
    )  # fmt: skip
    document = placement_document(answer(bare))
    assert (document["moves"], document["memory"]) == (None, None)
    assert document["windows"]["held_out"] is None
    assert document["layers"][0]["nodes_per_token"] is None
    assert any("give counts per window" in note for note in document["notes"])


def test_the_text_for_people_has_the_figures(request_of_all):
    found = answer(request_of_all)
    text = printed(found)
    assert "2 layers of 8 experts on 12 slots of 4 GPUs on 2 nodes" in text
    for value in (found.before, found.max_over_mean, found.bound, found.held_out.after):
        assert f"{value:.4f}" in text
    assert f"{found.moves} of 24 replicas come to another GPU" in text
    assert "of weights to load" in text
    assert "a token goes to" in text


def test_a_proved_answer_says_so_and_no_gain_is_no_gain():
    even = Request(Measured(np.ones((4, 1, 4)), (0,)), Machine(2, 2), hold_out=1)
    text = printed(answer(even))
    assert "proven optimal" in text
    assert "no gain on these windows: keep what runs" in text


def test_the_worst_layers_alone_are_shown_unless_all_are_asked_for():
    counts = made_up("heavy", 14, 6, 2)[None]
    found = answer(
        Request(Measured(counts, tuple(range(14))), Machine(3, 2), options=Options(effort="quick"))
    )
    assert "The 12 layers furthest from proof" in printed(found)
    assert "furthest from proof" not in printed(found, every_layer=True)
