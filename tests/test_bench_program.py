import jax
import jax.numpy as jnp
import pytest

from pinnerformer_jax.bench import program

TEXT = """HloModule m, is_scheduled=true

%body (loop: (s32[], f32[8])) -> (s32[], f32[8]) {
  %loop = (s32[], f32[8]{0}) parameter(0)
  %v = f32[8]{0} get-tuple-element(%loop), index=1
  %twice = f32[8]{0} fusion(%v), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %twice)
}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} add(%p, %p)
}

ENTRY %main (a: f32[8], b: bf16[2,8]) -> f32[8] {
  %a = f32[8]{0:T(128)} parameter(0)
  %b = bf16[2,8]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %pair = (f32[8]{0:T(128)}, pred[4]{0}, s8[4096]{0}) custom-call(%a, /*index=1*/%b), custom_call_target="x"
  %while = (s32[], f32[8]{0}) while(%start), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = f32[8]{0} get-tuple-element(%while), index=1
}
"""


def test_a_loops_body_counts_as_often_as_it_runs_and_a_fusions_inside_not_at_all():
    assert program.total(TEXT, program.kernel) == 1 + 5
    assert program.total(TEXT, program.moved_bytes) == (32 + 32) + (32 + 4) + 5 * (32 + 32)


def test_a_program_of_this_compiler():
    def run(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 7, lambda _, y: jnp.sort(y) + 1, x)

    def sorts(instruction: program.Instruction) -> int:
        return instruction.kind == "sort"

    assert program.total(jax.jit(run).lower(jnp.ones(100)).compile().as_text(), sorts) == 7


def test_what_cannot_be_counted_is_an_error():
    with pytest.raises(ValueError, match="without a known number of rounds: %while"):
        program.total(TEXT.replace("known", "guessed"), program.kernel)
    with pytest.raises(ValueError, match="no ENTRY"):
        program.total("", program.kernel)
