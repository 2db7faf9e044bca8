"""The daily job: new events in, embeddings of active users out, published together with items and index.

    python -m pinnerformer_jax.embed --workdir RUN --snapshots DIR [--events LOG ... --date DAY]
    python -m pinnerformer_jax.embed --workdir RUN --snapshots DIR --users FILE
    python -m pinnerformer_jax.embed --workdir RUN --snapshots DIR --engine processes | ray
    python -m pinnerformer_jax.embed --snapshots DIR --rollback [STATE]
    ... --store lmdb:DIR | redis://USER:PASSWORD@HOST:PORT/DB

The first run of a model starts from the run's prepared timelines and embeds all users. A later run adds the
day's log (by the rules that the run's log was read by), embeds the users with new events, and carries the
vectors of the others over. Events after the end of DAY (UTC; default: today) are left out. An event that is
stored already is not taken twice, so that logs may overlap. The served day and later days can be run; for an
earlier day, roll back first. The same inputs give the same bytes, except a ScaNN index of 20,000 items or
more that is built, as on the first day of a model or with new items. Wrong input exits with 2 and changes
nothing, except that deletions (--tombstones) stay.

With --store, the user vectors of the state go to a feature store after the state is published: only what
changed, if the store has the state before. If that fails, the next run with --store repairs it.

--items adds items that came after the training, with vectors of the same making as the run's: given ones, or
those that their texts give if ingest built the run's. They are recommended from that night on, and count in
histories with the events of that night's log and later ones.

--part I/N embeds a share of the users, on as many machines or GPUs as there are shares; the same command
without it then makes the state, with the same bytes. --engine runs the shares, one a GPU, by processes of
this machine or by a Ray cluster, and then makes the state. docs/parts.md says more.

RUN's prepared folder must still be there: its catalogue numbers the items. If it was moved, name it with
--data.prepared.
Files of DIR: pinnerformer_jax/serving/state.py. Steps of the job: serving/daily.py. Who is embedded:
serving/events.py. Values of a feature store: serving/store.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pinnerformer_jax.command_line import add_engine, check_engine, count, errors_as_messages, share
from pinnerformer_jax.remote_files import path_or_url
from pinnerformer_jax.runtime import set_up_process
from pinnerformer_jax.serving import state, store
from pinnerformer_jax.serving.daily import run, run_part
from pinnerformer_jax.serving.part_engines import run_in_parts
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.serving.stores import open_store


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; the exit code."""
    parser = _parser()
    given = parser.parse_args(argv)
    check_engine(parser, given)
    values: dict[str, Any] = vars(given)
    rollback, part = values.pop("rollback"), values.pop("part")
    engine = [values.pop(name) for name in ("engine", "workers", "ray_address", "gpus")]
    if part and (values["store"] or rollback is not None):
        parser.error("--part publishes nothing: without --store and --rollback")
    if part and engine[0]:
        parser.error("--part embeds one share here; --engine embeds all of them")
    if engine[0] and rollback is not None:
        parser.error("--rollback embeds nothing: without --engine")
    if engine[-1] is not None and not engine[0]:
        parser.error("--gpus goes with --engine")
    if rollback is not None:
        with errors_as_messages():
            old, new = state.rollback(values["snapshots"], rollback or None)
            print(f"served: {new}\nno longer: {old}")
            if values["store"]:
                with state.write_lock(values["snapshots"]):
                    served = state.current(values["snapshots"]) or new  # another run may have published since
                    print(store.publish_users(open_store(values["store"]), values["snapshots"], served))
        return 0
    if values["workdir"] is None:
        parser.error("--workdir DIR is needed")
    values["events"] = tuple(values["events"])
    set_up_process()
    with errors_as_messages():
        job = Job(**values)
        if part:
            for line in run_part(job, part):
                print(line)
            return 0
        name = run_in_parts(job, *engine) if engine[0] else run(job)
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
        "--events",
        nargs="+",
        default=(),
        metavar="LOG",
        help="the day's log: files, globs or URLs (s3://...)",
    )
    parser.add_argument("--date", metavar="DAY", help="such as 2026-11-24")
    parser.add_argument(
        "--items", type=path_or_url, metavar="TABLE",
        help="items that came after the training: a table with the columns of the run's items.table, or a "
        "prepared folder, as python -m pinnerformer_jax.items --reuse writes; known items do not change; if "
        "the run's titles came from the log: a table with its items.id and a column title",
    )  # fmt: skip
    parser.add_argument("--users", type=Path, metavar="FILE", help="embed these users too: ids, one a line")
    parser.add_argument(
        "--part", type=share, metavar="I/N",
        help="embed the I-th of N shares of all users, from 1 on, and publish nothing: the same command "
        "without --part takes these vectors. For the first state of a model, or with --everyone",
    )  # fmt: skip
    add_engine(
        parser,
        "embed all users in shares, by processes here or by Ray, and then make and publish the state; where "
        "only active users are embedded, this process does it alone",
        "shares of the users (default: one for each GPU that is there; without GPUs one a machine)",
    )
    parser.add_argument(
        "--gpus", type=_whole, metavar="G",
        help="GPUs of a share (default: 1 if there are any; 0: on CPU)",
    )  # fmt: skip
    parser.add_argument("--everyone", action="store_true", help="embed all users")
    parser.add_argument(
        "--tombstones", type=Path, metavar="FILE",
        help="delete these users for good: ids, one a line. They are never served again; older states keep "
        "their rows until --keep removes those states",
    )  # fmt: skip
    parser.add_argument(
        "--strict", action="store_true",
        help="an id in --tombstones that no data have is an error (code 2), and nothing is deleted; without "
        "this such ids are named, and deleted should they come",
    )  # fmt: skip
    parser.add_argument(
        "--data.prepared", dest="prepared", type=Path, metavar="DIR",
        help="where the run's prepared folder is now (default: where the training found it)",
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
        "with TLS, unix://SOCKET; the password may be in REDISCLI_AUTH instead",
    )  # fmt: skip
    parser.add_argument("--keep", type=int, default=7, metavar="N", help="states to keep (%(default)s)")
    parser.add_argument(
        "--rollback", nargs="?", const="", metavar="STATE",
        help="serve the state before the served one, or STATE (model_version=.../ds=.../run=...), and do "
        "nothing else",
    )  # fmt: skip
    return parser


def _whole(text: str) -> int:
    return 0 if text == "0" else count(text)


if __name__ == "__main__":
    sys.exit(main())
