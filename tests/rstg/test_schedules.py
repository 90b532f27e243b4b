"""Schedules, streaming and recomputation: the same numbers and gradients in another order."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.layers import linear
from rstg_jax.models import flops
from rstg_jax.rstg import RSTG, RSTGConfig, frame_chunks, init_state, presets

FEATURES = np.random.default_rng(0).normal(size=(2, 6, 4, 5, 7)).astype(np.float32)
# Of cells with states of the same form, one; test_recurrent_cells.py has all of them.
BLOCKS = {
    "modern": presets.modern(2, dim=8, scales=(2, 1)),
    "modern, additive, GRU": presets.modern(
        2, dim=8, scales=(2, 1), attention="additive", cell="gru"
    ),
    "LRU": presets.modern(2, dim=8, scales=(2, 1), cell="lru"),
    "window": presets.modern(2, dim=8, scales=(2, 1), cell="window", memory_span=3),
    "lags": presets.modern(2, dim=8, scales=(2, 1), differences=True, lags=(1, 3, 8)),
    "no last time stage": presets.modern(dim=8, scales=(2, 1), stages=("time", "space") * 2),
    "official mnist": presets.official("sync_mnist", 3, dim=8, scales=(2, 1)),
    "official smt": presets.official("something_something", 2, dim=8, scales=(2, 1)),
    "homogeneous": presets.modern(dim=8, scales=(2, 1), stages=("spacetime", "time")),
    "heads": presets.modern(1, dim=8, scales=(2, 1), num_heads=2),
}
# The wavefront of official blocks is compared in test_official_block.py, with the authors' numbers.
WAVES = ["modern", "modern, additive, GRU", "LRU", "window", "lags", "no last time stage"]
CAUSAL = [*WAVES, "official mnist"]


def other(config: RSTGConfig, **choices) -> RSTG:
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return RSTG(RSTGConfig(**fields | choices))


def drawn(block: RSTG):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(block.init, jax.random.key(0), FEATURES)
    return jax.tree.map(lambda x: jnp.float32(0.4 * np.abs(rng.normal(size=x.shape))), shapes)


def results(block: RSTG, variables):
    """Nodes, attention, and gradients by every weight and the input."""

    def objective(params, features):
        out = block.apply(variables | {"params": params}, features)
        return jnp.sin(out.nodes).sum() + jnp.square(out.attention).sum(), out

    gradient = jax.value_and_grad(objective, (0, 1), has_aux=True)
    (_, out), grads = jax.jit(gradient)(variables["params"], FEATURES)
    return out, grads


@functools.cache
def expected_of(name: str):
    """Random variables of a block, and its results stage by stage, compiled for all tests once."""
    block = RSTG(BLOCKS[name])
    variables = drawn(block)
    return variables, results(block, variables)


def assert_same(actual, expected, tolerance=1e-5):
    def compare(path, a, b):
        # Softmax cancels some biases: their gradient is rounding noise, hence the floor.
        error = np.abs(a - b).max() / max(np.abs(b).max(), 0.2)
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e}"

    jax.tree_util.tree_map_with_path(compare, actual, expected)


@pytest.mark.parametrize("name", WAVES)
def test_the_wavefront_is_the_stages(name):
    wave = other(BLOCKS[name], schedule="wavefront")
    variables, expected = expected_of(name)
    shapes = jax.eval_shape(wave.init, jax.random.key(0), FEATURES)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(lambda x: x.shape, shapes)
    assert np.abs(expected[0].nodes).std() > 0.05
    assert_same(results(wave, variables), expected)


@pytest.mark.parametrize("schedule", ["stage", "wavefront"])
def test_early_nodes_are_those_of_a_plan_that_ends_after_its_first_time_stage(schedule):
    config = BLOCKS["modern"]
    variables = drawn(RSTG(config))
    weights = dict(variables["params"])
    short = other(config, stages=("time",))
    end = {"last_time": weights["time"]} | {
        name: weights[name] for name in ("project_in", "output_norm")
    }
    expected = jax.jit(short.apply)({"params": end}, FEATURES).nodes  # behind the output's norm
    block = other(config, schedule=schedule)
    out, early = jax.jit(lambda v, x: block.apply(v, x, method="with_early_nodes"))(
        variables, FEATURES
    )

    def normed(nodes):
        rows = np.asarray(nodes, np.float64)
        rows = (rows - rows.mean(-1, keepdims=True)) / rows.std(-1, keepdims=True)
        return rows * weights["output_norm"]["scale"] + weights["output_norm"]["bias"]

    np.testing.assert_allclose(normed(early), expected, atol=1e-4)
    assert np.abs(normed(out.nodes) - expected).max() > 0.1
    assert_same(out, jax.jit(RSTG(config).apply)(variables, FEATURES))
    with pytest.raises(UserError, match="connect no frames"):
        other(config, stages=("space",)).init(
            jax.random.key(0), FEATURES, method="with_early_nodes"
        )


# The wavefront treats all states alike: that of an LSTM, and frames that are kept, stand for all.
@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        *((name, "stage") for name in CAUSAL),
        *((name, "wavefront") for name in ("modern", "window", "official mnist")),
    ],
)
def test_frame_by_frame_is_the_whole_video(name, schedule):
    config = BLOCKS[name]
    block = other(config, schedule=schedule)
    variables = drawn(block)
    expected = jax.jit(RSTG(config).apply)(variables, FEATURES)
    step = jax.jit(lambda v, x, s: block.apply(v, x, s, method="stream"))
    for sizes in ((1,) * 6, (4, 1, 1)):
        state, nodes, attention = init_state(config, 2), [], []
        for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            out, state = step(variables, FEATURES[:, start : start + size], state)
            nodes.append(out.nodes)
            attention.append(out.attention)
        assert_same(np.concatenate(nodes, 1), expected.nodes)
        assert_same(np.concatenate(attention, 2), expected.attention)


@pytest.mark.parametrize("schedule", ["stage", "wavefront"])
def test_the_state_of_a_stream_takes_the_type_of_the_features(schedule):
    block = other(BLOCKS["modern"], schedule=schedule)
    variables, low = drawn(block), FEATURES.astype(jnp.bfloat16)
    expected = jax.jit(block.apply)(variables, low).nodes
    step = jax.jit(lambda x, s: block.apply(variables, x, s, method="stream"))
    state, nodes = init_state(block.config, 2), []  # float32 by default
    for start in (0, 3):
        out, state = step(low[:, start : start + 3], state)
        nodes.append(out.nodes)
    got = jnp.concatenate(nodes, 1)
    assert got.dtype == expected.dtype == jnp.bfloat16
    assert all(part.dtype == jnp.bfloat16 for part in jax.tree.leaves(state))
    np.testing.assert_allclose(got.astype(jnp.float32), expected.astype(jnp.float32), atol=0.02)


def test_a_step_of_the_stream_is_one_program():
    """Constant time and memory a frame: the state keeps its shapes, nothing compiles again."""
    block = RSTG(BLOCKS["modern"])
    variables, state = drawn(block), init_state(block.config, 1)
    step = jax.jit(lambda x, s: block.apply(variables, x, s, method="stream"))
    shapes = jax.tree.map(jnp.shape, state)
    for _ in range(20):
        _, state = step(FEATURES[:1, :1], state)
    assert jax.tree.map(jnp.shape, state) == shapes
    assert step._cache_size() == 1


@pytest.mark.parametrize("cell", ["lstm", "gru", "lru", "window"])
def test_the_state_of_a_stream_may_be_donated(cell):
    """Every part has a buffer of its own, also before the first frame."""
    block = other(BLOCKS["modern"], cell=cell)
    variables, state = drawn(block), init_state(block.config, 2)
    step = jax.jit(lambda x, s: block.apply(variables, x, s, method="stream"), donate_argnums=1)
    nodes = []
    for frame in range(FEATURES.shape[1]):
        out, state = step(FEATURES[:, frame : frame + 1], state)
        nodes.append(out.nodes)
    assert_same(np.concatenate(nodes, 1), jax.jit(block.apply)(variables, FEATURES).nodes)


@pytest.mark.parametrize("cell", ["lstm", "lru", "min_gru"])
def test_a_state_in_bfloat16_is_a_carry(cell):
    """`lax.scan` refuses a carry whose types change, as parts of linear recurrences would."""
    block = other(BLOCKS["modern"], cell=cell, differences=True, lags=(1, 2))
    variables, low = drawn(block), FEATURES.astype(jnp.bfloat16)

    def step(state, frame):
        out, state = block.apply(variables, frame[:, None], state, method="stream")
        return state, out.nodes[:, 0]

    start = init_state(block.config, 2, jnp.bfloat16)
    _, nodes = jax.jit(lambda s, x: jax.lax.scan(step, s, x))(start, jnp.moveaxis(low, 1, 0))
    expected = jax.jit(block.apply)(variables, low).nodes.astype(jnp.float32)
    np.testing.assert_allclose(jnp.moveaxis(nodes, 0, 1).astype(jnp.float32), expected, atol=0.03)


@pytest.mark.parametrize("cell", ["lstm", "lru", "window"])
def test_an_exported_block_takes_any_number_of_clips(cell):
    block = other(BLOCKS["modern"], cell=cell)
    variables = drawn(block)
    (clips,) = jax.export.symbolic_shape("clips")
    spec = jax.ShapeDtypeStruct((clips, *FEATURES.shape[1:]), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: block.apply(variables, x).nodes))(spec)
    expected = jax.jit(block.apply)(variables, FEATURES).nodes
    assert_same(program.call(FEATURES), expected)
    assert_same(program.call(FEATURES[:1]), expected[:1])


@pytest.mark.parametrize("cell", ["lstm", "lru", "window"])
def test_an_exported_step_takes_any_number_of_clips(cell):
    block = other(BLOCKS["modern"], cell=cell, memory_span=3)
    variables = drawn(block)
    (clips,) = jax.export.symbolic_shape("clips")

    def step(x, state):
        out, state = block.apply(variables, x, state, method="stream")
        return out.nodes, state

    state = init_state(block.config, len(FEATURES))
    specs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0], clips, *leaf.shape[2:]), leaf.dtype),
        state,
    )
    frames = jax.ShapeDtypeStruct((clips, 3, *FEATURES.shape[2:]), jnp.float32)
    program = jax.export.export(jax.jit(step))(frames, specs)
    first, state = program.call(FEATURES[:, :3], state)
    rest, _ = program.call(FEATURES[:, 3:], state)
    expected = jax.jit(block.apply)(variables, FEATURES).nodes
    assert_same(jnp.concatenate([first, rest], axis=1), expected)


def test_a_block_in_float64_computes_in_float64():
    """The gradient of its weights is that of differences, which float32 could not show."""
    block = RSTG(BLOCKS["modern"])
    variables = drawn(block)
    with jax.enable_x64(True):
        x = FEATURES.astype(np.float64)
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        weights, unravel = jax.flatten_util.ravel_pytree(wide)

        @jax.jit
        def objective(weights):
            return jnp.sin(block.apply(unravel(weights), x).nodes).sum()

        gradient = jax.grad(objective)(weights)
        slope = float(jnp.linalg.norm(gradient))
        along, step = gradient / slope, 1e-6
        ends = [objective(weights + sign * step * along) for sign in (1, -1)]
        difference = float(ends[0] - ends[1]) / (2 * step)
    assert slope > 0.1
    assert slope == pytest.approx(difference, rel=1e-7)


def test_blocks_that_look_ahead_do_not_stream():
    for block, reason in (
        (BLOCKS["official smt"], "statistics of the whole clip"),
        (presets.modern(dim=8, scales=(1,), stages=("spacetime",)), "from the frame after"),
    ):
        with pytest.raises(UserError, match=f"this block cannot stream: .*{reason}"):
            RSTG(block).apply({}, FEATURES, init_state(block, 2), method="stream")


def test_plans_without_rounds_have_no_wavefront():
    with pytest.raises(UserError, match="schedule 'wavefront' needs a plan"):
        presets.modern(stages=("space", "time"), schedule="wavefront")
    with pytest.raises(UserError, match="schedule 'wavefront' needs a plan"):
        presets.official("sync_mnist", 5, schedule="wavefront")


@pytest.mark.parametrize("schedule", ["stage", "wavefront"])
def test_recomputing_stages_keeps_the_numbers_and_fewer_arrays(schedule):
    kept = {}
    variables, expected = expected_of("modern")
    for remat in ((), ("messages",), ("space",), ("space", "time")):
        block = other(BLOCKS["modern"], schedule=schedule, remat=remat)
        if remat in (("messages",), ("space", "time")):  # each kind once: they take long to compile
            assert_same(results(block, variables), expected)

        def backward(params, features, block=block):
            return jax.vjp(lambda p: block.apply({"params": p}, features).nodes, params)[1]

        arrays = jax.tree.leaves(jax.eval_shape(backward, variables["params"], FEATURES))
        kept[remat] = sum(array.size for array in arrays)
    assert kept["messages",] < 0.9 * kept[()]
    assert kept["space",] < 0.7 * kept[()]
    assert kept["space", "time"] < 0.9 * kept["space",]


# Blocks of official kind, one frame at a time and recomputed: test_official_block.py.
@pytest.mark.parametrize("name", ["modern", "homogeneous", "heads"])
def test_messages_of_a_few_frames_at_a_time(name):
    variables, expected = expected_of(name)
    for choices in (
        {"message_frames": 1},
        {"message_frames": 4},  # which becomes 3, the next divisor of 6
        {"message_frames": 4, "remat": ("messages",)},
    ):
        assert_same(results(other(BLOCKS[name], **choices), variables), expected)


def test_fewer_frames_at_a_time_make_smaller_arrays():
    largest = {}
    for frames in (1, 3, 6):
        block = RSTG(presets.modern(dim=8, stages=("space",), message_frames=frames))
        program = jax.make_jaxpr(block.apply)(drawn(block), FEATURES)
        largest[frames] = largest_array(program.jaxpr)
    assert largest[6] == 90 * FEATURES.shape[1] * FEATURES.shape[0] * 8  # all messages
    assert largest[3] == largest[6] / 2
    assert largest[1] < largest[3]


def largest_array(jaxpr) -> int:
    """Number of elements of the largest array that is computed anywhere in a program."""
    sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
    return max(
        [*sizes, *(largest_array(inner) for eqn in jaxpr.eqns for inner in flops._inner(eqn))],
        default=0,
    )


def test_chunks_divide_the_clip():
    assert frame_chunks.frames_at_once(4, 6, 1) == 3
    assert frame_chunks.frames_at_once(10, 7, 1) == 7
    assert frame_chunks.frames_at_once(6, 7, 1) == 1
    assert frame_chunks.frames_at_once(0, 8, 1 << 40) == (1 if linear.flattens() else 8)


@pytest.mark.parametrize("choice", [{"message_frames": 1}, {"remat": ("messages",)}])
def test_norms_of_messages_need_them_all(choice):
    with pytest.raises(UserError, match="need post_norm 'none'"):
        presets.official("something_something", **choice)
