"""The daily job: the day's events in, the vectors of who was active anew, everything else carried over.

The paper's claim is that such a batch can stand where a real-time pipeline stood. One run makes one state
(state.py): users, items, index and popularity flip together.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from flax import nnx

from pinnerformer_jax.config import Config, IndexConfig
from pinnerformer_jax.config_files import digest
from pinnerformer_jax.data.catalog import Catalog
from pinnerformer_jax.data.contracts import DAY
from pinnerformer_jax.data.timelines import Timelines
from pinnerformer_jax.data.windows import newest
from pinnerformer_jax.files import atomic_folder, sha256
from pinnerformer_jax.ingestion.ingest import set_up_engine
from pinnerformer_jax.ingestion.log_reader import first_line, log_files
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.retrieval import exact
from pinnerformer_jax.retrieval.scann_index import ScannIndex, recall, version_of
from pinnerformer_jax.serving import event_store, new_items, snapshot, state, store
from pinnerformer_jax.serving.stores import open_store
from pinnerformer_jax.training.checkpoint import data_digest, load_for_inference, open_data

if TYPE_CHECKING:
    import pyarrow as pa

POPULAR_DAYS = 28
"""Days before the end of the day whose positives make an item popular."""

RECALL_USERS, RECALL_K = 1024, 10
"""The index is checked against exact search on so many users and nearest items."""


@dataclass(frozen=True)
class Job:
    """What to run."""

    workdir: Path  # of the trained run
    snapshots: Path  # where states are published, and the one before is found
    date: str | None = None  # ISO; None: today (UTC) with events, else the served state's day
    events: tuple[str, ...] = ()  # the day's log: files or globs
    items: Path | None = None  # items that came after the training: a table, or a prepared folder
    users: Path | None = None  # ids, one a line, that are embedded anew whether active or not
    everyone: bool = False  # all of them are
    tombstones: Path | None = None  # ids, one a line, that are deleted for good
    checkpoint: Literal["best", "last"] = "best"
    dtype: Literal["float16", "float32"] = "float16"  # of the snapshot
    max_reject_share: float | None = None  # of the log; None: the run's
    keep: int = 7  # states that stay, the served one among them
    store: str | None = None  # URL of a feature store, brought to the state after it is published


@dataclass(frozen=True)
class Model:
    """A trained run, ready to embed with."""

    config: Config
    graphdef: nnx.GraphDef
    params: Any
    timelines: Timelines
    catalog: Catalog
    data: str  # digest of the prepared data
    version: str

    @classmethod
    def load(cls, workdir: Path, checkpoint: Literal["best", "last"]) -> Model:
        """Parameters without the optimiser's, and the data that they were trained on.

        Raises:
            FileNotFoundError: no run, checkpoint or prepared data.
            ValueError: the prepared data are not those of the training.
        """
        config, graphdef, params = load_for_inference(workdir, checkpoint)
        timelines, catalog = open_data(workdir)
        data = data_digest(timelines.manifest)
        return cls(config, graphdef, params, timelines, catalog, data, model_version(config, data, params))


def model_version(config: Config, data: str, params: Any) -> str:
    """Twelve hex digits that change with any number that decides a vector: the parameters, the model's
    settings, and the data, which are the catalogue's vectors and the numbers of its items and actions."""
    facts = hashlib.sha256(json.dumps([asdict(config.model), data], sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf)
        facts.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        facts.update(np.ascontiguousarray(values).tobytes())
    return facts.hexdigest()[:12]


@dataclass(frozen=True)
class _Plan:
    """What a run makes its state from."""

    date: str
    base: str | None  # the state it is built on
    before: state.Manifest | None  # of that state, verified
    files: list[Path]  # the day's log
    gone: pa.Array  # ids of deleted users
    inputs: dict[str, str]


def run(job: Job, report: Callable[[str], None] = print) -> str:
    """Publish a state.

    Args:
        job: what to run.
        report: is told what was done, in lines.

    Returns:
        Path of the state below job.snapshots.

    Raises:
        FileNotFoundError: no run, no log, no state to build on.
        OSError: the disk is full; nothing was published and what was begun is removed. Or the feature store
            failed: before anything was done, or after the state was published, which the message says.
        ValueError: an input does not do, a file of the state to build on is damaged, or another run is
            writing.
    """
    import duckdb

    if job.keep < 2:
        raise ValueError(f"--keep {job.keep}: at least 2, the served state and the one it was built on")
    vectors = open_store(job.store) if job.store else None
    model, root = Model.load(job.workdir, job.checkpoint), job.snapshots
    with state.writing(root):
        plan = _plan(job, model)
        if vectors is not None:
            vectors.delete([store.key(user_id) for user_id in plan.gone.to_pylist()])
        facts = [state.FORMAT, plan.base, plan.date, model.version, job.dtype, plan.inputs]
        made_of = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        name = state.state_name(model.version, plan.date, made_of)
        if state.is_whole(root, name):
            report(f"{name}: made before, of the same inputs")
        else:
            try:
                with atomic_folder(root / name) as folder:
                    _build(job, model, plan, folder, report)
            except duckdb.OperationalError as error:
                raise ValueError(
                    f"the engine ran out of memory (data.memory_limit = {model.config.data.memory_limit}) or "
                    f"of disk, or cannot write to {root}: {first_line(error)}; nothing was published"
                ) from None
        state.publish(root, name)
        if vectors is not None:
            report(store.publish(vectors, root, name))
        state.prune(root, job.keep)
    return name


def read_ids(file: Path, user_type: pa.DataType) -> pa.Array:
    """User ids, one a line, of the type they have in the data; blank lines do not count.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is no id of that type.
    """
    import pyarrow as pa

    text = file.read_text(encoding="utf-8-sig")
    lines = [line for line in (line.rstrip("\r") for line in text.split("\n")) if line.strip()]
    try:
        return pa.array(lines, pa.string()).cast(user_type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{file}: user ids are of type {user_type}, one a line: {error}") from None


def _plan(job: Job, model: Model) -> _Plan:
    import pyarrow.parquet as pq

    root = job.snapshots
    user_type = pq.read_schema(model.timelines.shards[0].path / "users.parquet").field("user_id").type
    served = state.current(root)
    if job.date is not None or job.events or served is None:
        date = job.date or datetime.datetime.now(datetime.UTC).date().isoformat()
    else:
        date = state.read_manifest(root, served).date
    state.day_end(date)  # is it one?
    base = state.base_for(root, date, again=bool(job.events))
    if any(pattern.startswith("tfds:") for pattern in job.events):
        raise ValueError(f"--events {' '.join(job.events)}: a day's log is files, not a TFDS data set")
    files = log_files("--events", job.events, root) if job.events else []
    inputs = {f"events {number}": sha256(file) for number, file in enumerate(files)}
    if job.items:
        inputs["items"] = new_items.checksum(job.items)
    if job.users:
        read_ids(job.users, user_type)  # wrong ones are an error before anybody is deleted
        inputs["users"] = sha256(job.users)
    inputs |= {"everyone": "yes"} if job.everyone else {}
    if job.tombstones:
        state.bury(root, read_ids(job.tombstones, user_type))
    inputs |= {f"tombstones {file.stem}": file.stem for file in state.tombstones(root)}
    before = state.verify(root, base) if base else None
    return _Plan(date, base, before, files, state.deleted(root, user_type), inputs)


def _build(job: Job, model: Model, plan: _Plan, folder: Path, report: Callable[[str], None]) -> None:
    """Fill the folder of a state."""
    import duckdb
    import pyarrow as pa

    config, before = model.config, plan.before
    same_model = before is not None and (before.model_version, before.dtype) == (model.version, job.dtype)
    base = job.snapshots / plan.base if plan.base else None
    old = snapshot.read(base / "users.parquet") if base and same_model else None
    user_type = plan.gone.type
    named = read_ids(job.users, user_type) if job.users else pa.array([], user_type)

    same_data = before is not None and before.data == model.data
    known = new_items.stored(base if same_data else None, model.catalog)
    new = new_items.added(job.items, config.items, model.catalog, known) if job.items else known
    features, reachable = model.catalog.features, model.catalog.reachable
    if len(new):
        new_items.write(new, folder)
        features = np.concatenate([features, new_items.features_of(new)])
        reachable = np.concatenate([reachable, np.ones(len(new), bool)])

    work = folder / "work"
    work.mkdir()
    with duckdb.connect(work / "events.duckdb") as connection:
        set_up_engine(connection, config.data.memory_limit, work)
        event_store.load_catalogue(connection, model.timelines, new["item_id"].combine_chunks())
        counts = _merge_events(connection, job, model, plan, folder, work)
        todo = event_store.histories(
            connection,
            named if same_model and not job.everyone else None,
            min(config.data.min_user_events, config.model.max_length),  # no more are kept of anybody
            work / "timelines",
        )
        end = int(state.day_end(plan.date).timestamp())
        popular = event_store.popularity(
            connection, config.data.positives, (end - POPULAR_DAYS * DAY) * 10**6
        )

    embedder = Embedder(model.graphdef, model.params, features)
    users = _embed(embedder, todo, plan.date, config, model.version, job.dtype)
    counts["embedded_users"] = len(users)
    counts["named_without_vector"] = _missing(named, users)
    users = users if old is None else snapshot.merge_users(old, users, plan.gone)
    counts["users"] = len(users)
    snapshot.write(users, folder / "users.parquet")
    counts["tombstones"] = len(plan.gone)
    counts |= {"new_items": len(new) - len(known), "items_after_training": len(new)}
    same_items = same_model and len(new) == len(known)
    if same_items:
        shutil.copy(base / "items.parquet", folder / "items.parquet")
    else:
        _write_items(embedder, model, new, base if same_model else None, folder / "items.parquet")
    items = snapshot.read(folder / "items.parquet")
    snapshot.check_same_version({"the model": model.version, "items.parquet": snapshot.version_of(items)})
    _write_popular(popular, reachable, folder / "popular.npy")
    index = _index(base if same_items else None, items, users, folder / "index", config.index)
    shutil.rmtree(work)
    state.write_manifest(
        folder,
        state.Manifest(
            date=plan.date,
            model_version=model.version,
            config=digest(config),
            data=model.data,
            base=plan.base,
            inputs=plan.inputs,
            max_length=config.model.max_length,
            dim=config.model.output_dim,
            dtype=job.dtype,
            counts=counts,
            index=index,
            files={},
        ),
    )
    _tell(report, counts, index)


def _merge_events(
    connection: Any, job: Job, model: Model, plan: _Plan, folder: Path, work: Path
) -> dict[str, Any]:
    """Write the events of the state; what became of them."""
    data, before, length = model.config.data, plan.before, model.config.model.max_length
    if job.max_reject_share is not None:
        data = dataclasses.replace(data, max_reject_share=job.max_reject_share)
    base = job.snapshots / plan.base if plan.base else None
    end = int(state.day_end(plan.date).timestamp()) * 10**6
    anew = before is None or before.data != model.data or before.max_length != length
    failed = job.snapshots / "rejects.parquet"
    stored, left_out = event_store.load_stored(
        connection, base, model.timelines if anew else None, length, end, work
    )
    counts = event_store.load_log(
        connection, plan.files, data, end, work / "log", folder / "rejects.parquet", failed, plan.gone
    )
    failed.unlink(missing_ok=True)  # of an earlier attempt
    counts |= event_store.merge(connection, plan.gone, length)
    kept = event_store.write_events(connection, stored, plan.gone, folder / "events.parquet")
    return {**left_out, **counts, "stored_events": kept}


def _embed(
    embedder: Embedder, todo: event_store.Histories, date: str, config: Config, version: str, dtype: str
) -> pa.Table:
    length = np.diff(todo.events.offsets)
    vectors = np.zeros((0, config.model.output_dim), np.float32)
    if len(length):
        vectors = embedder.users_by_length(
            lambda users, width: newest(todo.events, users, length[users], width),
            length,
            config.model.max_length,
            config.embedding.batch_size,
        )
    created = state.day_end(date)
    return snapshot.user_table(todo.user_ids, todo.newest, created, vectors.astype(dtype), length, version)


def _missing(named: pa.Array, users: pa.Table) -> int:
    """How many of the named users got no vector: unknown, deleted or with too few events."""
    import pyarrow.compute as pc

    return len(named) - (pc.sum(pc.is_in(named, users["user_id"])).as_py() or 0)


def _write_items(embedder: Embedder, model: Model, new: pa.Table, base: Path | None, file: Path) -> None:
    """The catalogue's items that have a vector, or what stands in a state of the same model; behind them the
    new ones that are not there yet."""
    import pyarrow as pa

    catalog, there = model.catalog, 0
    if base is None:
        rows = np.flatnonzero(catalog.reachable)
        ids, titles = catalog.id_column.take(pa.array(rows)), [catalog.titles[row] for row in rows]
        table = snapshot.item_table(ids, titles, embedder.items()[rows], model.version)
    else:
        table = snapshot.read(base / "items.parquet")
        there = len(table) - int(catalog.reachable.sum())
    if len(new) > there:
        ids, titles = new["item_id"].combine_chunks()[there:], new["title"].to_pylist()[there:]
        added = snapshot.item_table(ids, titles, embedder.items(catalog.items + there), model.version)
        table = pa.concat_tables([table, added]).combine_chunks()
    snapshot.write(table, file)


def _write_popular(popular: np.ndarray, reachable: np.ndarray, file: Path) -> None:
    """All items that have a vector, as rows of items.parquet: the popular first, then in their own order."""
    row = np.cumsum(reachable) - 1
    first = row[popular[reachable[popular]]]
    rest = np.setdiff1d(np.arange(reachable.sum()), first)
    np.save(file, np.concatenate([first, rest]).astype(np.int32))


def _index(
    base: Path | None, items: pa.Table, users: pa.Table, folder: Path, config: IndexConfig
) -> dict[str, Any]:
    """The index of the same items of a model is built once and copied from state to state: ScaNN does not
    build the same partitions twice. Its settings, and its recall on users of this state.

    Raises:
        ValueError: an index that is there is of another model version.
    """
    vectors, version = snapshot.vectors_of(items), snapshot.version_of(items)
    if len(vectors) == 0:
        raise ValueError("no item of the catalogue has a vector")
    try:
        if base is not None and (base / "index").is_dir():
            snapshot.check_same_version({"items.parquet": version, "index": version_of(base / "index")})
            folder.mkdir()
            for file in sorted((base / "index").iterdir()):
                shutil.copy(file, folder)
            index = ScannIndex.load(folder, vectors)
        else:
            index = ScannIndex.build(vectors, config)
            index.save(folder, version)
    except ImportError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return {"error": str(error)}
    facts: dict[str, Any] = asdict(index.settings)
    if len(users):
        chosen = np.unique(np.linspace(0, len(users) - 1, RECALL_USERS).astype(np.int64))
        queries = snapshot.vectors_of(users)[chosen].astype(np.float32)
        k = min(RECALL_K, len(vectors))
        found = recall(index.search(queries, k)[1], exact.search(queries, vectors, k)[1], len(vectors))
        facts |= {"k": k, "queries": len(queries), "recall": found}
    return facts


def _tell(report: Callable[[str], None], counts: dict[str, Any], index: dict[str, Any]) -> None:
    """What was done, for people."""
    if "rows" in counts:
        report(f"log: {counts['rows']:,} rows, of which {counts['out_of_scope']:,} out of scope")
        for reason, rows in counts["rejected"].items():
            report(f"  set aside, {reason}: {rows:,}")
        report(f"  of other actions {counts['other_actions']:,}, after the day {counts['after_day']:,}")
        report(
            f"  of deleted users {counts['of_deleted_users']:,}, known already {counts['known_already']:,}"
        )
    report(f"events: {counts['new_events']:,} new, {counts['stored_events']:,} kept")
    if counts.get("timelines_after_day"):
        report(f"  of the prepared timelines after the day, left out: {counts['timelines_after_day']:,}")
    if counts.get("without_item"):
        report(f"  of items that the catalogue has no more, dropped: {counts['without_item']:,}")
    if counts["items_after_training"]:
        total = counts["items_after_training"]
        report(f"items that came after the training: {counts['new_items']:,} new, {total:,} in all")
    if counts["tombstones"]:
        named, found = counts["tombstones"], counts["deleted_users"]
        report(f"users deleted, ever: {named:,}; of them the events of {found:,} were here and left now")
    if counts["named_without_vector"]:
        report(
            f"named users who are unknown, deleted or have too few events: {counts['named_without_vector']:,}"
        )
    report(f"users: {counts['embedded_users']:,} embedded, {counts['users']:,} in the snapshot")
    if "recall" in index:
        report(
            f"index: recall@{index['k']} {index['recall']:.4f} of exact search, {index['queries']:,} users"
        )
    elif "error" in index:
        report(f"no index, searched exactly: {index['error']}")
