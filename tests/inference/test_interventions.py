"""Interventions on the graph, each against another way to the same network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rstg_jax.errors import UserError
from rstg_jax.inference import interventions
from rstg_jax.rstg import RSTG, presets
from rstg_jax.rstg.region_graph import RegionGraph

SCALES = (2, 1)  # nodes 0..3 are quarters, 4 is the frame


def run(config, features, variables=None, intervention=None):
    block = RSTG(config)
    if variables is None:
        variables = jax.jit(block.init)(jax.random.key(1), features)
    if intervention is None:
        return jax.jit(block.apply)(variables, features).nodes, variables
    with nn.intercept_methods(intervention):
        # A new function for each intervention: `jit` would take what it compiled for another.
        apply = jax.jit(lambda variables, features: block.apply(variables, features).nodes)
        return apply(variables, features), variables


def with_one(call, intercept, context):
    """The call, changed by an interceptor."""
    return lambda *args, **kwargs: intercept(call, args, kwargs, context)


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(2, 5, 4, 4, 8)).astype(np.float32)


def test_silenced_regions_see_black(features):
    """Without the region of the whole frame, features of 0 in a quarter do the same."""
    config = presets.modern(1, dim=8, scales=(2,), masking="exclude")
    plain, variables = run(config, features)
    for frame in (None, 3):
        black = features.copy()
        black[:, slice(None) if frame is None else frame, 2:, :2] = 0  # quarter 2
        wanted, _ = run(config, black, variables)
        found, _ = run(config, features, variables, interventions.silence(2, frame))
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert np.abs(wanted - plain).max() > 1e-2
        other, _ = run(config, features, variables, interventions.silence(1, frame))
        assert np.abs(other - wanted).max() > 1e-2


def test_cut_edges_carry_nothing(features):
    """A node whose edges are all cut does not depend on the others, and each edge counts."""
    config = presets.modern(2, dim=8, scales=SCALES)  # two space stages: 0 to 1 to 3
    _, variables = run(config, features)
    moved = features.copy()
    moved[:, :, :2, :2] *= -1  # quarter 0
    adjacency = RegionGraph(SCALES).adjacency

    def reply(node, *edges):
        """How much the node's output depends on quarter 0."""

        def together(call, args, kwargs, context):
            for edge in edges:
                call = with_one(call, interventions.cut(*edge), context)
            return call(*args, **kwargs)

        outputs = [run(config, f, variables, together)[0] for f in (features, moved)]
        return np.abs(outputs[1] - outputs[0])[:, :, node].max()

    senders = [int(j) for j in np.flatnonzero(adjacency[3])]
    assert senders == [1, 2, 4]  # quarter 0 touches quarter 3 at a corner only
    assert reply(3) > 1e-3
    assert reply(3, (3, 1), (3, 2)) > 1e-3
    assert reply(3, (3, 1), (3, 2), (3, 4)) == 0
    assert reply(3, (1, 3), (2, 3), (4, 3)) > 1e-3  # the other direction


def test_all_messages_of_a_region_in_a_frame(features):
    """It is as if every edge were cut by itself in this frame, and others are as before."""
    config = presets.modern(dim=8, scales=SCALES, stages=("space", "space"))  # frames apart
    plain, variables = run(config, features)

    def one_by_one(call, args, kwargs, context):
        for receiver in range(5):
            call = with_one(call, interventions.cut(receiver, 4), context)
        return call(*args, **kwargs)

    wanted, _ = run(config, features, variables, one_by_one)
    found, _ = run(config, features, variables, interventions.cut(None, 4, 3))
    np.testing.assert_allclose(found[:, 3], wanted[:, 3], atol=1e-6)
    np.testing.assert_array_equal(found[:, [0, 1, 2, 4]], plain[:, [0, 1, 2, 4]])
    assert np.abs(wanted - plain)[:, 3].max() > 1e-3
    one, _ = run(config, features, variables, interventions.cut(2, 4, 3))
    assert np.abs(one - wanted)[:, 3].max() > 1e-3


def test_a_region_that_forgets(features):
    """Without space stages every node is by itself: its output is that of single frames."""
    config = presets.modern(dim=8, scales=SCALES, stages=("time", "time"))
    plain, variables = run(config, features)
    single = np.stack(
        [run(config, features[:, t : t + 1], variables)[0][:, 0] for t in range(5)], 1
    )
    found, _ = run(config, features, variables, interventions.forget(2))
    np.testing.assert_allclose(found[:, :, 2], single[:, :, 2], atol=1e-6)
    np.testing.assert_array_equal(found[:, :, [0, 1, 3, 4]], plain[:, :, [0, 1, 3, 4]])
    assert np.abs(single - plain)[:, 1:].max() > 1e-2


@pytest.mark.parametrize(
    "intervention",
    [interventions.cut(3, 4, frame=1), interventions.forget(2)],
    ids=["cut", "forget"],
)
def test_a_wavefront_is_refused_where_frames_count(features, intervention):
    """Its stages see the rounds of different frames side by side."""
    config = presets.modern(2, dim=8, scales=SCALES)
    _, variables = run(config, features)
    wavefront = dataclasses.replace(config, schedule="wavefront")
    with pytest.raises(UserError, match=r"needs model\.rstg\.schedule=stage, not wavefront"):
        run(wavefront, features, variables, intervention)
    for allowed in (interventions.cut(3, 4), interventions.silence(2, frame=1)):
        expected, _ = run(config, features, variables, allowed)
        found, _ = run(wavefront, features, variables, allowed)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("intervention", "what"),
    [
        (interventions.silence(5), "region 5: give one of 0 to 4"),
        (interventions.silence(2, frame=5), "frame 5: give one of 0 to 4"),
        (interventions.cut(5, 0), "region 5"),
        (interventions.cut(None, jnp.int32(-1)), "region -1"),
        (interventions.cut(3, 4, frame=-1), "frame -1"),
        (interventions.forget(np.int64(5)), "region 5"),
        (interventions.forget(2, frame=5), "frame 5"),
    ],
)
def test_regions_and_frames_that_are_not_there_are_refused(features, intervention, what):
    block = RSTG(presets.modern(1, dim=8, scales=SCALES))
    with (
        nn.intercept_methods(intervention),
        pytest.raises(UserError, match=f"there is no {what}"),
    ):
        jax.eval_shape(block.init, jax.random.key(0), features)


def test_a_region_that_forgets_once(features):
    """Its output is that of the whole clip before the frame, and of a clip that begins there."""
    config = presets.modern(dim=8, scales=SCALES, stages=("time", "time"))
    plain, variables = run(config, features)
    late, _ = run(config, features[:, 3:], variables)
    found, _ = run(config, features, variables, interventions.forget(2, 3))
    np.testing.assert_allclose(found[:, 3:, 2], late[:, :, 2], atol=1e-6)
    np.testing.assert_array_equal(found[:, :3], plain[:, :3])
    np.testing.assert_array_equal(found[:, :, [0, 1, 3, 4]], plain[:, :, [0, 1, 3, 4]])
    assert np.abs(late - plain[:, 3:])[:, :, 2].max() > 1e-2


def test_all_regions_at_once(features):
    config = presets.modern(1, dim=8, scales=SCALES)
    _, variables = run(config, features)

    def silenced(region):
        return run(config, features, variables, interventions.silence(region))[0]

    together = jax.jit(jax.vmap(silenced))(np.arange(5))
    for region in range(5):
        np.testing.assert_allclose(together[region], silenced(region), atol=1e-5)


def test_forget_wants_a_plain_frame():
    with pytest.raises(UserError, match="frame must be a plain number"):
        jax.eval_shape(lambda frame: interventions.forget(0, frame) and frame, jnp.int32(1))
