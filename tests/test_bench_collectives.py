import jax
import pytest
import small

from pinnerformer_jax.bench import collectives, workload
from pinnerformer_jax.training.state import create


def test_counts_and_bytes_of_a_programs_text():
    text = """
  %all-reduce.1 = (f32[3,4]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1, to_apply=%sum
  %ag = pred[16]{0} all-gather(%c), dimensions={0}
  ROOT %t = f32[2]{0} get-tuple-element(%all-reduce.1), index=0
  %start = bf16[8]{0} all-reduce-start(%d), to_apply=%sum
  %done = bf16[8]{0} all-reduce-done(%start)
  %p = s32[5,2]{1,0} collective-permute(%e)
"""
    assert collectives.count(text) == {
        "all-reduce": {"count": 2, "bytes": 13 * 4 + 16},
        "all-gather": {"count": 1, "bytes": 16},
        "collective-permute": {"count": 1, "bytes": 40},
    }


@pytest.mark.slow
def test_a_step_tells_gradients_and_positives_and_nothing_else(capsys):
    config = small.config()
    figures = collectives.measure(config, devices=8, items=40)
    _, state = create(config, workload.SIZES)
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    # The loss goes with the gradients, and three counts: users and pairs of the batch, and its tokens.
    assert figures["gradient_bytes"] == parameters + 4 + 12
    assert figures["positive_bytes"] == 16 * 6 * (4 + 4 + 1)
    assert list(figures["by_devices"]) == ["1", "2", "4", "8"]
    for found in figures["by_devices"].values():
        assert found.keys() == {"all-reduce", "all-gather"}
        assert found["all-reduce"]["bytes"] == figures["gradient_bytes"]
        assert found["all-gather"]["bytes"] == figures["positive_bytes"]
    collectives.show(figures)
    assert "by design" in capsys.readouterr().out


def test_a_machine_with_fewer_devices_is_named():
    with pytest.raises(ValueError, match="--devices 16: there are 8"):
        collectives.measure(small.config(), devices=16, items=40)
