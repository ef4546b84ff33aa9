"""What the release that an export is for lacks is refused by name, or left out."""

from types import ModuleType

import pytest

from autopar.errors import InexpressibleError, SpecError
from autopar.export.exporting import completed, written
from autopar.export.launch import Launch
from autopar.export.options import Engine, Options, version_of
from autopar.export.releases import FIRST_RELEASES, of_release
from autopar.ingest.plan.flags import known_flags


def written_for(
    engine: Engine, version: str, *words: str, role: str = ""
) -> tuple[tuple[str, ...], list[str]]:
    launch = Launch(0, role, 0, 0, "node-0", (0,), words)
    (found,), notes = of_release(Options(engine=engine, version=version), [launch])
    return found.argv, notes


def refused(engine: Engine, version: str, *words: str, role: str = "") -> str:
    with pytest.raises(SpecError) as error:
        written_for(engine, version, *words, role=role)
    assert not isinstance(error.value, InexpressibleError)  # no other plan is searched
    return str(error.value)


def test_releases_without_a_needed_flag_are_refused_with_its_first_release() -> None:
    words = ("vllm", "serve", "m", "--nnodes", "2", "--headless", "--max-num-seqs", "4")
    said = refused("vllm", "0.8.5", *words)
    assert said.startswith("--engine-version 0.8.5: vLLM 0.8.5 lacks what these commands need")
    assert ": --nnodes (first in 0.11.1), --headless (first in 0.9.0); expected" in said
    assert "--headless" not in refused("vllm", "0.9.0", *words)
    found, (checked,) = written_for("vllm", "0.11.1", *words)
    assert found == words
    assert "checked against vLLM 0.33.0 alone; 0.11.1 is older" in checked
    assert written_for("vllm", "0.33.0", *words) == (words, [])
    _, (later,) = written_for("vllm", "0.34.0", *words)
    assert "newer" in later


def test_flags_that_commands_can_do_without_are_left_out_with_a_note() -> None:
    words = ("vllm", "serve", "m", "--kv-cache-memory-bytes", "5", "--port", "1")
    found, (named, _) = written_for("vllm", "0.9.0", *words)
    assert found == ("vllm", "serve", "m", "--port", "1")
    assert named.startswith("vLLM 0.9.0 has no --kv-cache-memory-bytes (first in 0.10.2), which")
    assert "--gpu-memory-utilization" in named
    assert written_for("vllm", "0.10.2", *words)[0] == words
    head = ("--dp-size", "2", "--enable-dp-lm-head", "--pp-size", "1", "--tp-size", "8")
    found, (named, _) = written_for("sglang", "0.4.6", *head)
    assert found == ("--dp-size", "2", "--tp-size", "8")  # one stage is what holds without a flag
    assert "--enable-dp-lm-head (first in 0.4.7)" in named
    assert "--pp-size (first in 0.4.7)" in refused("sglang", "0.4.6", "--pp-size", "2")


def test_of_releases_before_the_oldest_that_was_read_no_more_is_said_than_is_known() -> None:
    said = refused("sglang", "0.3.0", "--pp-size", "2", "--tp-size", "8")
    assert ": --pp-size (first in 0.4.7); " in said  # since when --tp-size is, was not read
    _, (alone,) = written_for("sglang", "0.3.0", "--tp-size", "8")
    assert "no release before 0.4.1 was read" in alone
    _, (other,) = written_for("trtllm", "1.1.0", "--tp_size", "8")
    assert "TensorRT-LLM 1.4 alone; 1.1.0 is older and may" in other


def test_releases_that_lack_more_than_flags_are_refused() -> None:
    words = ("vllm", "serve", "m", "--kv-transfer-config", "{}")
    assert "NixlConnector" in refused("vllm", "0.8.5", *words, role="decode")
    assert written_for("vllm", "0.9.0", *words, role="decode")[0] == words
    assert written_for("vllm", "0.8.5", *words)[0] == words
    assert "PyTorch" in refused("trtllm", "0.20", "trtllm-serve", "serve", "m")
    assert written_for("trtllm", "1.0.0rc3", "trtllm-serve", "serve", "m")[1]


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
            except SpecError:  # of a version that lacks some of them too
                continue
            seen |= {w for launch in made.launches for w in launch.argv if w.startswith("--")}
    assert len(seen) > 10
    assert seen <= set(table)
    assert set(table) <= set(known.flags)
    assert all(version_of(first) <= version_of(known.version) for first in table.values())


def test_manifests_have_the_note_too(plans: ModuleType) -> None:
    drawn = next(d for d in (plans.draw(seed, "vllm") for seed in range(20)) if d is not None)
    options = Options(engine="vllm", version="0.9.2", model_path="m", image="i", in_pods=True)
    made = written(plans.layouts(*drawn), "lws", options)
    assert any("--kv-cache-memory-bytes (first in 0.10.2)" in note for note in made.notes)
    assert not any("--kv-cache-memory-bytes" in file.text for file in made.files)
