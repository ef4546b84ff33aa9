"""Flags that are younger than the release that an export is for are named one by one."""

from types import ModuleType

import pytest

from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, written
from autopar.export.launch import Launch
from autopar.export.options import Engine, Options, version_of
from autopar.export.releases import FIRST_RELEASES, notes_of_version
from autopar.ingest.plan.flags import known_flags


def noted(engine: Engine, version: str, *words: str) -> list[str]:
    launch = Launch(0, "", 0, 0, "node-0", (0,), words)
    return notes_of_version(Options(engine=engine, version=version), [launch])


def test_younger_flags_are_named_with_their_first_release() -> None:
    words = ("vllm", "serve", "m", "--nnodes", "2", "--headless", "--max-num-seqs", "4")
    named, checked = noted("vllm", "0.8.5", *words)
    assert named.startswith("vLLM 0.8.5 is too old for flags of these commands")
    assert named.endswith(": --nnodes (first in 0.11.1), --headless (first in 0.9.0)")
    assert "checked against vLLM 0.33.0 alone; 0.8.5 is older" in checked
    assert "--headless" not in noted("vllm", "0.9.0", *words)[0]
    assert len(noted("vllm", "0.11.1", *words)) == 1
    assert noted("vllm", "0.33.0", *words) == []
    (later,) = noted("vllm", "0.34.0", *words)
    assert "newer" in later


def test_of_releases_before_the_oldest_that_was_read_no_more_is_said_than_is_known() -> None:
    named, checked = noted("sglang", "0.3.0", "--pp-size", "2", "--tp-size", "8")
    assert named.endswith(": --pp-size (first in 0.4.7)")  # since when --tp-size is, was not read
    assert "no release before 0.4.1 was read" in checked
    (alone,) = noted("sglang", "0.3.0", "--tp-size", "8")
    assert "no release before 0.4.1 was read" in alone
    (other,) = noted("trtllm", "1.1.0", "--tp_size", "8")
    assert "TensorRT-LLM 1.4 alone; 1.1.0 is older and may" in other


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_flag_that_is_written_has_a_first_release(plans: ModuleType, engine: Engine) -> None:
    table, known, seen = FIRST_RELEASES[engine], known_flags(engine), set[str]()
    for seed in range(60):
        drawn = plans.draw(seed, engine)
        if drawn is None:
            continue
        for version in ("", "0.5.10"):
            asked = Options(engine=engine, version=version, model_path="m", expert_map="always")
            try:
                made = written(plans.layouts(*drawn), engine, completed(asked, drawn[0]))
            except InexpressibleError:
                continue
            seen |= {w for launch in made.launches for w in launch.argv if w.startswith("--")}
    assert len(seen) > 10
    assert seen <= set(table)
    assert set(table) <= set(known.flags)
    assert all(version_of(first) <= version_of(known.version) for first in table.values())


def test_manifests_have_the_note_too(plans: ModuleType) -> None:
    drawn = next(d for d in (plans.draw(seed, "vllm") for seed in range(20)) if d is not None)
    options = Options(engine="vllm", version="0.8.5", model_path="m", image="i", in_pods=True)
    made = written(plans.layouts(*drawn), "lws", options)
    assert any("--kv-cache-memory-bytes (first in 0.10.2)" in note for note in made.notes)
