"""Every flag that is written is one of the engine's, by the lists that were taken from its sources.

`make engine-flags` takes them anew from the wheels.
"""

import json
from collections import Counter
from dataclasses import replace
from types import ModuleType

import pytest
import yaml

from autopar.errors import InexpressibleError
from autopar.export.exporting import completed, written
from autopar.export.launch import Launch
from autopar.export.options import ENGINES, Options
from autopar.ingest.plan.flags import known_flags

TORCHRUN = {"--nnodes", "--node-rank", "--nproc-per-node", "--master-addr", "--master-port"}
MPIRUN = {"-n", "--hostfile", "--map-by", "-x"}
START = {"vllm": "serve", "sglang": "sglang.launch_server", "trtllm": "serve"}


def arguments(engine: str, launch: Launch) -> list[str]:
    """What the engine itself parses."""
    words = list(launch.argv)
    return words[words.index("pretrain_gpt.py" if engine == "megatron" else START[engine]) + 1 :]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_flag_exists_and_has_the_values_it_takes(plans: ModuleType, engine: str) -> None:
    known, seen = known_flags(engine), Counter[str]()
    for seed in range(60):
        drawn = plans.draw(seed, engine)
        if drawn is None:
            continue
        scenario, plan = drawn
        layouts = plans.layouts(scenario, plan)
        pair = [replace(each, role=role) for each in layouts for role in ("prefill", "decode")]
        roles = [layouts] if engine == "megatron" else [layouts, pair]
        for asked in roles:
            options = Options(engine=engine, model_path="m", expert_map="always")
            try:
                export = written(asked, engine, completed(options, scenario))
            except InexpressibleError:
                continue
            for launch in export.launches:
                words = arguments(engine, launch)
                for place, word in enumerate(words):
                    if word.startswith("-"):
                        assert word in known.flags, word
                        following = words[place + 1 : place + 2]
                        has_value = bool(following) and not following[0].startswith("--")
                        assert has_value == bool(known.flags[word]), word
                        seen[word] += 1
            for file in export.files:
                if engine == "trtllm" and "trtllm" in file.name:
                    keys = set(yaml.safe_load(file.text))
                    assert keys <= known.keys
                    seen.update(keys)
    assert len(seen) > 5


def test_launchers_have_few_flags(plans: ModuleType) -> None:
    """Those of torchrun and mpirun, which are in no list of an engine."""
    for engine, allowed in (("megatron", TORCHRUN), ("trtllm", MPIRUN)):
        for seed in range(30):
            drawn = plans.draw(seed, engine)
            if drawn is None:
                continue
            options = completed(Options(engine=engine), drawn[0])
            try:
                export = written(plans.layouts(*drawn), engine, options)
            except InexpressibleError:
                continue
            for launch in export.launches:
                before = launch.argv[: len(launch.argv) - len(arguments(engine, launch))]
                assert {w for w in before if w.startswith("-")} <= allowed


@pytest.mark.parametrize("engine", ENGINES)
def test_lists_say_of_what_they_are(engine: str) -> None:
    known = known_flags(engine)
    assert known.engine == engine
    assert known.version
    assert len(known.flags) > 40
    assert set(known.flags.values()) <= {0, 1}
    assert all(json.dumps(flag).isascii() for flag in known.flags)


def test_the_flag_of_attention_data_parallelism_follows_the_version(plans: ModuleType) -> None:
    for seed in range(200):
        drawn = plans.draw(seed, "sglang")
        if drawn is None:
            continue
        (layout,) = plans.layouts(*drawn)
        if layout.attn_dp > 1 and layout.is_moe:
            break
    for version, flags in (
        ("0.5.23", ["--attn-dp-size"]),
        ("0.6", ["--attn-dp-size"]),
        ("0.5.22", ["--attn-dp-size"]),
        ("0.5.21", ["--dp-size", "--enable-dp-attention"]),
        ("0.5.16", ["--dp-size", "--enable-dp-attention"]),
        ("v0.4.9.post1", ["--dp-size", "--enable-dp-attention"]),
    ):
        options = Options(engine="sglang", version=version, model_path="m")
        argv = written([layout], "sglang", options).launches[0].argv
        found = [w for w in argv if w in ("--attn-dp-size", "--dp-size", "--enable-dp-attention")]
        assert found == flags, version
