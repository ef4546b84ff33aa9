"""What the README shows, a reader can run; .ci/check-wheel runs its commands from the wheel."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import autopar
from autopar.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_prints_what_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [block for block in blocks("python") if "load_scenario" in block]
    exec(compile(example, "README.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("optimal 4 ")
    assert second == "True ['ep-tp-pp', 'peak-throughput', 'utilised-throughput']"


def test_the_scenario_example_solves(tmp_path: Path) -> None:
    (example,) = [block for block in blocks("yaml") if "my-service" in block]
    path = tmp_path / "my-service.yaml"
    path.write_text(example, encoding="utf-8")
    solution = autopar.solve(autopar.load_scenario(path))
    assert solution.status == "optimal"
    assert solution.metrics is not None
    assert solution.metrics.tpot_us is not None
    assert solution.metrics.tpot_us <= 40e3


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["solve", "moe-16x16-512gpu"], "$ autopar solve moe-16x16-512gpu\n"),
        (["verify", "moe-16x16-512gpu", "ep16-tp2-pp8"], "$ autopar verify moe-16x16-512gpu ep16"),
    ],
)
def test_the_output_shown_is_the_output(command: list[str], shown: str) -> None:
    """Every line between the cuts marked [...] stands in the real output, in order."""
    real = CliRunner().invoke(main, [*command, "--no-color"], env={"COLUMNS": "80"}).output
    (block,) = [b for b in blocks("") if b.startswith(shown)]
    for part in block.split("\n", 1)[1].split("[...]\n"):
        assert part in real, part


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
