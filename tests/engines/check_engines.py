"""Feed commands that `autopar export` writes to the engines' own parsers, on a CPU.

python tests/engines/check_engines.py FOLDER [vllm sglang megatron routers]

Downloads the wheels of the engines by name, about 400 MB, and what their parsers import into an
environment of FOLDER, about 1 GB; both are kept there. Every case that an engine should take must
be accepted, and every one that it should refuse must be refused with the words that are given.
What an engine is known to accept wrongly is listed too: those are the checks that only autopar
makes. The routers of pairs are started for real, in front of servers that only listen.
vLLM's own check of the size of the cache is run on what its layers would say that they keep.
Of SGLang it is also looked at the share of memory that its parser arrives at: whether the plan's
cache has room in it.
The list of Megatron's flags is held against its parser.
TensorRT-LLM has no part that runs without a GPU.
"""

import json
import re
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from autopar.api import verify
from autopar.catalog import load_plan, load_scenario
from autopar.export.exporting import export
from autopar.export.launch import Export
from autopar.export.options import Options
from autopar.ingest.plan.flags import known_flags
from autopar.pairs import explicit_plan
from autopar.problem import AnyPlan
from autopar.specs import Scenario

HERE = Path(__file__).resolve().parent
WHEELS = {"vllm": "vllm==0.33.0", "sglang": "sglang==0.5.23", "megatron": "megatron-core==0.19.2"}
PACKAGES = (
    "torch==2.13.0", "triton", "numpy", "transformers", "pydantic", "fastapi", "uvicorn", "msgspec",
    "pyzmq", "psutil", "requests", "aiohttp", "orjson", "setproctitle", "cloudpickle", "openai",
    "mcp", "anthropic", "tiktoken", "einops", "cachetools", "blake3", "py-cpuinfo",
    "partial-json-parser", "python-json-logger", "regex", "pillow", "typing_extensions", "pybase64",
    "python-multipart", "huggingface_hub", "protobuf", "watchfiles", "sentencepiece", "scipy",
    "prometheus_client", "uvloop", "dill", "xxhash", "gguf", "ninja", "openai-harmony", "diskcache",
    "lark", "cbor2", "ijson", "sglang-router==0.3.2", "vllm-router==0.1.17",
)  # fmt: skip
TOY = {  # a model as small as it can be with the sizes that matter for a layout
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
    "vocab_size": 32000, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-5, "rope_theta": 1e6,
}  # fmt: skip
DENSE = {
    **{key: TOY[key] for key in TOY if "local_experts" not in key and "per_tok" not in key},
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
}  # fmt: skip
LATENT = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "max_position_embeddings": 163840, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6,
}  # fmt: skip
WINDOWS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880,
    "num_hidden_layers": 36, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
    "intermediate_size": 2880, "num_local_experts": 128, "num_experts_per_tok": 4,
    "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 18,
    "vocab_size": 201088, "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-5, "rope_theta": 150000,
}  # fmt: skip
MODELS = {
    "mixtral-8x7b": TOY, "llama-3.1-8b": DENSE, "deepseek-v3": LATENT, "gpt-oss-120b": WINDOWS,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A plan of Mixtral 8x7B, what is changed in its command, and what the engine must say."""

    name: str
    degrees: dict[str, int]
    nodes: int = 1
    split: list[int] | None = None
    swap: dict[str, str] = field(default_factory=dict)  # flag -> another value
    more: list[str] = field(default_factory=list)
    refused: str = ""  # words of the refusal; accepted where there are none
    wrongly: bool = False  # accepted by the engine, though it cannot work
    llm: str = "mixtral-8x7b"
    gpu: str = "h100"
    drop: str = ""  # a flag that is left out with its value; SGLang then leaves no room for caches
    role: str = ""  # of a pair, both of whose roles have these degrees
    batch: int = 8


# Flags that Megatron has where the package nvidia-kitchen is there (training/arguments.py).
WITH_KITCHEN = {"--kitchen-config-file", "--kitchen-recipe-number"}
_PORT = 18_000  # of the first server; the others of this machine count from there
TWO = {"replicas": 2, "tp": 1, "etp": 1}
EP8 = {"tp": 2, "attn_dp": 4, "ep": 8, "etp": 1}
WIDE = {"tp": 1, "attn_dp": 32, "ep": 32, "etp": 1}
CASES: dict[str, list[Case]] = {
    "vllm": [
        Case("tp8", {"tp": 8, "ep": 1, "etp": 8}),
        Case("tp2 dp4 ep8", EP8),
        Case("pp4 uneven", {"pp": 4, "tp": 2, "ep": 1, "etp": 2}, split=[7, 9, 9, 7]),
        Case("two nodes, dp", {"tp": 2, "attn_dp": 8, "ep": 1, "etp": 16}, nodes=2),
        Case("two nodes, pp", {"tp": 8, "pp": 2, "ep": 8, "etp": 1}, nodes=2),
        Case("dense", {"tp": 4, "etp": 4}, llm="llama-3.1-8b"),
        Case("prefill of a pair", {"tp": 4, "pp": 1, "ep": 4, "etp": 1}, role="prefill"),
        Case("decode of a pair", {"tp": 2, "attn_dp": 2, "ep": 4, "etp": 1}, role="decode"),
        Case("prefill of one prompt", {"tp": 4, "etp": 4}, role="prefill", batch=1,
             llm="llama-3.1-8b"),
        Case("decode of more sequences than vLLM's 8,192 tokens", {"tp": 4, "etp": 4},
             role="decode", batch=9000, llm="llama-3.1-8b"),
        Case("the same with those tokens", {"tp": 4, "etp": 4}, role="decode", batch=9000,
             llm="llama-3.1-8b", swap={"--max-num-batched-tokens": "8192"},
             refused="greater than or equal to max_num_seqs"),
        Case("windows", {"tp": 4, "ep": 4, "etp": 1}, batch=1, llm="gpt-oss-120b"),
        Case("windows in stages", {"tp": 2, "pp": 3, "ep": 2, "etp": 1}, split=[10, 13, 13],
             batch=1, llm="gpt-oss-120b"),
        Case("prefill with windows", {"tp": 4, "ep": 4, "etp": 1}, role="prefill", batch=2,
             llm="gpt-oss-120b"),
        Case("latents", {"tp": 8, "ep": 8, "etp": 1}, batch=1, llm="deepseek-v3", gpu="h200"),
        Case("no room for one request", {"tp": 4, "etp": 4}, role="prefill", batch=1,
             llm="llama-3.1-8b", swap={"--max-model-len": "9000"}, refused="is needed"),
        Case("three heads", EP8, swap={"--tensor-parallel-size": "3"}, refused="divisible"),
        Case("no such flag", EP8, more=["--no-such-flag"], refused="unrecognized"),
        Case("eplb without ep", {"tp": 8, "ep": 1, "etp": 8}, more=["--enable-eplb"],
             refused="expert"),
        Case("more GPUs than a node has", {"tp": 8, "ep": 8, "etp": 1},
             swap={"--pipeline-parallel-size": "2"}, refused="nnodes"),
    ],
    "sglang": [
        Case("tp8", {"tp": 8, "ep": 1, "etp": 8}),
        Case("dp4 ep8", EP8),
        Case("ep4 etp2", {"tp": 2, "attn_dp": 4, "ep": 4, "etp": 2}),
        Case("pp4 uneven", {"pp": 4, "tp": 2, "ep": 1, "etp": 2}, split=[7, 9, 9, 7]),
        Case("two nodes", {"pp": 2, "tp": 8, "ep": 8, "etp": 1}, nodes=2),
        Case("dense", {"tp": 4, "etp": 4}, llm="llama-3.1-8b"),
        Case("prefill of a pair", {"tp": 2, "pp": 2, "ep": 2, "etp": 1}, role="prefill"),
        Case("decode of a pair", {"tp": 2, "attn_dp": 2, "ep": 4, "etp": 1}, role="decode"),
        Case("attention groups on four nodes", WIDE, nodes=4, llm="deepseek-v3", gpu="h200"),
        Case("the same with SGLang's own share", WIDE, nodes=4, llm="deepseek-v3", gpu="h200",
             drop="--mem-fraction-static", wrongly=True),
        Case("dp does not divide tp", EP8, swap={"--attn-dp-size": "3"}, refused="AssertionError"),
        Case("nodes do not divide", {"pp": 2, "tp": 8, "ep": 8, "etp": 1}, nodes=2,
             swap={"--nnodes": "3"}, refused="nnodes"),
        Case("dense tp", EP8, more=["--moe-dense-tp-size", "4"], refused="moe_dense_tp_size"),
        Case("no such flag", EP8, more=["--no-such-flag"], refused="unrecognized"),
        Case("ep does not divide tp", EP8, swap={"--ep-size": "3"}, wrongly=True),
    ],
    "routers": [
        Case("vllm", TWO, llm="llama-3.1-8b", role="decode"),
        Case("sglang", TWO, llm="llama-3.1-8b", role="decode"),
        Case("vllm", TWO, llm="llama-3.1-8b", role="decode", more=["--no-such-flag"],
             refused="unrecognized"),
        Case("sglang", TWO, llm="llama-3.1-8b", role="decode", more=["--no-such-flag"],
             refused="unrecognized"),
    ],
    "megatron": [
        Case("ep4 etp2", {"tp": 2, "attn_dp": 4, "ep": 4, "etp": 2}),
        Case("pp4 uneven", {"pp": 4, "tp": 2, "ep": 2, "etp": 1}, split=[7, 9, 9, 7]),
        Case("two nodes", {"pp": 2, "tp": 2, "attn_dp": 4, "ep": 4, "etp": 2}, nodes=2),
        Case("dense", {"tp": 4, "etp": 4}, llm="llama-3.1-8b"),
        Case("sizes that differ are left out", EP8, llm="gemma-4-26b-a4b"),
        Case("experts do not divide", EP8, swap={"--num-experts": "12"}, refused="expert"),
        Case("layout of other layers", {"pp": 4, "tp": 2, "ep": 2, "etp": 1},
             swap={"--pipeline-model-parallel-layout": "Et*8|t*8|t*8|t*9L"}, refused="layer"),
        Case("heads do not divide", EP8, swap={"--num-attention-heads": "33"}, refused="divi"),
        Case("no such flag", EP8, more=["--no-such-flag"], refused="unrecognized"),
        Case("world of experts", {"tp": 1, "pp": 2, "attn_dp": 4, "ep": 4, "etp": 1},
             swap={"--expert-model-parallel-size": "8"}, wrongly=True),
    ],
}  # fmt: skip


def prepare(folder: Path, engines: list[str]) -> Path:
    """Download and unpack what is not there; return the Python of the environment."""
    python = folder / "venv" / "bin" / "python"
    ready, wanted = folder / "venv" / ".ready", "\n".join(PACKAGES)
    if not ready.exists() or ready.read_text(encoding="utf-8") != wanted:
        venv.create(folder / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        ready.write_text(wanted, encoding="utf-8")
    for engine in (name for name in engines if name in WHEELS):
        target = folder / engine
        if target.exists():
            continue
        wheels = folder / "wheels"
        options = ["--no-deps", "--python-version", "3.12", "--only-binary=:all:"]
        pip = [python, "-m", "pip", "download", "-q", *options, "-d", wheels, WHEELS[engine]]
        subprocess.run(pip, check=True)
        stem = WHEELS[engine].replace("==", "-").replace("megatron-core", "megatron_core")
        (wheel,) = wheels.glob(f"{stem}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            kept = [n for n in archive.namelist() if not n.endswith((".so", ".cubin", ".hsaco"))]
            archive.extractall(target, kept)
    for name, config in MODELS.items():
        model = folder / "models" / name
        model.mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return python


def planned(case: Case) -> tuple[Scenario, AnyPlan]:
    """Return the plan of a case and what it is for."""
    work = "chat-4k-1k-disaggregated" if case.role else "chat-1k-256"
    parts = {"llm": case.llm, "cluster": f"{case.nodes}xhgx-{case.gpu}", "workload": work}
    scenario = load_scenario(parts=parts)
    document = {"schema": 1, "kind": "plan", "name": "case", "llm": case.llm}
    layout = {
        "batch": case.batch,
        "degrees": case.degrees,
        **({"layers_per_stage": case.split} if case.split else {}),
    }
    if case.role:
        other = {"batch": 8, "degrees": case.degrees | {"pp": 1}}
        roles = {"prefill": other, "decode": other}
        document["roles"] = roles | {case.role: layout}
    else:
        document |= layout
    return scenario, explicit_plan(load_plan(document), scenario)


def exported(engine: str, case: Case, folder: Path) -> Export:
    """Return what a case is in the words of an engine, on this machine."""
    scenario, plan = planned(case)
    options = Options(
        engine=engine,  # type: ignore[arg-type]
        model_path=str(folder / "models" / case.llm),
        hosts=("127.0.0.1",) * case.nodes,
        port=_PORT,
    )
    return export(scenario, plan, engine, options)  # type: ignore[arg-type]


def command(engine: str, case: Case, folder: Path) -> tuple[list[str], dict[str, str], int]:
    """Return the arguments of the first node, its environment, and the number of GPUs."""
    made = exported(engine, case, folder)
    launch = next(x for x in made.launches if x.role == case.role)
    words = list(launch.argv)
    start = {"vllm": "serve", "sglang": "sglang.launch_server", "megatron": "pretrain_gpt.py"}
    words = words[words.index(start[engine]) + 1 :]
    for flag, value in case.swap.items():
        words[words.index(flag) + 1] = value
    if case.drop:
        place = words.index(case.drop)
        del words[place : place + 2]
    return [*words, *case.more], dict(launch.env), len(made.ranks)


def routed(case: Case, folder: Path, python: Path) -> list[str | Path]:
    """Return what starts the router of a case, named after its engine, with stand-ins behind it."""
    made = exported(case.name, case, folder)
    assert made.router is not None
    program, *words = made.router.argv
    start = python if program == "python" else python.parent / program
    ports = ",".join(f"{x.role}={x.port}" for x in made.launches if x.node_rank == 0)
    return [python, HERE / "route_pair.py", ports, start, *words, *case.more]


def starved(case: Case, words: list[str], said: str) -> str:
    """Return why what SGLang resolved leaves less room than the plan's cache; empty if it does not.

    As its _profile_available_bytes counts: of what is free once the runtime has its part, the share
    less the weights.
    """
    scenario, plan = planned(case)
    report = verify(scenario, plan)
    metrics = report.roles.get(case.role, report.metrics)
    assert metrics is not None
    assert metrics.kv_cache_bytes is not None
    found = re.search(r"fraction=(\S+) tokens=(\d+)", said)
    if found is None or found[2] != words[words.index("--max-total-tokens") + 1]:
        return "SGLang has other tokens than those of the command, or no share of memory"
    share = float(found[1])
    free_bytes = scenario.cluster.gpu.memory_bytes - (metrics.reserved_bytes or 0)
    room = share * free_bytes - metrics.weights_bytes
    if not 0 < share < 1 or room < metrics.kv_cache_bytes:
        return f"share {share}: {room:.3g} bytes for a cache of {metrics.kv_cache_bytes:.3g}"
    return ""


def verdict(engine: str, case: Case, folder: Path, python: Path) -> str:
    """Return what is wrong with what the engine said; empty if nothing is."""
    env: dict[str, str] = {}
    if engine == "routers":
        script, words = routed(case, folder, python), []
    else:
        words, env, world = command(engine, case, folder)
        script = [python, HERE / f"parse_{engine}.py", folder / engine]
    if engine == "megatron":
        script += [str(world)]
        words += ["--no-rope-fusion", "--tokenizer-type", "NullTokenizer", "--vocab-size", "32000"]
    elif engine == "sglang":
        memory = planned(case)[0].cluster.gpu.memory_bytes
        script += [str(memory / 2**20)]
        words += ["--device", "cuda"]
    env |= {"PATH": "/usr/bin:/bin", "HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*script, *words], capture_output=True, text=True, check=False, env=env, timeout=300
    )
    said = done.stdout + done.stderr
    accepted = done.returncode == 0 and "ACCEPTED" in said
    if case.refused:
        if accepted:
            return "accepted, but should have been refused"
        return "" if case.refused in said else f"refused with other words: {said[-600:]}"
    if not accepted:
        return f"refused: {said[-1500:]}"
    if engine == "sglang" and bool(starved(case, words, said)) != bool(case.drop):
        return starved(case, words, said) or "leaves room for the cache, but should not"
    return ""


def other_flags(folder: Path, python: Path) -> str:
    """Return where our list of Megatron's flags and its parser differ; empty if they do not."""
    script = [python, HERE / "parse_megatron.py", folder / "megatron", "flags"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    found = re.search(r"^FLAGS (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        return f"its parser has no list: {(done.stdout + done.stderr)[-600:]}"
    ours, own = known_flags("megatron").flags, json.loads(found[1])
    differ = {flag for flag in {*ours, *own} if ours.get(flag) != own.get(flag)}
    return ", ".join(sorted(differ - WITH_KITCHEN))


def main(folder: Path, engines: list[str]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    python = prepare(folder.resolve(), engines)
    wrong = 0
    for engine in engines:
        for case in CASES[engine]:
            said = verdict(engine, case, folder.resolve(), python)
            expected = "refused" if case.refused else "accepted"
            if case.wrongly:
                expected += ", wrongly: " + ("no cache" if case.drop else "only autopar refuses it")
            sys.stdout.write(f"{engine}: {case.name}: {said or expected}\n")
            sys.stdout.flush()
            wrong += bool(said)
    total = sum(len(CASES[engine]) for engine in engines)
    if "megatron" in engines:
        said = other_flags(folder.resolve(), python)
        sys.stdout.write(f"megatron: its flags are those of our list: {said or 'all'}\n")
        wrong, total = wrong + bool(said), total + 1
    sys.stdout.write(f"{total - wrong} passed, {wrong} failed\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:] or list(CASES)))
