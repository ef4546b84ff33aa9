"""Options that several verbs share, and what they load."""
# ruff: noqa: PLC0415  --help imports no pydantic

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from autopar.cli._errors import set_verbosity

if TYPE_CHECKING:
    from autopar.constraints import PlugIn
    from autopar.specs import PlanSpec, Scenario

_F = TypeVar("_F", bound=Callable[..., Any])
# The names of `autopar.objectives`, written out because --help imports no numpy.
OBJECTIVES = ("throughput", "throughput_per_gpu", "cost", "gpus", "ttft", "tpot", "memory")
_SHORTHANDS = {
    "coverage": "requirements.coverage",
    "ttft": "requirements.max_ttft_us",
    "tpot": "requirements.max_tpot_us",
    "min_rate": "requirements.min_tokens_per_s",
}
_PARTS = ("llm", "cluster", "workload", "recipe")


@dataclass(frozen=True, slots=True)
class Output:
    """How a verb prints: as JSON, into a file, with colour, and how much beside the result."""

    as_json: bool
    file: Path | None
    color: bool
    verbose: int
    quiet: bool


@dataclass(frozen=True, slots=True)
class Query:
    """The scenario as the command line describes it, not loaded yet."""

    spec: str | Mapping[str, Any] | None  # a mapping where an answer is replayed
    parts: dict[str, str]
    overrides: tuple[str, ...]
    catalogs: tuple[Path, ...]
    plugins: tuple[str, ...]
    allow_plugins: bool
    engines: tuple[str, ...] = ()
    options: Mapping[str, str] | None = None  # what messages call parts and overrides
    objective: str | None = None
    expert_loads: str | None = None
    rules: tuple[str, ...] = ()

    @property
    def changes_spec(self) -> bool:
        """Whether the scenario is another than the one that its author wrote."""
        changes = (self.overrides, self.parts, self.engines, self.objective, self.expert_loads)
        return any(changes) or bool(self.rules)

    @property
    def is_complete_without_spec(self) -> bool:
        """Whether the parts alone make a scenario; then one argument alone is a plan, not SPEC."""
        return {"llm", "cluster", "workload"} <= self.parts.keys()

    def scenario(self) -> "Scenario":
        """Return the scenario, loaded and checked."""
        from autopar.catalog import load_scenario

        scenario = load_scenario(
            self.spec,
            overrides=self.overrides,
            parts=self.parts | self._engine(),
            rule_packs=tuple(dict.fromkeys(self.engines)),
            catalogs=self.catalogs,
            options=self.options,
        )
        if self.expert_loads is not None:
            scenario = self._loaded(scenario, self.expert_loads)
        if self.rules:
            scenario = self._ruled(scenario)
        if self.objective is None:
            return scenario
        from autopar.errors import SpecError
        from autopar.specs.change import changed

        key, words = scenario.absent_time or ("", "")
        if self.objective == key:
            phase = scenario.workload.phase
            raise SpecError(
                f"--objective {key}: a {phase} workload has no {words}; expected one of "
                + ", ".join(name for name in OBJECTIVES if name != key)
            )
        others = [name for name in scenario.recipe.objectives if name != self.objective]
        return changed(scenario, "recipe.objectives", (self.objective, *others))

    def _loaded(self, scenario: "Scenario", source: str) -> "Scenario":
        """Return the scenario with the counts of a file, summed over its windows."""
        from autopar.errors import SpecError
        from autopar.placement.files.loads import read_loads
        from autopar.placement.model import of_model, refuse_idle_layers
        from autopar.specs.change import changed

        if source == "-" and self.spec == "-":
            raise SpecError("SPEC and --expert-loads are both -; standard input can be read once")
        measured = of_model(read_loads(source), scenario.llm)
        refuse_idle_layers(measured)
        if measured.layers != scenario.llm.expert_layers:
            raise SpecError(
                f"--expert-loads: loads of {len(measured.layers)} layers; expected all "
                f"{len(scenario.llm.expert_layers)} layers with experts of the model"
            )
        counts = measured.counts.sum(axis=0).tolist()
        workload = scenario.workload.document()
        return changed(
            scenario, "workload", workload | {"expert_load": "measured", "expert_counts": counts}
        )

    def _ruled(self, scenario: "Scenario") -> "Scenario":
        """Return the scenario with the typed predicates as rules, under names that are free."""
        from autopar.errors import SpecError, shorten
        from autopar.specs.change import changed
        from autopar.specs.recipe import MAX_EXPRESSION_CHARACTERS, RuleSpec

        taken = {rule.name for rule in scenario.all_rules}
        free = (name for n in count(1) if (name := f"rule-{n}") not in taken)
        rules = [rule.model_dump(mode="json") for rule in scenario.rules]
        for text in self.rules:
            if not 0 < len(text) <= MAX_EXPRESSION_CHARACTERS:
                raise SpecError(
                    f"--rule: found {shorten(text)}, expected a predicate of at most "
                    f"{MAX_EXPRESSION_CHARACTERS} characters, such as 'tp <= 4'"
                )
            rule = RuleSpec(name=next(free), require=text, because="asked for with --rule")
            if rule.is_of_pair and scenario.workload.phase != "disaggregated":
                raise SpecError(
                    f"--rule {shorten(text)} speaks of the roles prefill and decode, and the phase "
                    f"of this workload, {scenario.workload.phase}, has none; expected a rule over "
                    "one layout, or --set workload.phase=disaggregated"
                )
            rules.append(rule.model_dump(mode="json"))
        return changed(scenario, "rules", rules)

    def _engine(self) -> dict[str, str]:
        """Return the engine as a part: its host is waited for where it is the only one named."""
        from autopar.catalog import names

        engines = set(self.engines)
        is_known = len(engines) == 1 and engines <= set(names("engine", catalogs=self.catalogs))
        return {"engine": engines.pop()} if is_known else {}

    @contextmanager
    def named(self, plans: Sequence[str] = ()) -> Iterator[None]:
        """Add the file to the message of a SpecError about what a checked document says.

        plans: where the plans came from; a message that starts with `plan` is about one of them.
        """
        from autopar.documents import label_of
        from autopar.errors import SpecError

        try:
            yield
        except SpecError as error:
            about_plan = plans and str(error).startswith("plan ")
            sources = plans if about_plan else [self.spec] if isinstance(self.spec, str) else []
            place = "".join(f"{label_of(source)}: " for source in sources[:1])
            raise SpecError(f"{place}{error}") from None

    def plan(self, source: str | Mapping[str, Any]) -> "PlanSpec":
        """Return a plan by name, path or `-`, or what was read there."""
        from autopar.catalog import load_plan
        from autopar.errors import SpecError

        if source == "-" and self.spec == "-":
            raise SpecError("SPEC and PLAN are both -; standard input can be read only once")
        return load_plan(source, catalogs=self.catalogs)

    def constraints(self, scenario: "Scenario") -> list["PlugIn"]:
        """Return the constraints of the plug-in files, run only with the user's consent.

        A file given by --plugin has it; one that a recipe names needs --allow-plugins.
        Raises PluginError if a recipe names a file without it.
        """
        from autopar.documents import label_of
        from autopar.errors import PluginError

        named = scenario.recipe.plugins
        if named and not self.allow_plugins:
            raise PluginError(
                f"recipe {scenario.recipe.name!r}: plugins[0]: names {label_of(named[0])!r}, a "
                "file that would run with your rights; read it, then give --allow-plugins"
            )
        files = list(dict.fromkeys((*named, *self.plugins)))
        if not files:
            return []
        from autopar.plugins import load_file

        return [constraint for file in files for constraint in load_file(file)]


def scenario_options(command: _F) -> _F:
    """Add SPEC and everything that changes it; the command receives them as `query`."""
    options = (
        click.argument("spec", required=False),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="PATH=VALUE",
            help="Set any field of the spec, e.g. cluster.gpus_per_domain=32; null unsets it.",
        ),
        *_part_options(),
        *_target_options(),
        click.option(
            "--engine",
            "engines",
            multiple=True,
            metavar="NAME|FILE",
            help="Hold the rules of an engine (vllm, sglang, tensorrt-llm, megatron) and count its "
            "host time; given several times, hold the rules of all and count none.",
        ),
        click.option(
            "--expert-loads",
            metavar="FILE",
            help="Tokens that each expert got (as autopar place reads them): expert parallel "
            "sizes are weighed with the imbalance that their placement reaches.",
        ),
        click.option(
            "--rule",
            "rules",
            multiple=True,
            metavar="PREDICATE",
            help="Hold a predicate over the layout, such as 'tp <= 4' or 'batch % 64 == 0', or "
            "over both roles of a disaggregated service, 'prefill.tp <= decode.tp'; a name that is "
            "not known lists all that are.",
        ),
        click.option(
            "--plugin",
            "plugins",
            multiple=True,
            metavar="FILE",
            help="Run a Python file with constraints of your own; it has your rights.",
        ),
        click.option(
            "--allow-plugins",
            is_flag=True,
            help="Also run the Python files that the recipe names.",
        ),
        catalog_option,
    )
    return _with_query(_applied(command, options))


def output_options(command: _F) -> _F:
    """Add the options of printing; the command receives them as `output`."""
    return _printing(command, takes_folder=False)


def folder_output_options(command: _F) -> _F:
    """Add the options of printing for a command that may write several files: -o takes a folder."""
    return _printing(command, takes_folder=True)


def _printing(command: _F, *, takes_folder: bool) -> _F:
    into = "Write the document to FILE too, atomically; YAML if it ends in .yaml or .yml."
    if takes_folder:
        into = (
            "Write the document to FILE, atomically (YAML if it ends in .yaml or .yml), or each to "
            "a file of its own in DIR."
        )
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        click.option(
            "-o",
            "file",
            type=click.Path(path_type=Path, dir_okay=takes_folder),
            metavar="FILE|DIR" if takes_folder else "FILE",
            help=into,
        ),
        click.option("--no-color", is_flag=True, help="Print without colour."),
        click.option("-v", "verbose", count=True, help="Log phases; twice: also the solver's log."),
        click.option("-q", "quiet", is_flag=True, help="No progress and no warnings."),
    )

    def collect(values: dict[str, Any]) -> None:
        keys = ("as_json", "file", "no_color", "verbose", "quiet")
        as_json, file, no_color, verbose, quiet = (values.pop(key) for key in keys)
        set_verbosity(verbose)
        values["output"] = Output(as_json, file, not no_color, verbose, quiet)

    return _collecting(_applied(command, options), collect)


def catalog_option(command: _F) -> _F:
    """Add --catalog."""
    return click.option(
        "--catalog",
        "catalogs",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Look names up in DIR first; then in $AUTOPAR_CATALOG, then in what is shipped.",
    )(command)


def _part_options() -> tuple[Callable[[_F], _F], ...]:
    """Return the options that swap a part of the scenario."""
    return (
        click.option(
            "--model",
            metavar="NAME|FILE",
            help="Use another LLM: a name, a spec, a config.json or a folder that holds one.",
        ),
        click.option("--llm", metavar="NAME|FILE", help="The same as --model."),
        click.option("--cluster", metavar="NAME|FILE", help="Use another cluster."),
        click.option("--workload", metavar="NAME|FILE", help="Use another workload."),
        click.option("--recipe", metavar="NAME|FILE", help="Solve by another recipe."),
    )


def _target_options() -> tuple[Callable[[_F], _F], ...]:
    """Return the options that say what to reach."""
    return (
        click.option(
            "--coverage",
            type=click.Choice(("partition", "every_gpu", "up_to")),
            help="Which GPUs must work: each with one expert shard (partition), every_gpu, or any "
            "number (up_to). Default: what SPEC says; without it, or with parts alone, up_to.",
        ),
        click.option(
            "--ttft",
            metavar="TIME",
            callback=_time,
            help="Largest mean time to first token, with its unit (us, ms, s, min): 2s.",
        ),
        click.option(
            "--tpot",
            metavar="TIME",
            callback=_time,
            help="Largest mean time per output token, with its unit (us, ms, s): 40ms.",
        ),
        click.option(
            "--min-rate",
            metavar="RATE",
            callback=_rate,
            help="Least tokens/s in total (input tokens in prefill, else output tokens): 5000.",
        ),
        click.option(
            "--objective",
            type=click.Choice(OBJECTIVES),
            help="What to optimise first; those of the recipe break ties.",
        ),
    )


def _time(_: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Return a time as it was typed.

    Raises SpecError for none, and for one without its unit, which a spec takes for microseconds.
    """
    from autopar.units import DURATION_US

    expected = "a time with its unit, such as 2s or 40ms"
    return _quantity(option, value, DURATION_US, expected, bare=False)


def _rate(_: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Return a rate as it was typed.

    Raises SpecError for none.
    """
    from autopar.units import TOKENS_PER_S

    return _quantity(option, value, TOKENS_PER_S, "a rate such as 5000 (tokens/s)", bare=True)


def rate(_: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Return a bandwidth in bytes per second.

    Raises SpecError for none, and for one without its unit.
    """
    if value is None:
        return None
    from autopar.errors import SpecError, shorten
    from autopar.units import BYTES_PER_S, parse

    found = f"{option.opts[0]}: found {shorten(value)}"
    expected = "a rate with its unit, such as '450 GB/s' or '400 Gbit/s'"
    try:
        bandwidth = parse(value, BYTES_PER_S, expected)
    except ValueError as error:
        raise SpecError(f"{found}, {error}") from None
    if bandwidth <= 0 or value.strip().isdecimal():
        raise SpecError(f"{found}, expected {expected}")
    return bandwidth


def _quantity(
    option: click.Parameter,
    value: str | None,
    units: Mapping[str, float],
    expected: str,
    *,
    bare: bool,
) -> str | None:
    """Return the text of a quantity above zero; bare: whether its unit may be left out."""
    if value is None:
        return None
    from autopar.errors import SpecError, shorten
    from autopar.units import parse

    found = f"{option.opts[0]}: found {shorten(value)}"
    try:
        number = parse(value, units, expected)
    except ValueError as error:
        raise SpecError(f"{found}, {error}") from None
    if number <= 0:
        raise SpecError(f"{found}, expected more than zero")
    if not bare and not value.strip()[-1].isalpha():
        raise SpecError(f"{found}, expected {expected}")
    return value


def _with_query(command: _F) -> _F:
    def collect(values: dict[str, Any]) -> None:
        model, options = values.pop("model"), {"rule_packs": "--engine"}
        parts = {name: values.pop(name) for name in _PARTS}
        if model is not None:
            if parts["llm"] is not None:
                raise click.UsageError("found both --model and --llm, which are the same")
            parts["llm"], options["llm"] = model, "--model"
        typed = {option: values.pop(option) for option in _SHORTHANDS}
        shorthand = {
            f"{_SHORTHANDS[option]}={value}": f"--{option.replace('_', '-')}"
            for option, value in typed.items()
            if value is not None
        }
        values["query"] = Query(
            spec=values.pop("spec"),
            parts={name: value for name, value in parts.items() if value is not None},
            overrides=(*shorthand, *values.pop("overrides")),
            options=options | shorthand,
            catalogs=values.pop("catalogs"),
            plugins=values.pop("plugins"),
            allow_plugins=values.pop("allow_plugins"),
            engines=values.pop("engines"),
            objective=values.pop("objective"),
            expert_loads=values.pop("expert_loads"),
            rules=values.pop("rules"),
        )

    return _collecting(command, collect)


def _applied(command: _F, options: tuple[Callable[[_F], _F], ...]) -> _F:
    for option in reversed(options):
        command = option(command)
    return command


def _collecting(command: _F, collect: Callable[[dict[str, Any]], None]) -> _F:
    """Let `collect` gather several of click's keyword arguments into one before the command."""

    @wraps(command)
    def wrapped(**values: Any) -> Any:
        collect(values)
        return command(**values)

    return wrapped  # type: ignore[return-value]
