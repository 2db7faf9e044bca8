"""The max-margin by hand, and the curriculum."""

import jax
import jax.numpy as jnp
import numpy as np

from pinnerformer_jax.items.margin import draw_hard, max_margin


def test_max_margin_by_hand():
    query = jnp.asarray([[1.0, 0.0], [0.0, 1.0]])
    positive = jnp.asarray([[0.6, 0.8], [0.0, 1.0]])
    shared = jnp.asarray([[0.8, 0.6], [0.0, -1.0], [1.0, 0.0]])
    shared_valid = jnp.asarray([[True, True, False], [True, True, True]])
    hard = jnp.asarray([[[0.6, 0.8], [1.0, 0.0]], [[0.6, 0.8], [0.6, 0.8]]])
    hard_valid = jnp.asarray([[True, False], [False, False]])
    # Pair 0 wants <q, n> <= 0.6 - 0.1: 0.8 exceeds it by 0.3, 0 does not; hard 0.6 by 0.1.
    # Pair 1 wants <= 0.9: nothing exceeds it.
    loss = max_margin(query, positive, shared, shared_valid, hard, hard_valid, 0.1)
    np.testing.assert_allclose(loss, (0.3 / 2 + 0.1) / 2, atol=1e-6)


def test_hard_negatives_come_one_after_the_other():
    ranked = jnp.arange(100, dtype=jnp.int32).reshape(2, 50)
    visited = jnp.asarray([[True] * 50, [False] * 50])
    for progress, begun in ((0.0, 0), (0.19, 0), (0.2, 1), (0.65, 3), (0.999, 4)):
        item, counts = draw_hard(jax.random.key(0), jnp.float32(progress), ranked, visited, 4)
        assert counts.tolist() == [[True] * begun + [False] * (4 - begun), [False] * 4]
        assert (np.asarray(item) // 50 == [[0], [1]]).all()
