"""Files and folders: what is read, what the model is called, and files that are none."""

import json
import subprocess
import sys

import pytest

from autopar.documents import parse
from autopar.errors import SpecError
from autopar.ingest import llm_from_config, read_config
from autopar.ingest.yaml_text import yaml_text
from autopar.specs import LLM

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 1000,
    "dtype": "bfloat16",
}


def write(path, fields=LLAMA):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return path


def test_a_file_and_the_folder_that_has_it_are_the_same_model(tmp_path):
    file = write(tmp_path / "Tiny-Llama" / "config.json")
    assert read_config(file) == read_config(file.parent)
    assert read_config(str(file)) == read_config(file)
    assert read_config(file).sources == (str(file),)


@pytest.mark.parametrize(
    ("place", "stated", "name"),
    [
        ("Tiny Llama (v2)/config.json", None, "tiny-llama-v2"),
        ("Meta--Tiny-Llama.json", None, "tiny-llama"),
        ("models--meta--Tiny-3B/snapshots/" + "0123456789" * 4 + "/config.json", None, "tiny-3b"),
        ("Tiny-FP8/config.json", "meta-llama/Tiny", "tiny-fp8"),
        ("___/config.json", None, "llm"),
        ("x" * 200 + "/config.json", None, "x" * 120),
    ],
)
def test_the_name_is_that_of_the_file_or_its_folder(tmp_path, place, stated, name):
    fields = LLAMA if stated is None else LLAMA | {"_name_or_path": stated}
    assert read_config(write(tmp_path / place, fields)).name == name


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("meta-llama/Llama-Tiny", "llama-tiny"),
        ("/checkpoints/final/", "final"),
        ("", "llama"),
        ("/", "llama"),
        (7, "llama"),
        (None, "llama"),
    ],
)
def test_fields_without_a_file_are_called_as_they_say_or_by_their_type(stated, name):
    assert llm_from_config(LLAMA | {"_name_or_path": stated}, where="x").name == name
    assert llm_from_config(LLAMA | {"_name_or_path": stated}, name="Mine", where="x").name == "mine"


def test_the_quantisation_that_modelopt_keeps_beside_the_config_is_read(tmp_path):
    file = write(tmp_path / "model" / "config.json")
    algorithms = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    write(file.parent / "hf_quant_config.json", {"quantization": algorithms})
    for path in (file, file.parent):
        assert read_config(path).precisions.attention == "fp8"
        assert read_config(path).precisions.kv_cache == "fp8"
    own = LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    assert read_config(write(file, own)).precisions.attention == "int4"


@pytest.mark.parametrize(
    ("place", "stated", "said"),
    [
        ("nvidia--Tiny-FP8.json", None, "the name Tiny-FP8 speaks of FP8"),
        ("Tiny-NVFP4/config.json", None, "the name Tiny-NVFP4 speaks of NVFP4"),
        ("Tiny/config.json", "nvidia/Tiny-fp8", "the name Tiny-fp8 speaks of FP8"),
        ("Tiny-BF16/config.json", "/checkpoints/Tiny/", None),
        ("Tinyfp80.json", None, None),
    ],
)
def test_a_name_that_speaks_of_a_format_that_no_file_states_is_an_assumption(
    tmp_path, place, stated, said
):
    fields = LLAMA if stated is None else LLAMA | {"_name_or_path": stated}
    llm = read_config(write(tmp_path / place, fields))
    assert llm.precisions.attention == "bf16"
    assert [said in text for text in llm.assumptions] == ([] if said is None else [True])
    assert LLM.model_validate(parse(yaml_text(llm), "x")).assumptions == llm.assumptions


def test_a_format_that_a_file_states_is_no_assumption(tmp_path):
    own = LLAMA | {"quantization_config": {"quant_method": "fp8"}}
    assert read_config(write(tmp_path / "Tiny-FP8.json", own)).assumptions == ()
    file = write(tmp_path / "Tiny-FP8" / "config.json")
    write(file.parent / "hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}})
    assert read_config(file.parent).assumptions == ()


@pytest.mark.parametrize("dtype", [{}, {"dtype": None}, {"torch_dtype": "auto"}])
@pytest.mark.parametrize("quantization", [None, {"quant_method": "fp8"}])
def test_a_type_of_data_that_no_file_states_is_an_assumption(tmp_path, dtype, quantization):
    fields = {k: v for k, v in LLAMA.items() if k != "dtype"} | dtype
    llm = read_config(write(tmp_path / "a.json", fields | {"quantization_config": quantization}))
    which = "weights that are not quantised" if quantization else "weights"
    assert " ".join(llm.assumptions) == (
        f"{which} are bf16: config.json names no type of data (dtype or torch_dtype); add it "
        "there, or set llm.precisions, if they are stored otherwise"
    )
    assert llm.precisions.embeddings == "bf16"
    assert LLM.model_validate(parse(yaml_text(llm), "x")).assumptions == llm.assumptions


def test_the_whole_model_may_state_the_type_of_data_of_its_text_part():
    text = {k: v for k, v in LLAMA.items() if k != "dtype"}
    for stated in ({}, {"dtype": "auto"}):
        whole = {"torch_dtype": "float16", "text_config": text | stated}
        llm = llm_from_config(whole, where="x")
        assert (llm.precisions.attention, llm.assumptions) == ("fp16", ())


@pytest.mark.parametrize("text", ["a  b", 'say "x" \\ or \\n', "word " * 60 + "end", "y" * 150])
def test_assumptions_of_any_length_are_read_back_from_the_yaml(text):
    llm = llm_from_config(LLAMA, where="x").model_copy(update={"assumptions": (text,)})
    assert LLM.model_validate(parse(yaml_text(llm), "x")).assumptions == (text,)


def test_a_slip_beside_the_config_names_its_own_file(tmp_path):
    file = write(tmp_path / "config.json")
    write(tmp_path / "hf_quant_config.json", {"quantization": {"quant_algo": "FP9"}})
    with pytest.raises(SpecError, match=r"hf_quant_config\.json: quantization\.quant_algo: found"):
        read_config(file)


def test_infinities_are_read_where_nobody_needs_them(tmp_path):
    text = json.dumps(LLAMA | {"time_step_limit": [0.0, float("inf")], "x": float("nan")})
    assert "Infinity" in text
    assert read_config(write(tmp_path / "config.json", text)).num_layers == 2


def test_infinity_in_a_text_stays_text(tmp_path):
    fields = LLAMA | {"x": 'to "Infinity" \\', "model_type": "Infinity"}
    with pytest.raises(SpecError, match="model_type: found 'Infinity', expected"):
        read_config(write(tmp_path / "config.json", fields))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("[1]", "found a list of 1 items at the top, expected a mapping"),
        ("7", "found 7 at the top"),
        ('{"model_type": "llama", ', "not valid JSON"),
        ('{"model_type": "lla', "not valid JSON"),
        ('{"hidden_size": 1, "hidden_size": 2}', "hidden_size: found twice in one object"),
        ('{"a": ' + "[" * 100_000, "nested deeper than 64 levels"),
        ('{"a": ' + "[" * 80 + "]" * 80 + "}", "nested deeper than 64 levels"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "more than 4,000 digits"),
        ("\0\0", "found binary data"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(SpecError) as caught:
        read_config(write(tmp_path / "config.json", text))
    assert "config.json" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["_attn_implementation_autoset", "_flash_attn_2_enabled"])
def test_what_transformers_notes_for_itself_is_passed_over(tmp_path, name):
    noted = write(tmp_path / "a" / "tiny.json", LLAMA | {name: True})
    plain = write(tmp_path / "b" / "tiny.json")
    assert read_config(noted).architecture == read_config(plain).architecture


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_size_that_is_not_finite_is_refused(tmp_path, number):
    text = json.dumps(LLAMA).replace('"hidden_size": 64', f'"hidden_size": {number}')
    with pytest.raises(SpecError, match="hidden_size: found"):
        read_config(write(tmp_path / "config.json", text))


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"found a folder without config\.json"):
        read_config(tmp_path)


def test_the_command_prints_a_document_of_the_catalogue(tmp_path):
    file = write(tmp_path / "config.json")
    command = [sys.executable, "-m", "autopar.ingest", str(file), "--name", "tiny"]
    options = ["--description", "A tiny Llama.", "--source", "made up", "--source", "by us"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    llm = LLM.model_validate(parse(done.stdout, "tiny.yaml"))
    assert llm.name == "tiny"
    assert llm.description.startswith("A tiny Llama. llama: ")
    assert llm.sources == ("made up", "by us")
    assert llm.architecture == read_config(file).architecture


def test_the_command_refuses_on_stderr_with_the_exit_code_of_bad_input(tmp_path):
    file = write(tmp_path / "config.json", "{}")
    command = [sys.executable, "-m", "autopar.ingest", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "model_type: found nothing" in done.stderr
