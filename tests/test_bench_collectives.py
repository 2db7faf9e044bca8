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
    assert list(figures["by_devices"]) == ["1", "2", "4", "8"]
    for devices, found in figures["by_devices"].items():
        kinds = found["collectives"]
        assert kinds.keys() == {"all-reduce", "all-gather"}
        assert kinds["all-reduce"]["bytes"] == figures["gradient_bytes"]
        assert kinds["all-gather"]["bytes"] == found["positive_bytes"] == 16 * 6 * (4 + 4 + 1)
        share = 1 - 1 / int(devices)
        assert found["received_bytes"] == round(
            share * (2 * figures["gradient_bytes"] + found["positive_bytes"])
        )
    collectives.show(figures)
    assert "by design" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_of_a_split_table_that_a_device_receives_do_not_grow_with_the_devices():
    config = small.config(shard_items=True)
    figures = collectives.measure(config, devices=8, items=4000, users_a_device=8)
    two, eight = (figures["by_devices"][name] for name in ("2", "8"))
    assert [two["users"], eight["users"]] == [16, 64]
    exchanged = [of["collectives"]["all-to-all"]["bytes"] for of in (two, eight)]
    rows = 8 * (20 + 6)  # histories and targets of a device's users
    assert rows * (4 + 2 * workload.SIZES.item_dim) <= exchanged[0] <= exchanged[1]
    chance = 1 + 4 / (8 * 6 / 8) ** 0.5  # the room for chance, which is largest for the targets
    assert exchanged[1] <= chance * rows * (4 + 2 * workload.SIZES.item_dim)
    assert "reduce-scatter" not in eight["collectives"]


def test_a_machine_with_fewer_devices_is_named():
    with pytest.raises(ValueError, match="--devices 16: there are 8"):
        collectives.measure(small.config(), devices=16, items=40)
