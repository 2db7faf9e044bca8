"""Your own training loop. After `make demo`: python examples/own_loop.py configs/demo.py 200"""

import sys

import jax
import optax
from flax import nnx

import pinnerformer_jax as pf


def main(config: pf.Config, steps: int):
    timelines, catalog, sizes, tables = pf.open_training_data(config)
    windows = pf.Windows(timelines, config)
    structure, params = pf.PinnerFormer(config, sizes).split()
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(3e-4))
    state = params, optimiser.init(params), pf.empty_sketch(config.objective, catalog.items)

    @jax.jit
    def train_step(state, batch, tables, key):
        params, opt_state, sketch = state

        def loss_of(params):
            model, corpus = nnx.merge(structure, params), catalog.trained
            return pf.training_loss(model, config, batch, tables, sketch, key, corpus=corpus, training=True)

        (loss, (sketch, _)), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = optimiser.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, sketch), loss

    for step in range(steps):
        key = jax.random.fold_in(jax.random.key(0), step)
        state, loss = train_step(state, windows.batch(step), tables, key)
        if step % (steps // 10) == 0:
            print(f"step {step:4d}  loss {loss:.3f}")

    embedder, batch = pf.Embedder(structure, state[0], catalog.features), windows.batch(steps)
    users = embedder.users(batch.history, batch.length)[:3]
    for user, items in zip(batch.user, pf.search(users, embedder.items(), k=5)[1], strict=False):
        print(f"user {user}: {', '.join(catalog.titles[item] for item in items)}")


if __name__ == "__main__":
    main(pf.load_config(sys.argv[1]), int(sys.argv[2]))
