"""Take the marked examples out of the README, so that CI runs what a reader would copy.

Usage: readme_examples.py README FOLDER

A fenced block that follows the comment `<!-- example: NAME -->` is written to FOLDER/NAME. Blocks
named `commands` are shell sessions: their lines that start with `$ ` go, in order, to
FOLDER/commands.sh. A command ends with `# exit N` where it is meant to exit with N.
"""

# ruff: noqa: INP001  # a script, not a module of the package
import re
import sys
from pathlib import Path

BLOCK = re.compile(
    r"^<!-- example: (?P<name>[\w.-]+) -->\s*\n```[^\n]*\n(?P<body>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
EXIT = re.compile(r"^(?P<command>.*?)\s+# exit (?P<code>\d+)$")


def shell_lines(session: str) -> list[str]:
    """Return the commands of a shell session as lines of a script that checks their exit codes."""
    lines: list[str] = []
    for line in session.splitlines():
        if not line.startswith("$ "):
            continue
        command, code = line[2:], 0
        if match := EXIT.match(command):
            command, code = match["command"], int(match["code"])
        lines += [
            f"cat <<'END_OF_COMMAND'\n{line}\nEND_OF_COMMAND",
            f"code=0; {command} || code=$?",
            f'[ "$code" -eq {code} ] || {{ echo "exit $code, expected {code}" >&2; exit 1; }}',
        ]
    return lines


def main(readme: Path, folder: Path) -> None:
    """Write the examples; stop where there is no rule, no plug-in or no command among them."""
    script: list[str] = []
    suffixes: set[str] = set()
    for match in BLOCK.finditer(readme.read_text(encoding="utf-8")):
        if match["name"] == "commands":
            script += shell_lines(match["body"])
        else:
            (folder / match["name"]).write_text(match["body"], encoding="utf-8")
            suffixes.add(Path(match["name"]).suffix)
    missing = {".yaml", ".py"} - suffixes
    if missing or not script:
        lacking = ", ".join(sorted(missing) or ["commands"])
        sys.exit(f"{readme}: no block is marked `<!-- example: NAME -->` for {lacking}")
    (folder / "commands.sh").write_text("\n".join(script) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
