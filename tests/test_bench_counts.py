"""The benchmark of counts: exact ones leave the error of a sample, a narrow sketch a large one."""

import dataclasses

import small

from pinnerformer_jax.bench import counts


def test_error_and_memory_of_both_ways():
    config = small.config()
    config = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, sketch_width=256, sketch_depth=2)
    )
    [size] = counts.measure(config, items=[5_000], seconds=0)["sizes"]
    exact, sketch = size["ways"]["exact"], size["ways"]["sketch"]
    assert (exact["bytes"], sketch["bytes"]) == (4 * 5_000, 4 * 512)
    assert exact["error"]["random"] < 0.1
    assert sketch["error"]["random"] > 1
    assert exact["error"]["in-batch"] < sketch["error"]["in-batch"]
