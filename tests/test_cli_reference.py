"""docs/cli.md says what --help says."""

import runpy
from pathlib import Path

from autopar.cli import VERBS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_page_is_what_help_says() -> None:
    page = runpy.run_path(str(DOCS / "make_cli_reference.py"))["page"]()
    assert (DOCS / "cli.md").read_text("utf-8") == page, "stale: run `make docs`"


def test_the_page_has_every_verb_within_80_columns() -> None:
    text = (DOCS / "cli.md").read_text("utf-8")
    for verb in VERBS:
        assert f"\n## autopar {verb}\n" in text
    assert max(map(len, text.splitlines())) <= 80
