"""Why an item is retrieved for an evaluated user: how much its served score loses without each past event.

`serving.why` does the same for a state; see there what a drop says, and what it does not.
"""

from __future__ import annotations

import numpy as np

from pinnerformer_jax.data.contracts import Events
from pinnerformer_jax.data.windows import histories_up_to
from pinnerformer_jax.evaluation.evaluator import Evaluator
from pinnerformer_jax.model.leave_one_out import without_each
from pinnerformer_jax.retrieval.priors import Priors, decay, kept_events


def score_drops(model: Evaluator, priors: Priors, place: int, items: np.ndarray) -> np.ndarray:
    """float [K, E]: how much lower the served score of each item is without each event of the user up to t.

    Args:
        model: evaluated.
        priors: of the served score.
        place: of the user, among the protocol's.
        items: int [K], rows of the catalogue.
    """
    data, history, length = model.data, model.data.protocol.history, model.max_length
    own = slice(history.offsets[place], history.offsets[place + 1])
    count = int(own.stop - own.start)
    newest = min(count, length + 1)  # one more than the model reads comes in where an event leaves
    user = data.protocol.users[[place]]
    columns, _ = histories_up_to(data.timelines, user, np.array([count]), newest)
    events = Events(*(column[0] for column in columns))
    batch_size = data.config.embedding.batch_size
    read, vectors = without_each(model.embedder, events, np.arange(newest), length, batch_size)
    drops = np.zeros((len(items), count))
    drops[:, count - newest + read] = model.item_vectors[items] @ (vectors[0] - vectors[1:]).T
    weights = decay(history.time[own], data.protocol.split_time, priors.own_half_life_days)
    weights = np.where(history.positive[own], weights, 0.0)
    weights[: -kept_events(length)] = 0
    return drops + priors.own_drop(np.where(items[:, None] == history.item[own], weights, 0.0))
