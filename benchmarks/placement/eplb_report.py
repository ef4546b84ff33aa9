"""The tables of results/placement.md."""

from collections.abc import Iterator
from statistics import mean
from typing import Any

Json = dict[str, Any]
_MADE_BY = "Made by `python benchmarks/placement/beside_eplb.py --eplb EPLB --eplb-python PYTHON`."
_SAID_OF_BALANCE = (
    "quick: the search alone, with bounds that cost nothing (`--effort quick`); proved: small "
    "layers and pairs of slots proved too, the default. Times per layer. Twins: layers in which "
    "EPLB has an expert twice on one GPU."
)
_COLUMNS = (
    "case", "EPLB gap", "autopar gap", "worst layer", "less than EPLB", "proved optimal",
    "EPLB twins", "quick ms", "proved ms", "eplb.py ms", "its rule in numpy ms",
)  # fmt: skip
_GAP = (
    "(`autopar/placement/synthetic.py`), one core. Gap: the sum over layers of the fullest GPU's "
    "load over the sum of the proved bounds, less 1."
)


def report(found: Json) -> list[str]:
    """Return the lines of the page."""
    return [
        "# Expert placement, autopar and EPLB side by side",
        "",
        f"{_MADE_BY} {found['facts']}",
        f"EPLB: deepseek-ai/EPLB at {found['eplb'][:12]}. Loads from seed {found['seed']} {_GAP}",
        "",
        *_targets(found),
        *_balance(found["balance"]),
        *_traffic(found["traffic"]),
        *_replanning(found["replanning"]),
        *_windows(found["windows"]),
    ]


def _targets(found: Json) -> Iterator[str]:
    yield from ("## Targets", "", "| target | found | met |", "|---|---|---|")
    for name, said, met in _judged(found):
        yield f"| {name} | {said} | {'yes' if met else '**no**'} |"
    yield ""


def _judged(found: Json) -> Iterator[tuple[str, str, bool]]:
    """Yield each target, what was found, and whether that meets it."""
    yield from _lawful(found["balance"])
    yield from _near_the_bound(found["balance"])
    yield from _less_than_eplb(found["balance"])
    yield _fewer_nodes(found["traffic"])
    whole = next(r for r in found["balance"] if r["case"] == "DeepSeek-V3 288/32 lognormal")
    shell_s = found["shell"]["wall_s"]
    yield (
        "whole DeepSeek-V3 (58 layers, 288 slots, 32 GPUs) within 1 s",
        f"{whole['quick_s']:.2f} s; from the shell, file to JSON, {shell_s:.2f} s",
        shell_s <= 1,
    )
    yield from _recovered(found["replanning"])


def _lawful(rows: list[Json]) -> Iterator[tuple[str, str, bool]]:
    layers, worse, clean, proved, ours, theirs = (
        sum(r[key] for r in rows)
        for key in (
            "layers",
            "worse_layers",
            "worse_without_twins",
            "worse_and_proved",
            "our_twins",
            "eplb_twins",
        )
    )
    said = f"of {layers:,} layers EPLB is ahead in {worse}"
    if worse:
        said += (
            f", {worse - clean} of them with an expert twice on a GPU; in {proved} it is proved "
            "that no placement without that reaches it"
        )
    yield "never worse than a plan of EPLB without twins", said, clean == 0
    twins = f"{ours} layers; EPLB: {theirs} of {layers:,}"
    yield "never two replicas of an expert on one GPU", twins, ours == 0


def _near_the_bound(rows: list[Json]) -> Iterator[tuple[str, str, bool]]:
    room = [r for r in rows if r["has_room"] and r["kind"] != "zipf"]
    for name, some in (
        ("mild, lognormal, dirichlet", [r for r in room if r["kind"] != "heavy"]),
        ("heavy-tailed (sigma to 2.4)", [r for r in room if r["kind"] == "heavy"]),
    ):
        worst = max(some, key=lambda r: r["quick_gap"])
        slow = max(some, key=lambda r: r["quick_ms_per_layer"])
        yield (
            f"4 slots per GPU, 10 % redundancy, {name}: gap at most 0.15 % in 20 ms per layer",
            (
                f"largest gap {_percent(worst['quick_gap'])} ({worst['case']}), slowest "
                f"{slow['quick_ms_per_layer']:.1f} ms ({slow['case']})"
            ),
            worst["quick_gap"] <= 0.0015 and slow["quick_ms_per_layer"] <= 20,
        )


def _less_than_eplb(rows: list[Json]) -> Iterator[tuple[str, str, bool]]:
    for name, model, slots, kinds in (
        ("Mixtral 12 slots, 4 GPUs", "Mixtral-8x7B", 12, None),
        ("Mixtral 16 slots, 8 GPUs", "Mixtral-8x7B", 16, None),
        ("heavy-tailed 192 slots, 64 GPUs", "Qwen3-235B", 192, ("heavy",)),
    ):
        some = [r for r in rows if r["model"] == model and r["slots"] == slots]
        some = [r for r in some if kinds is None or r["kind"] in kinds]
        less = mean(r["less_than_eplb"] for r in some)
        each = ", ".join(f"{r['kind']} {_percent(r['less_than_eplb'])}" for r in some)
        said = f"{_percent(less)} ({each})"
        yield f"{name}: 3 % less summed max load than EPLB", said, less >= 0.03


def _fewer_nodes(rows: list[Json]) -> tuple[str, str, bool]:
    fewer, later = (
        [1 - r[key]["gathered"] / r[key]["eplb"] for r in rows]
        for key in ("nodes_per_token", "held_out")
    )
    return (
        "4 % fewer nodes per token at 1 % imbalance, clustered routing",
        (
            f"{_percent(min(fewer))} to {_percent(max(fewer))}; on tokens held out "
            f"{_percent(min(later))} to {_percent(max(later))}"
        ),
        min(fewer) >= 0.04,
    )


def _recovered(rows: list[Json]) -> Iterator[tuple[str, str, bool]]:
    for drift in sorted({r["drift"] for r in rows}):
        least: dict[str, float] = {}
        for row in (r for r in rows if r["drift"] == drift):
            where = row["case"].rsplit(" ", 1)[0]
            least[where] = min(least.get(where, 1.0), row["recovered"])
        said = ", ".join(f"{where}: {_percent(value)} at least" for where, value in least.items())
        name = f"5 % of slots moved recover 80 % of the gain, drift sigma {drift}"
        yield name, said, min(least.values()) >= 0.8


def _balance(rows: list[Json]) -> Iterator[str]:
    yield from (
        "## Balance, proof and time",
        "",
        _SAID_OF_BALANCE,
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    )
    for r in rows:
        cells = (
            r["case"],
            _percent(r["eplb_gap"]),
            _percent(r["gap"]),
            _percent(r["worst_gap"]),
            _percent(r["less_than_eplb"]),
            f"{r['proved_layers']} of {r['layers']}",
            str(r["eplb_twins"]),
            *(
                f"{r[key]:.2f}"
                for key in (
                    "quick_ms_per_layer",
                    "ms_per_layer",
                    "eplb_ms_per_layer",
                    "rule_ms_per_layer",
                )
            ),
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _traffic(rows: list[Json]) -> Iterator[str]:
    yield from (
        "## Nodes per token",
        "",
        (
            "Routing with topics; balanced: the placement for load alone; gathered: "
            "`--balance-tolerance 1%`. Held out: as many tokens that were not planned on."
        ),
        "",
        (
            "| case | EPLB: load, nodes | balanced: load, nodes | gathered: load, nodes | fewer "
            "than EPLB | held out | s |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|",
    )
    for r in rows:
        pairs = [
            f"{r['max_over_mean'][key]:.4f}, {r['nodes_per_token'][key]:.3f}"
            for key in ("eplb", "balanced", "gathered")
        ]
        fewer = [1 - r[key]["gathered"] / r[key]["eplb"] for key in ("nodes_per_token", "held_out")]
        cells = (r["case"], *pairs, *(_percent(f) for f in fewer), f"{r['seconds']:.2f}")
        yield f"| {' | '.join(cells)} |"
    yield ""


def _replanning(rows: list[Json]) -> Iterator[str]:
    yield from (
        "## Re-planning with at most 5 % of the slots moved",
        "",
        (
            "Fullest GPU over mean: of the old placement under drifted loads, after the moves, and "
            "of a placement made anew, which moves nearly everything."
        ),
        "",
        "| case | drift | stale | moved | anew | recovered | slots moved | ms per layer |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    )
    for r in rows:
        yield (
            f"| {r['case']} | {r['drift']} | {r['stale']:.4f} | {r['replanned']:.4f} | "
            f"{r['free']:.4f} | {_percent(r['recovered'])} | {_percent(r['moved'])} | "
            f"{r['ms_per_layer']:.0f} |"
        )
    yield ""


def _windows(rows: list[Json]) -> Iterator[str]:
    yield from (
        "## Windows planned on and held out",
        "",
        (
            "Mean over windows of fullest over mean load: of 16 windows planned on, and of 16 "
            "others. Trivial: slot i holds expert i modulo the experts; rule: EPLB's."
        ),
        "",
        (
            "| case | drift | tokens per window | planned: trivial | rule | autopar | held out: "
            "trivial | rule | autopar |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    )
    for r in rows:
        cells = [
            f"{r[part][key]:.4f}"
            for part in ("planned", "held_out")
            for key in ("trivial", "rule", "autopar")
        ]
        yield f"| {r['case']} | {r['drift']} | {r['tokens']:,} | {' | '.join(cells)} |"


def _percent(value: float) -> str:
    return f"{value * 100:.2f} %"
