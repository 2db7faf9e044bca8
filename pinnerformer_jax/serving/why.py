"""Why an item is recommended: the past events without which its score would be lower.

Each event of the user's history is left out once, all of these histories are embedded in one batch, and the
drop of the item's served score says what the event carries: of the inner product, and of the own count if the
score has that prior. (What the event adds to everybody's count is not counted.) Where an event leaves a
history of T, the next older one comes in if the state keeps it; one with priors keeps 4,096 events. Attention
weights say where a layer looks; a drop says what the result depends on.

Two events that carry the same hide each other: without the one the other is still there. So drops do not add
up to the score.

Dimensions: E events, T that the model reads, K items.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pinnerformer_jax.data.contracts import Events, to_device_time
from pinnerformer_jax.model.inference import Embedder
from pinnerformer_jax.model.leave_one_out import embed_chosen, without_each
from pinnerformer_jax.serving.new_items import features_of, stored_items
from pinnerformer_jax.serving.own_items import Counting
from pinnerformer_jax.serving.recommender import LoadedState, Recommendations, Recommender
from pinnerformer_jax.serving.trained_model import TrainedModel

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Reason:
    """A past event that carries a recommendation."""

    item_id: Any  # as in the log
    title: str  # the id if the item has none, or no vector
    action: str  # "" where the log has none
    time: datetime.datetime  # UTC
    drop: float  # of the recommended item's score if this event is left out


class Explainer:
    """Explains the recommendations of states of one trained run.

    Args:
        model: the run.
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self._state: tuple[str, Embedder, pa.Array] | None = None

    @classmethod
    def open(cls, workdir: str | Path, loaded: LoadedState, prepared: str | Path | None = None) -> Explainer:
        """Read the run that a state was made with: its best checkpoint or its last.

        Args:
            workdir: of the run.
            loaded: the state.
            prepared: where the run's prepared folder is now; None: where the run found it.

        Raises:
            FileNotFoundError: no run, checkpoint or prepared data.
            ValueError: the state is of another run; the message names both versions.
        """
        kinds: tuple[Literal["best", "last"], ...] = ("best", "last")
        versions = []
        for checkpoint in kinds:
            model = TrainedModel.load(workdir, checkpoint, prepared)
            if model.version == loaded.model_version:
                return cls(model)
            versions.append(f"{model.version} ({checkpoint})")
        raise ValueError(
            f"{workdir}: the state is of model version {loaded.model_version}, the run's are "
            f"{', '.join(versions)}: name the run that the state was made with"
        )

    def reasons(
        self, recommender: Recommender, user_id: Any, found: Recommendations, most: int = 3
    ) -> list[list[Reason]]:
        """The events that carry each recommended item, the largest drop first; none that carries nothing.

        Args:
            recommender: that made the recommendations.
            user_id: whose they are.
            found: the recommendations; those of a cold user have no reasons.
            most: how many events of an item.

        Raises:
            ValueError: the recommender serves another model by now.
        """
        loaded = recommender.refresh()
        if found.cold or not found.items:
            return [[] for _ in found.items]
        if not loaded.model_version == self.model.version == found.model_version:
            raise ValueError(
                f"recommendations of model version {found.model_version}, the state is of "
                f"{loaded.model_version}, the run of {self.model.version}: open the Explainer again"
            )
        items = np.array([loaded.row[item.id] for item in found.items])
        return self.reasons_in(loaded, loaded.events.of(user_id), loaded.counting, items, most)

    def reasons_in(
        self, loaded: LoadedState, events: pa.Table, counting: Counting, items: np.ndarray, most: int = 3
    ) -> list[list[Reason]]:
        """`reasons` for any history.

        Args:
            loaded: the state, of the run's model.
            events: the history, oldest first, with the columns of `UserEvents.of`.
            counting: of the own counts.
            items: int [K], rows of the state.
            most: how many events of an item.
        """
        drops = self._drops(loaded, events, counting, items)
        titles = loaded.items["title"]
        reasons: list[list[Reason]] = []
        for of in drops:
            best = [event for event in np.argsort(-of, kind="stable")[:most].tolist() if of[event] > 0]
            reasons.append([])
            for event in best:
                item = events["item_id"][event].as_py()
                row = loaded.row.get(item)
                time = datetime.datetime.fromtimestamp(events["micros"][event].as_py() / 10**6, datetime.UTC)
                title = str(item) if row is None else titles[row].as_py()
                action = events["action"][event].as_py()
                reasons[-1].append(Reason(item, title, action, time, float(of[event])))
        return reasons

    def embed(
        self, loaded: LoadedState, events: pa.Table, chosen: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of R histories, as the daily job would make them.

        Args:
            loaded: the state, of the run's model.
            events: with the columns of `UserEvents.of`, of one user or more, those of a user oldest first.
            chosen: R, int, ascending: the places of each history's events.

        Returns:
            float32 [R, D], zeros where there is no vector; bool [R], whether there is one: the history has
            data.min_user_events events of items that the model knows.
        """
        config = self.model.config
        embedder, columns = self._columns(loaded, events)
        readable = [of[columns.item[of] >= 0] for of in chosen]
        least = min(config.data.min_user_events, loaded.manifest.kept_events)
        enough = np.array([len(of) >= max(least, 1) for of in readable], bool)
        vectors = np.zeros((len(enough), loaded.vectors.shape[1]), np.float32)
        if enough.any():
            kept = [of for of, whole in zip(readable, enough, strict=True) if whole]
            vectors[enough] = embed_chosen(
                embedder, columns, kept, config.model.max_length, config.embedding.batch_size
            )
        return vectors, enough

    def _of_state(self, loaded: LoadedState) -> tuple[Embedder, pa.Array]:
        """The embedder of all items that a state knows, and their ids by number."""
        import pyarrow as pa

        if self._state is None or self._state[0] != loaded.name:
            catalog = self.model.catalog
            new = stored_items(loaded.folder, catalog)
            features, ids = catalog.features, catalog.id_column
            if len(new):
                features = np.concatenate([features, features_of(new)])
                ids = pa.concat_arrays([ids, new["item_id"].combine_chunks()])
            self._state = loaded.name, self.model.embedder(features), ids
        return self._state[1:]

    def _columns(self, loaded: LoadedState, events: pa.Table) -> tuple[Embedder, Events]:
        """The embedder of a state's items, and events [E] as it reads them; item -1: the state does not know
        it."""
        import pyarrow.compute as pc

        embedder, known = self._of_state(loaded)
        number = pc.fill_null(pc.index_in(events["item_id"], known), -1).to_numpy()
        manifest = self.model.timelines.manifest
        return embedder, Events(
            item=number.astype(np.int32),
            action=_codes(events["action"], manifest.actions),
            surface=_codes(events["surface"], manifest.surfaces),
            time=to_device_time(events["micros"].to_numpy() // 10**6),
            duration=events["duration"].to_numpy().astype(np.float32),
        )

    def _drops(
        self, loaded: LoadedState, events: pa.Table, counting: Counting, items: np.ndarray
    ) -> np.ndarray:
        """float [K, E]: how much lower the score of each item is without each event.

        Args:
            loaded: the state.
            events: of the user, oldest first.
            counting: of the own counts.
            items: int [K], rows of the state.
        """
        embedder, columns = self._columns(loaded, events)
        config = self.model.config
        drops = np.zeros((len(items), len(columns.item)))
        readable = np.flatnonzero(columns.item >= 0)
        if len(readable):
            read, vectors = without_each(
                embedder, columns, readable, config.model.max_length, config.embedding.batch_size
            )
            drops[:, read] = loaded.vectors[items].astype(np.float32) @ (vectors[0] - vectors[1:]).T
        same = items[:, None] == loaded.rows_of(events["item_id"])  # [K, E]
        return drops + loaded.priors.own_drop(np.where(same, counting.weights(events), 0.0))


def _codes(column: pa.ChunkedArray, names: Any) -> np.ndarray:
    """uint8 [E]: numbers of names; 0: unknown."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.fill_null(pc.index_in(column, pa.array(names, column.type)), 0).to_numpy().astype(np.uint8)
