"""The daily job: new events in, embeddings of who was active, published with items and index as one unit.

    python -m pinnerformer_jax.embed --workdir RUN --snapshots DIR [--events LOG ... --date DAY]
    python -m pinnerformer_jax.embed --workdir RUN --snapshots DIR --users FILE
    python -m pinnerformer_jax.embed --snapshots DIR --rollback [STATE]
    ... --store lmdb:DIR | redis://USER:PASSWORD@HOST:PORT/DB

The first run starts from the run's prepared timelines and embeds everyone, and so does a new model; a later
one adds the day's log (by the rules that the run's log was read by), embeds the users with new events, and
carries the others over. Events after the end of DAY (UTC; default: today) are left out, and what the store
already has is not taken twice, so that logs may overlap. The served day can be run again, later ones too,
earlier ones only after a rollback. The same inputs give the same bytes (but for a ScaNN index of 20,000 items
or more that is built anew, as on the first day of a model or with new items). Wrong input exits with 2 and
changes nothing, but that deletions (--tombstones) stand.

With --store, a feature store is brought to the state once that is published, by what changed where it has the
state before. If that fails, the next run with --store repairs it.

--items brings items that came after the training, with vectors of the same making as the run's. They are
recommended from that night on, and count in histories with the events of that night's log and later ones.

RUN's prepared folder (data.prepared) must still be there: its catalogue numbers the items.
What is in DIR: pinnerformer_jax/serving/state.py; who is embedded from what: serving/event_store.py; what
is in a store: serving/store.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pinnerformer_jax.command_line import errors_as_messages
from pinnerformer_jax.runtime import keep_compiled
from pinnerformer_jax.serving import state, store
from pinnerformer_jax.serving.daily import Job, run
from pinnerformer_jax.serving.stores import open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    values = vars(_parser().parse_args(argv))
    rollback = values.pop("rollback")
    if rollback is not None:
        with errors_as_messages():
            old, new = state.rollback(values["snapshots"], rollback or None)
            print(f"served: {new}\nno longer: {old}")
            if values["store"]:
                with state.writing(values["snapshots"]):
                    served = state.current(values["snapshots"])  # perhaps another run's by now
                    print(store.publish(open_store(values["store"]), values["snapshots"], served))
        return 0
    if values["workdir"] is None:
        _parser().error("--workdir DIR is needed")
    keep_compiled()
    with errors_as_messages():
        name = run(Job(**values | {"events": tuple(values["events"])}))
    print(f"published {values['snapshots'] / name}")
    return 0


def _parser() -> argparse.ArgumentParser:
    """Flags are named as the fields of Job."""
    parser = argparse.ArgumentParser(
        prog="python -m pinnerformer_jax.embed",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--snapshots", type=Path, required=True, metavar="DIR", help="where states are published"
    )
    parser.add_argument("--workdir", type=Path, metavar="RUN", help="folder of the trained run")
    parser.add_argument(
        "--events", nargs="+", default=(), metavar="LOG", help="the day's log: files or globs"
    )
    parser.add_argument("--date", metavar="DAY", help="such as 2026-11-24")
    parser.add_argument(
        "--items", type=Path, metavar="TABLE",
        help="items that came after the training: a table with the columns of the run's items.table, or a "
        "prepared folder, as python -m pinnerformer_jax.items --reuse writes; known ones stay as they are",
    )  # fmt: skip
    parser.add_argument("--users", type=Path, metavar="FILE", help="embed these anew too: ids, one a line")
    parser.add_argument("--everyone", action="store_true", help="embed everyone anew")
    parser.add_argument(
        "--tombstones", type=Path, metavar="FILE",
        help="delete these users for good: ids, one a line. They are never served again; rows of theirs in "
        "older states go when --keep removes those",
    )  # fmt: skip
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="default: best")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="default: float16")
    parser.add_argument(
        "--max-reject-share",
        type=float,
        metavar="SHARE",
        help="stop if more of the log is bad (default: the run's)",
    )
    parser.add_argument(
        "--store", metavar="URL",
        help="feature store of the user vectors: lmdb:DIR, redis://USER:PASSWORD@HOST:PORT/DB, rediss://... "
        "with TLS, unix://SOCKET; the password may stand in REDISCLI_AUTH instead",
    )  # fmt: skip
    parser.add_argument("--keep", type=int, default=7, metavar="N", help="states to keep (%(default)s)")
    parser.add_argument(
        "--rollback", nargs="?", const="", metavar="STATE",
        help="serve the state before the served one, or STATE (model_version=.../ds=.../run=...), and do "
        "nothing else",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
