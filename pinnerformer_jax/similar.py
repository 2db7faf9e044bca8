"""The items that are nearest to an item, by the vectors of the state that the daily job published.

    python -m pinnerformer_jax.similar --snapshots DIR --item ID [-k 10]

The score is the cosine of the two items' vectors. Items are near if users who come to the one come to the
other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.shop_rules import add_flags, rules_of
from pinnerformer_jax.serving.typed_ids import typed_id


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.similar",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--snapshots", type=Path, required=True, metavar="DIR", help="where states are published"
    )
    parser.add_argument("--item", required=True, metavar="ID", help="as in the log")
    parser.add_argument("-k", type=int, default=10, help="how many items (%(default)s)")
    add_flags(parser)
    values = parser.parse_args(argv)
    with errors_as_messages():
        recommender = Recommender.open(values.snapshots, keep_events=False)
        loaded = recommender.refresh()
        ids = loaded.items["item_id"].combine_chunks()
        recommender.rules = rules_of(values, ids)
        item_id = typed_id(values.item, ids.type, "--item", "item")
        found = recommender.similar(item_id, values.k)
    title = loaded.items["title"][loaded.row[item_id]].as_py()
    print(
        f"item {values.item} ({title}): nearest items (model {loaded.model_version}, {loaded.manifest.date})"
    )
    table = Table()
    for name in ("item", "title"):
        table.add_column(name)
    table.add_column("score", justify="right")
    for item in found:
        table.add_row(escape(str(item.id)), escape(item.title), f"{item.score:.3f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
