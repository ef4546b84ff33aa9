"""Run the peer's oracle on the cases: the best plan of everything that it could have searched.

    python benchmarks/peer/run_oracle.py --peer-env ENV --out DIR [--case NAME ...] [--no-disagg]

Writes DIR/NAME/oracle.json, beside what run_peer.py writes; a recorded case is kept unless --again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cases import Case, load_cases, select
from run_peer import model_path, peer_python
from timed import run_timed

HERE = Path(__file__).parent
LIMIT_S = 30 * 60.0


def case_input(case: Case, env: Path, folder: Path, *, disagg: bool) -> dict[str, Any]:
    """Return what peer_oracle.py reads."""
    return {
        "name": case.name,
        "model": model_path(case, env, folder),
        "system": case.peer.system,
        "backend": case.peer.backend,
        "isl": case.input_tokens,
        "osl": case.output_tokens,
        "num_gpus": case.gpus,
        "ttft_ms": case.ttft_ms,
        "tpot_ms": case.tpot_ms,
        "disagg": disagg,
    }


def run_case(case: Case, env: Path, out: Path, *, limit_s: float, disagg: bool) -> None:
    """Enumerate one case into its oracle.json."""
    folder = out.absolute() / case.name
    folder.mkdir(parents=True, exist_ok=True)
    question, answer = folder / "oracle-case.json", folder / "oracle.json.part"
    text = json.dumps(case_input(case, env, folder, disagg=disagg))
    question.write_text(text, encoding="utf-8")
    command = [str(env / "bin" / "python"), str(HERE / "peer_oracle.py"), str(question)]
    cost = run_timed(command, answer, folder / "oracle-log.txt", limit_s=limit_s)
    if cost.exit_code == 0:
        answer.replace(folder / "oracle.json")
    print(
        f"{case.name}: exit {cost.exit_code}, {cost.wall_s:.0f} s wall, {cost.user_s:.0f} s user",
        file=sys.stderr,
        flush=True,
    )


def recorded_oracle(case: Case, out: Path) -> dict[str, Any] | None:
    """Return the recorded oracle of a case, None where there is none."""
    path = out / case.name / "oracle.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peer-env", type=Path, required=True, help="the peer's environment")
    parser.add_argument("--out", type=Path, required=True, help="where the answers go")
    parser.add_argument("--case", action="append", default=[], help="a case; all by default")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="time limit of one case, s")
    parser.add_argument("--no-disagg", action="store_true", help="aggregated plans only")
    parser.add_argument("--again", action="store_true", help="run recorded cases again")
    options = parser.parse_args(arguments)
    peer_python(options.peer_env)
    for case in select(load_cases(), options.case):
        if case.peer.cannot or (recorded_oracle(case, options.out) and not options.again):
            continue
        env = options.peer_env.absolute()
        run_case(case, env, options.out, limit_s=options.limit_s, disagg=not options.no_disagg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
