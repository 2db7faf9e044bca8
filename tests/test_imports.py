"""Imports run one way: a stage imports those before it and none behind it, and there is no circle."""

import ast
from pathlib import Path

import pinnerformer_jax

ROOT = Path(pinnerformer_jax.__file__).parent

BASE = ("config", "config_files", "remote_files", "files", "runtime", "workers", "command_line")
STAGES = (
    "data",
    "ingestion",
    "model",
    "objective",
    "training",
    "retrieval",
    "evaluation",
    "items",
    "serving",
    "export",
    "studies",
    "bench",
)
APART = {"evaluation": {"training"}, "serving": {"evaluation", "items"}, "bench": {"studies"}}
"""Stages that a stage keeps from although they come before it: any scorer can be evaluated, and what serves
needs nothing that measures."""
VERB, FACE, COMMAND = 90, 91, 92
"""Ranks above all stages: the verbs, what `import pinnerformer_jax` gives, the command over both."""


def modules():
    """Paths by name, `data.windows` for pinnerformer_jax/data/windows.py; the package itself is ""."""
    names = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(source, known):
    """The modules of the package that a source imports, at its top or within a function. `__version__` is
    set before the package imports anything, so it is no arrow."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            named = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"]
        else:
            continue
        for name in named:
            if name.partition(".")[0] == "pinnerformer_jax":
                inside = name.partition(".")[2]
                found.add(inside if inside in known else inside.rpartition(".")[0])
    return found


def room(module):
    """The stage of a module, or itself where it is in none."""
    first = module.partition(".")[0]
    return "base" if first in BASE else first


def rank(module):
    """Higher may import lower."""
    where = room(module)
    if where in ("base", *STAGES):
        return ("base", *STAGES).index(where)
    return {"": FACE, "__main__": COMMAND, "run": COMMAND}.get(where, VERB)  # run does what verbs do


def upward(graph):
    """Every arrow from a module to one that it may not import."""
    return [
        f"{source} -> {target}"
        for source, targets in sorted(graph.items())
        for target in sorted(targets)
        if room(source) != room(target)
        and (rank(target) >= rank(source) or room(target) in APART.get(room(source), ()))
    ]


def circles(graph):
    """Every circle of modules, as a path back to its start, found from its first module by name."""
    found = []

    def follow(path):
        for target in sorted(graph.get(path[-1], ())):
            if target == path[0]:
                found.append(" -> ".join([*path, target]))
            elif target > path[0] and target not in path and target not in finished:
                follow([*path, target])
                finished.add(target)

    for module in sorted(graph):
        finished = set()
        follow([module])
    return found


def test_no_arrow_runs_upward_and_none_in_a_circle():
    known = modules()
    graph = {module: imports(path.read_text(encoding="utf-8"), known) for module, path in known.items()}
    assert upward(graph) == []
    assert circles(graph) == []


def test_every_room_is_known():
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {"config", *STAGES}


def test_what_is_found():
    known = {"", "data", "data.windows", "training.loop", "train", "config"}
    source = """
import pinnerformer_jax.data.windows
from pinnerformer_jax.training.loop import train
from pinnerformer_jax import __version__, train
def later():
    from pinnerformer_jax.data import windows
"""
    assert imports(source, known) == {"data.windows", "training.loop", "train"}
    graph = {
        "config": {"data.windows"},
        "data.windows": {"data.timelines"},
        "data.timelines": {"data.windows"},
        "evaluation.metrics": {"retrieval.exact", "training.loop"},
        "embed": {"serving.daily", "train"},
        "train": {"config", "train"},
    }
    assert upward(graph) == [
        "config -> data.windows", "embed -> train", "evaluation.metrics -> training.loop",
    ]  # fmt: skip
    assert circles(graph) == ["data.timelines -> data.windows -> data.timelines", "train -> train"]
