"""Commands reach the engine word for word, whatever stands in names and paths."""

import json
import subprocess
import sys
from types import ModuleType

import pytest
import yaml

from autopar.errors import SpecError
from autopar.export.exporting import completed, written
from autopar.export.launch import command_text, script_text
from autopar.export.options import Options
from autopar.ingest.plan.commands.shell import commands_in

HOSTILE = [
    "org/model",
    "a model with spaces",
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`id`",
    "$HOME/${PATH}",
    "a\nb",
    "a\\b\\",
    "semi;colon && x | y > z",
    "*?[a]~#",
    "tab\there",
    "ünïcode-模型",
    "trailing ",
    "!history",
    "%s%n",
    "'\"'\"'",
]
ECHO = f"{sys.executable} -c 'import json,sys; print(json.dumps(sys.argv[1:]))'"


def first_launch(plans: ModuleType, engine: str, path: str, folder: str = "") -> object:
    for seed in range(100):
        drawn = plans.draw(seed, engine)
        if drawn is None:
            continue
        options = Options(engine=engine, model_path=path, folder=folder)
        return written(plans.layouts(*drawn), engine, completed(options, drawn[0]))
    raise LookupError


@pytest.mark.parametrize("path", HOSTILE)
def test_a_shell_hands_on_what_was_meant(plans: ModuleType, path: str) -> None:
    for engine, program in (("vllm", ["vllm"]), ("sglang", ["python"])):
        launch = first_launch(plans, engine, path).launches[0]  # type: ignore[attr-defined]
        text = command_text(launch)
        assert launch.argv[: len(program)] == tuple(program)
        run = text.replace(f"  {program[0]} ", f"  {ECHO} ", 1)
        done = subprocess.run(
            ["sh", "-c", run], capture_output=True, text=True, check=True, cwd="/", env={}
        )
        assert json.loads(done.stdout) == list(launch.argv[len(program) :])


@pytest.mark.parametrize("path", HOSTILE)
def test_our_own_reader_and_a_shell_agree(plans: ModuleType, path: str) -> None:
    launch = first_launch(plans, "sglang", path).launches[0]  # type: ignore[attr-defined]
    (command,) = commands_in(script_text(launch, f"title of {path}"), "script")
    assert command.words == launch.argv
    assert command.env == dict(launch.env)


@pytest.mark.parametrize("folder", [f for f in HOSTILE if "\n" not in f])
def test_yaml_and_the_paths_in_it_are_read_back(plans: ModuleType, folder: str) -> None:
    export = first_launch(plans, "trtllm", "m", folder)
    argv = export.launches[0].argv  # type: ignore[attr-defined]
    config = argv[argv.index("--config") + 1]
    names = [file.name for file in export.files]  # type: ignore[attr-defined]
    assert config.startswith(f"{folder}/")
    assert config.removeprefix(f"{folder}/") in names
    for file in export.files:  # type: ignore[attr-defined]
        if file.name.endswith(".yaml"):
            assert isinstance(yaml.safe_load(file.text), dict)


@pytest.mark.parametrize("path", ["-x", "--model", "", "a\0b"])
def test_what_no_command_line_can_carry_is_refused(plans: ModuleType, path: str) -> None:
    drawn = next(d for d in (plans.draw(seed, "vllm") for seed in range(50)) if d is not None)
    if not path:  # the model's own name is taken
        assert completed(Options(), drawn[0]).model_path == drawn[0].llm.name
        return
    with pytest.raises(SpecError, match="--model-path"):
        completed(Options(model_path=path), drawn[0])
