"""Write the flags of an engine into a fixture, from its wheel, without importing it.

python tests/engines/extract_flags.py vllm vllm-0.33.0-*.whl

writes autopar/ingest/plan/known/vllm-0.33.0.json: `{"engine", "version", "source", "flags": {name:
takes}}`, where `takes` is 0 for a switch and 1 for a flag with a value. Wheels are downloaded by
`make check-engines`, or by `pip download --no-deps`. Only the syntax of the sources is read. The
fixture of TensorRT-LLM, which has no wheel of use, is kept by hand.
"""

import ast
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

KNOWN = Path(__file__).parents[2] / "autopar" / "ingest" / "plan" / "known"
# Where arguments are declared, below the top of the wheel.
PLACES = {
    "vllm": ("vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py"),
    "sglang": ("sglang/srt/arg_groups/fields/", "sglang/srt/server_args.py"),
    "megatron": (
        "megatron/training/arguments.py",
        "megatron/training/config/",
        "megatron/core/transformer/transformer_config.py",
        "megatron/core/model_parallel_config.py",
        "megatron/core/fault_injector.py",
    ),
}
Flags = dict[str, int]


def sources(wheel: Path, engine: str) -> Iterator[ast.Module]:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".py") and name.startswith(PLACES[engine]):
                yield ast.parse(archive.read(name))


def literal(node: ast.AST | None) -> object:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def is_bool(annotation: ast.AST) -> bool:
    words = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return "bool" in words and not words & {"str", "int", "float", "list", "dict"}


def keyword(call: ast.AST | None, name: str) -> ast.AST | None:
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return next((k.value for k in keywords if k.arg == name), None)


def is_switch(call: ast.Call, booleans: set[str]) -> bool:
    """Whether an add_argument takes no value: by its action, or by the field that it is made of."""
    action = keyword(call, "action")
    if action is not None:
        return "store" in ast.unparse(action) or "Boolean" in ast.unparse(action)
    spread = [k.value for k in call.keywords if k.arg is None]
    named = [n for part in spread for n in ast.walk(part) if isinstance(n, ast.Subscript)]
    return any(literal(node.slice) in booleans for node in named)


def of_calls(tree: ast.Module, booleans: set[str]) -> Iterator[tuple[str, int, bool]]:
    """Yield flags of add_argument calls: name, what it takes, whether `--no-name` is there too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            names = [literal(argument) for argument in node.args]
            switch = is_switch(node, booleans)
            spread = any(k.arg is None for k in node.keywords)
            for name in names:
                if isinstance(name, str) and name.startswith("-"):
                    yield name, 0 if switch else 1, switch and spread


def fields(tree: ast.Module) -> Iterator[tuple[str, ast.AnnAssign]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    yield item.target.id, item


def vllm(trees: list[ast.Module]) -> Flags:
    booleans = {name for tree in trees for name, item in fields(tree) if is_bool(item.annotation)}
    found: Flags = {}
    for tree in trees:
        for name, takes, negatable in of_calls(tree, booleans):
            found[name] = takes
            if negatable and name.startswith("--"):
                found[f"--no-{name[2:]}"] = 0
    for tree in trees:  # every field of the server's own arguments is a flag
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name.endswith("FrontendArgs"):
                for name, item in fields(ast.Module([node], [])):
                    flag = name.replace("_", "-")
                    found[f"--{flag}"] = 0 if is_bool(item.annotation) else 1
                    if is_bool(item.annotation):
                        found[f"--no-{flag}"] = 0
    return found


def sglang(trees: list[ast.Module]) -> Flags:
    found: Flags = {}
    for tree in trees:
        found.update({name: takes for name, takes, _ in of_calls(tree, set())})
        for name, item in fields(tree):
            annotation = item.annotation
            if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "A"):
                continue
            parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else []
            meta = next(
                (p for p in parts if isinstance(p, ast.Call)), ast.Call(ast.Name("A"), [], [])
            )
            if literal(keyword(meta, "no_cli")) is True:
                continue
            own = literal(keyword(meta, "cli_name")) or "--" + name.replace("_", "-")
            aliases = literal(keyword(meta, "aliases")) or []
            takes = 0 if parts and is_bool(parts[0]) else 1
            action = keyword(meta, "action")
            if action is not None and "Boolean" in ast.unparse(action):
                found["--no-" + str(own)[2:]] = takes = 0
            found.update(dict.fromkeys([str(own), *aliases], takes))  # type: ignore[misc]
    return found


def megatron(trees: list[ast.Module]) -> Flags:
    """Flags of calls, and of the dataclasses that arguments.py gives to ArgumentGroupFactory.

    Raises ValueError where what such a dataclass leaves out cannot be read.
    """
    used = dict(factory for tree in trees for factory in factories(tree))
    used["ModelParallelConfig"] = used.get("TransformerConfig", set())  # its base
    found: Flags = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in used:
                for name, item in fields(ast.Module([node], [])):
                    is_set_later = literal(keyword(item.value, "init")) is False
                    if name not in used[node.name] and not is_set_later:
                        found.update(of_field(name, item))
        for name, takes, _ in of_calls(tree, set()):
            found[name] = takes
        found.update(dict.fromkeys(negations(tree), 0))
    return found


def factories(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Yield the dataclass of each ArgumentGroupFactory(...) and the fields that are no flags.

    They are a list, or a variable that the same function sets to one.
    """
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        lists = {
            target.id: literal(node.value)
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ArgumentGroupFactory":
                given = keyword(node, "exclude") or (node.args[1] if node.args[1:] else None)
                named = lists.get(given.id) if isinstance(given, ast.Name) else literal(given)
                if given is not None and not isinstance(named, list | tuple):
                    raise ValueError(f"line {node.lineno}: exclude={ast.unparse(given)} is no list")
                yield ast.unparse(node.args[0]), set(named or ())  # type: ignore[call-overload]


def of_field(name: str, item: ast.AnnAssign) -> Flags:
    """Flags of a field as ArgumentGroupFactory makes them, and what each takes.

    `arg_names` in its metadata takes the place of its own name, and of --no-NAME and --disable-NAME
    that a switch has which is on.
    """
    takes = 0 if is_bool(item.annotation) else 1
    flag, value = name.replace("_", "-"), item.value
    default = keyword(value, "default") if isinstance(value, ast.Call) else value
    is_on = takes == 0 and literal(default) is True
    names = [f"--no-{flag}", f"--disable-{flag}"] if is_on else [f"--{flag}"]
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.Dict):
            keys = [literal(key) for key in node.keys]
            given = literal(dict(zip(keys, node.values, strict=True)).get("arg_names"))
            names = list(given) if isinstance(given, list) else names
    return dict.fromkeys(names, takes)


def negations(tree: ast.Module) -> Iterator[str]:
    """Yield the --no-NAME of calls whose action is BooleanOptionalAction."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            action = keyword(node, "action")
            if action is not None and "BooleanOptional" in ast.unparse(action):
                for name in (literal(argument) for argument in node.args):
                    if isinstance(name, str) and name.startswith("--"):
                        yield f"--no-{name[2:]}"


def main(engine: str, wheel: Path) -> None:
    trees = list(sources(wheel, engine))
    flags = {"vllm": vllm, "sglang": sglang, "megatron": megatron}[engine](trees)
    version = wheel.name.split("-")[1]
    document = {
        "engine": engine,
        "version": version,
        "source": f"sources in the wheel {wheel.name.split('-')[0]} {version}, by their syntax",
        "flags": dict(sorted(flags.items())),
    }
    path = KNOWN / f"{engine}-{version}.json"
    path.write_text(json.dumps(document, indent=0) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}: {len(flags)} flags\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
