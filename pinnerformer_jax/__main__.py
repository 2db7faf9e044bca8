"""PinnerFormer on the command line.

    pinnerformer VERB [...]      the same as python -m pinnerformer_jax.VERB [...]
    pinnerformer VERB --help     what a verb reads, does and leaves, and its settings

The verbs, in the order in which a new project needs them:
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

VERBS = (
    "synthetic",
    "init",
    "ingest",
    "publish_tfds",
    "items",
    "train",
    "evaluate",
    "embed",
    "export",
    "recommend",
    "similar",
    "vectors",
    "explore",
    "run",
    "replay",
    "study",
    "tune",
    "compare_items",
    "bench",
)
"""Modules of the package, or packages with a `__main__`."""


def main() -> int:
    """Run the verb that the process was given; the exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    verb, *rest = arguments
    if verb == "--version":
        from pinnerformer_jax import __version__

        print(__version__)
        return 0
    if verb not in VERBS:
        print(f"error: {verb}: no such verb; pinnerformer --help lists them", file=sys.stderr)
        return 2
    sys.argv = [f"pinnerformer {verb}", *rest]  # what its usage and its records name
    return importlib.import_module(_module(verb)).main() or 0


def overview() -> str:
    """What this module says, and a line a verb. No verb is imported: their libraries take seconds to load."""
    width = max(map(len, VERBS))
    lines = [f"    {verb:{width}}  {summary(verb)}" for verb in VERBS]
    return "\n".join([(__doc__ or "").strip(), *lines])


def summary(verb: str) -> str:
    """The first line of a verb's docstring, read from its source."""
    spec = importlib.util.find_spec(_module(verb))
    source = Path(str(spec and spec.origin)).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _module(verb: str) -> str:
    folder = Path(__file__).with_name(verb)
    return f"pinnerformer_jax.{verb}.__main__" if folder.is_dir() else f"pinnerformer_jax.{verb}"


if __name__ == "__main__":
    sys.exit(main())
