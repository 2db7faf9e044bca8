"""Recommend items to users, from the state that the daily job published.

    python -m pinnerformer_jax.recommend --snapshots DIR --user ID [--user ID ...] [-k 10] [--hide-seen]
    python -m pinnerformer_jax.recommend --snapshots DIR --all --out recs.parquet     # or .csv, .jsonl
    python -m pinnerformer_jax.recommend --snapshots DIR --user ID --why RUN          # with reasons

Printed, a user without a vector (unknown, deleted, or with too few events) gets the most popular items. In a
file, such users are left out, and counted by reason.

Rules of the shop (--allow, --block, --at-most) are read at each call; they need no new state.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinnerformer_jax.command_line import errors_as_messages, share
from pinnerformer_jax.serving import bulk
from pinnerformer_jax.serving.recommender import Recommendations, Recommender
from pinnerformer_jax.serving.shop_rules import add_flags, read_ids, rules_of
from pinnerformer_jax.serving.stores import open_store
from pinnerformer_jax.serving.typed_ids import typed_id
from pinnerformer_jax.serving.why import Explainer, Reason

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    parser = _parser()
    flags = set(parser._option_string_actions)
    values = parser.parse_args(_with_joined_ids(sys.argv[1:] if argv is None else argv, flags))
    if values.all_users and values.out is None:
        parser.error("--all needs --out FILE")
    if values.users is not None and values.out is None:
        parser.error("--users needs --out FILE; --user ID prints")
    if values.part is not None and not values.all_users:
        parser.error("--part goes with --all")
    if values.json and values.out is not None:
        parser.error("--json prints; --out FILE.jsonl writes JSON lines")
    if values.why and values.out is not None:
        parser.error("--why explains the items that --user prints (--json too); --out has no reasons")
    with errors_as_messages():
        many = values.out is not None
        if many and values.out.suffix not in bulk.FORMATS:
            raise ValueError(f"--out {values.out}: the name must end with one of {', '.join(bulk.FORMATS)}")
        store = open_store(values.store) if values.store else None
        recommender = Recommender.open(values.snapshots, store, keep_events=many)
        recommender.rules = rules_of(values, recommender.refresh().items["item_id"].combine_chunks())
        if many:
            _write(recommender, values)
        else:
            _print(recommender, values)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.recommend",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--snapshots", type=Path, required=True, metavar="DIR", help="where states are published"
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--user", action="append", metavar="ID", help="as in the log; may be given several times"
    )
    who.add_argument("--users", type=Path, metavar="FILE", help="ids, one a line")
    who.add_argument("--all", action="store_true", dest="all_users", help="everybody in the state")
    parser.add_argument(
        "--part", type=share, metavar="I/N",
        help="with --all: the I-th of N equal shares of the users, from 1 on; together they are all",
    )  # fmt: skip
    parser.add_argument("-k", type=int, default=10, help="how many items (%(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write a table, .parquet, .csv or .jsonl, and print no items"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each user")
    parser.add_argument(
        "--hide-seen",
        action=argparse.BooleanOptionalAction,
        help="leave out items of the user's newest events, or show them (default: as evaluate found better)",
    )
    parser.add_argument(
        "--store", metavar="URL",
        help="look the vector up in this feature store (the URL that embed got), not in the snapshot",
    )  # fmt: skip
    parser.add_argument(
        "--why", type=Path, metavar="RUN",
        help="also show the past events that carry each item; RUN is the workdir that embed read",
    )  # fmt: skip
    add_flags(parser)
    return parser


def _with_joined_ids(argv: Sequence[str], flags: set[str]) -> list[str]:
    """The arguments with `--user -x` as `--user=-x`: the parser takes an id that starts with - for a flag."""
    joined: list[str] = []
    for value in argv:
        is_id = value.startswith("-") and value.partition("=")[0] not in flags
        if joined and joined[-1] == "--user" and is_id:
            joined[-1] = f"--user={value}"
        else:
            joined.append(value)
    return joined


def _write(recommender: Recommender, values: argparse.Namespace) -> None:
    """Write the file of --out, and print what it has."""
    import pyarrow as pa

    user_type, ids = recommender.user_type(), None
    if values.users is not None:
        ids = read_ids(values.users, user_type)
    elif values.user is not None:
        ids = pa.array([_user_id(user, user_type) for user in values.user], user_type).unique()
    counts = bulk.write_recommendations(
        recommender, ids, values.k, values.out, exclude_seen=values.hide_seen, part=values.part or (0, 1)
    )
    print(f"{values.out}: {counts.summary()}")


def _print(recommender: Recommender, values: argparse.Namespace) -> None:
    """Print the recommendations of each --user."""
    from rich.console import Console

    explainer = Explainer.open(values.why, recommender.refresh()) if values.why else None
    for user in values.user:
        user_id = _user_id(user, recommender.user_type())
        found = recommender.recommend(user_id, values.k, exclude_seen=values.hide_seen)
        why = explainer.reasons(recommender, user_id, found) if explainer else None
        if values.json:
            print(json.dumps(_as_json(user_id, found, why), ensure_ascii=False, default=str))
            continue
        origin = "no vector, so the most popular items" if found.cold else f"by {found.formula}"
        print(f"user {user}: {origin} (model {found.model_version}, {found.date})")
        Console().print(_table(found, why))


def _user_id(text: str, user_type: pa.DataType) -> Any:
    return typed_id(text, user_type, "--user", "user")


def _as_json(user_id: Any, found: Recommendations, why: list[list[Reason]] | None) -> dict[str, Any]:
    """An object for JSON; the score of a cold user's items is null."""
    items: list[dict[str, Any]] = [
        {
            "rank": rank,
            "item_id": item.id,
            "title": item.title,
            "score": None if math.isnan(item.score) else item.score,
        }
        for rank, item in enumerate(found.items, 1)
    ]
    if why is not None:
        for item, reasons in zip(items, why, strict=True):
            item["why"] = [
                dataclasses.asdict(reason) | {"time": reason.time.isoformat()} for reason in reasons
            ]
    return {
        "user_id": user_id,
        "cold": found.cold,
        "score": found.formula,
        "model_version": found.model_version,
        "date": found.date,
        "items": items,
    }


def _table(found: Recommendations, why: list[list[Reason]] | None = None) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("item")
    table.add_column("title")
    table.add_column("score", justify="right")
    if why is not None:
        table.add_column("without this event the score drops by")
    for place, item in enumerate(found.items):
        cells = [escape(str(item.id)), escape(item.title), "" if found.cold else f"{item.score:.3f}"]
        if why is not None:
            lines = [
                f"{reason.drop:.3f}  {reason.time:%Y-%m-%d} {reason.action} {reason.title}"
                for reason in why[place]
            ]
            cells.append(escape("\n".join(lines)))
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
