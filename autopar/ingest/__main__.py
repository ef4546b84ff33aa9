"""`python -m autopar.ingest CONFIG.json`: print a model of the world as a file of our catalogue."""

import argparse
import sys
from pathlib import Path

from autopar.errors import SpecError
from autopar.ingest.hf_config import read_config
from autopar.ingest.yaml_text import yaml_text
from autopar.specs import LLM


def main() -> int:
    """Print the YAML to stdout, a refusal to stderr; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m autopar.ingest",
        description="Print the model that a config.json of Hugging Face describes, as YAML.",
    )
    parser.add_argument("config", type=Path, help="config.json, or the folder that has it")
    parser.add_argument("--name", help="name of the model; default: from the file or its folder")
    parser.add_argument("--description", help="one line on the model; the counts are added to it")
    parser.add_argument(
        "--source", action="append", help="where the config is from; default: the path"
    )
    options = parser.parse_args()
    try:
        sys.stdout.write(yaml_text(_with_words(read_config(options.config), options)))
    except SpecError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _with_words(llm: LLM, options: argparse.Namespace) -> LLM:
    """Return the model with what the command line says of it."""
    words = llm.document()
    if options.name is not None:
        words["name"] = options.name
    if options.description is not None:
        words["description"] = f"{options.description} {words['description']}"
    if options.source is not None:
        words["sources"] = options.source
    return LLM.model_validate(words)


if __name__ == "__main__":
    sys.exit(main())
