"""Look at a log and write a config for it, with the reason for each choice.

    python -m pinnerformer_jax.init orders.csv [--items products.csv] [--out configs/yours.py]

Reads the log and the item table as ingest does (Parquet, CSV, .gz, globs): columns by name, kind and values,
the form of the times, actions, guests, returns, repeats, and how the item table matches. It asks nothing.
What is not certain is marked in the file: CHECK where a value is to be looked at, EDIT where one is missing
and ingest stops until it is written. An existing file is not overwritten.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.ingestion.config_text import config_text
from pinnerformer_jax.ingestion.draft import CHECK, EDIT, Draft
from pinnerformer_jax.ingestion.draft_config import draft_config

if TYPE_CHECKING:
    from rich.table import Table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.init",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("events", nargs="+", metavar="LOG", help="files of the log, or patterns in quotes")
    parser.add_argument("--items", default="", metavar="FILE", help="the item table")
    parser.add_argument(
        "--out", type=Path, default=Path("configs/yours.py"), metavar="FILE", help="to write (%(default)s)"
    )
    values = parser.parse_args(argv)
    with errors_as_messages():
        draft, lines = init(values.events, values.items, values.out)
    Console().print(summary(draft, lines))
    for line in draft.seen:
        print(line)
    for mark, what in ((EDIT, "write these lines, ingest needs them"), (CHECK, "check these lines")):
        if settings := draft.marked(mark):
            print(f"{what}:")
            for setting in settings:
                print(f"  {values.out}:{lines[setting]}  {setting}: {draft.choices[setting].reason}")
    print(f"wrote {values.out}")
    print(f"next: python -m pinnerformer_jax.run --config {values.out} --workdir runs/{values.out.stem}")
    return 0


def init(events: Sequence[str], items: str, out: Path) -> tuple[Draft, dict[str, int]]:
    """Write the config of a log.

    Args:
        events: files of the log, or globs.
        items: file of the item table; "": none.
        out: the file to write.

    Returns:
        The choices, and the line of each setting in the file.

    Raises:
        FileExistsError: there is such a file.
        FileNotFoundError: a file of the log is not there.
        ValueError: a file cannot be read.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists, and is not overwritten: name another file with --out")
    if out.suffix != ".py":
        raise ValueError(f"--out {out}: a config is a Python file, so its name must end in .py")
    name = re.sub(r"\W+", "_", out.stem)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".init-", dir=out.parent) as work:
        draft = draft_config(name, events, items, f"data/{name}/prepared", Path(work), print)
    text, lines = config_text(draft, str(out))
    with open(out, "x", encoding="utf-8") as file:
        file.write(text)
    return draft, lines


def summary(draft: Draft, lines: dict[str, int]) -> Table:
    """What was chosen, for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Init")
    for heading in ("setting", "value", ""):
        table.add_column(heading)
    for setting in lines:  # in the order of the file
        choice = draft.choices[setting]
        value = choice.value if isinstance(choice.value, str) else repr(choice.value)
        if setting == "data.positives":
            value = ", ".join(rule.action or "every event" for rule in choice.value)
        elif isinstance(choice.value, tuple):
            value = ", ".join(map(str, choice.value))
        table.add_row(setting, escape(value), choice.mark)
    return table


if __name__ == "__main__":
    import sys

    sys.exit(main())
