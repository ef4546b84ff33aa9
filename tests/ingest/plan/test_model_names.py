"""Which model of the catalogue commands load, by the name that they load it by."""

import pytest
from click.testing import CliRunner

from autopar.catalog import names, read_document
from autopar.cli import main
from autopar.ingest.plan.model_names import (
    FORMER_NAMES,
    REPOSITORIES,
    SAME_STRUCTURE,
    catalogue_name,
    nearest_names,
)

KNOWN = names("llm")


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_a_repository_is_a_source_of_the_model_that_it_is_taken_for(repository: str) -> None:
    sources = " ".join(read_document("llm", REPOSITORIES[repository])["sources"]).lower()
    assert f"/{repository} on hugging face" in sources or f"/{repository}, config" in sources


@pytest.mark.parametrize("name", SAME_STRUCTURE)
def test_the_same_structure_has_a_source_and_is_in_the_catalogue(name: str) -> None:
    model, source = SAME_STRUCTURE[name]
    assert model in KNOWN
    assert "model card" in source
    assert name in source.lower()


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("/models/DeepSeek-V3.1-Terminus/", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-V3.2", "deepseek-v3.2"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3.1-nvfp4"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b-fp8"),
        ("meta-llama/Meta-Llama-3.1-405B-FP8", "llama-3.1-405b-fp8"),
        ("meta-llama/Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b-fp8"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b-fp8"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", ""),  # its context is another
        ("org/nothing", ""),
        ("", ""),
    ],
)
def test_names_of_repositories(path: str, model: str) -> None:
    assert catalogue_name(path, KNOWN)[0] == model


@pytest.mark.parametrize("name", FORMER_NAMES)
def test_a_former_name_is_that_of_a_model_and_that_is_said(name: str) -> None:
    model, why = catalogue_name(name, KNOWN)
    assert (model, "") == catalogue_name(FORMER_NAMES[name], KNOWN)
    assert why == f"a former name of {FORMER_NAMES[name]}"


def run(path: str) -> tuple[int, str]:
    text = f"vllm serve {path} -tp 8 --max-num-seqs 8\n"
    result = CliRunner().invoke(main, ["ingest", "plan", "-"], input=text)
    return result.exit_code, result.stderr + result.stdout


def test_what_a_model_is_taken_for_is_said() -> None:
    code, text = run("deepseek-ai/DeepSeek-V3-0324")
    assert code == 0
    assert "llm: deepseek-v3\n" in text
    assert "note: the model deepseek-ai/DeepSeek-V3-0324 is taken for deepseek-v3: the same" in text
    assert "taken for" not in run("deepseek-ai/DeepSeek-V3")[1]


def test_an_unknown_model_is_refused_with_the_nearest_of_the_catalogue() -> None:
    code, text = run("Qwen/Qwen3-235B-A22B-Thinking-2507")
    assert code == 2
    assert "the nearest are qwen3-235b-a22b" in text
    assert "give --model" in text
    assert not nearest_names("org/nothing", KNOWN)
