"""Recommend items to a user, from the state that the daily job published.

    python -m pinnerformer_jax.recommend --snapshots DIR --user ID [-k 10] [--hide-seen] [--store URL]

A user without a vector (unknown, deleted, or with too few events) gets the most popular items.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.serving.recommender import Recommendations, Recommender
from pinnerformer_jax.serving.stores import open_store

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table


_FLAGS = ("--snapshots", "--user", "-k", "--hide-seen", "--store", "-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.recommend",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--snapshots", type=Path, required=True, metavar="DIR", help="where states are published"
    )
    parser.add_argument("--user", required=True, metavar="ID", help="as in the log")
    parser.add_argument("-k", type=int, default=10, help="how many items (%(default)s)")
    parser.add_argument(
        "--hide-seen", action="store_true", help="leave out items of the user's newest events"
    )
    parser.add_argument(
        "--store", metavar="URL",
        help="look the vector up in this feature store (the URL that embed got), not in the snapshot",
    )  # fmt: skip
    values = parser.parse_args(_with_joined_id(sys.argv[1:] if argv is None else argv))
    with errors_as_messages():
        store = open_store(values.store) if values.store else None
        recommender = Recommender.open(values.snapshots, store)
        user_id = _user_id(values.user, recommender.user_type())
        found = recommender.recommend(user_id, values.k, exclude_seen=values.hide_seen)
    origin = "no vector, so the most popular items" if found.cold else f"by {found.formula}"
    print(f"user {values.user}: {origin} (model {found.model_version}, {found.date})")
    Console().print(_table(found))
    return 0


def _with_joined_id(argv: Sequence[str]) -> list[str]:
    """The arguments with `--user -x` as `--user=-x`: the parser takes an id that starts with - for a flag."""
    joined = list(argv)
    for k, (flag, value) in enumerate(itertools.pairwise(argv)):
        if flag == "--user" and value.startswith("-") and value.partition("=")[0] not in _FLAGS:
            return [*joined[:k], f"--user={value}", *joined[k + 2 :]]
    return joined


def _user_id(text: str, user_type: pa.DataType) -> Any:
    import pyarrow as pa

    try:
        return pa.scalar(text).cast(user_type).as_py()
    except pa.ArrowInvalid:
        raise ValueError(f"--user {text!r}: user ids are of type {user_type}") from None


def _table(found: Recommendations) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("item")
    table.add_column("title")
    table.add_column("score", justify="right")
    for item in found.items:
        table.add_row(escape(str(item.id)), escape(item.title), "" if found.cold else f"{item.score:.3f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
