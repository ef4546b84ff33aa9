"""Without a table of ranks, rank r runs on GPU r: stages lie where the engine's order puts them."""

from pathlib import Path

import yaml
from click.testing import CliRunner

from autopar.cli import main

COMMAND = (
    "{env}VLLM_PP_LAYER_PARTITION=24,24 vllm serve x -tp 2 -pp 2 -dp 2 --enable-expert-parallel "
    "--max-num-seqs 64\n"
)


def stages(folder: Path, env: str) -> tuple[list[list[int]], list[str]]:
    script, out = folder / "run.sh", folder / "plan.yaml"
    script.write_text(COMMAND.format(env=env), encoding="utf-8")
    arguments = ["--model", "qwen3-30b-a3b", "--workload", "chat-4k-1k", "-o", str(out)]
    result = CliRunner().invoke(main, ["ingest", "plan", str(script), *arguments])
    assert result.exit_code == 0, result.stderr
    plan = yaml.safe_load(out.read_text(encoding="utf-8"))
    return [stage["gpus"] for stage in plan.get("stages", [])], plan.get("notes", [])


def test_groups_come_before_stages_in_vllm(tmp_path: Path) -> None:
    """DP x PP x TP: ranks 0, 1 and 4, 5 are stage 0 (vLLM 0.33.0, parallel_state.py)."""
    found, notes = stages(tmp_path, "")
    assert found == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert any("--ranks" in note for note in notes)


def test_gpus_in_ascending_order_are_no_choice(tmp_path: Path) -> None:
    found, _ = stages(tmp_path, "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 ")
    assert found == [[0, 1, 4, 5], [2, 3, 6, 7]]
