"""What holds for every block and every model, whatever its choices."""

import functools
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sync_mnist
from rstg_jax import config
from rstg_jax.models import classifier
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.rstg import config as rstg_config
from rstg_jax.rstg import presets
from rstg_jax.rstg.block import RSTG
from rstg_jax.rstg.region_graph import RegionGraph
from tests.test_configs import scaled_down

SYNC = functools.partial(presets.official, "sync_mnist")
SMT = functools.partial(presets.official, "something_something")
MODERN = functools.partial(presets.modern, 2)
ONE_GRAPH = ("spacetime", "spacetime")
BLOCKS = {
    "official sync_mnist": functools.partial(SYNC, 2),
    "official sync_mnist, K=5": functools.partial(SYNC, 5),
    "official sync_mnist, layer norm": functools.partial(SYNC, 1, post_norm="layer"),
    "official something_something": functools.partial(SMT, 2),
    "official something_something, heads": functools.partial(SMT, 1, num_heads=2, update_layers=1),
    "official something_something, batch norm": functools.partial(SMT, 1, post_norm="batch"),
    "modern": MODERN,
    "modern, additive attention, no skips": functools.partial(
        MODERN, attention="additive", residual=False
    ),
    "modern, heads, per scale": functools.partial(MODERN, num_heads=4, update_per_scale=True),
    "GRU": functools.partial(MODERN, cell="gru", positions=False),
    "LRU": functools.partial(MODERN, cell="lru"),
    "RG-LRU": functools.partial(MODERN, cell="rg_lru"),
    "minGRU": functools.partial(MODERN, cell="min_gru", residual=False),
    "window": functools.partial(MODERN, cell="window", memory_span=2),
    "dilated": functools.partial(MODERN, cell="dilated", memory_span=2),
    "space only": functools.partial(presets.modern, stages=("space", "space")),
    "time only": functools.partial(presets.modern, stages=("time",)),
    "one time stage": functools.partial(presets.modern, stages=("space", "space", "time")),
    "homogeneous": functools.partial(presets.modern, stages=ONE_GRAPH),
    "homogeneous, additive attention, per scale": functools.partial(
        presets.modern,
        stages=ONE_GRAPH,
        attention="additive",
        residual=False,
        update_per_scale=True,
    ),
    "homogeneous, heads and time": functools.partial(
        presets.modern, stages=("time", "spacetime"), num_heads=2, positions=False
    ),
}
BFLOAT16_ERROR = 0.03  # root mean square, of the outputs' spread; measured: up to 0.012


class Case:
    """A block with random variables and random features, evaluated operation by operation.

    All blocks have one size, so that they share what single operations compile to: that is far
    faster than to compile every block.
    """

    frames = 4

    def __init__(self, name):
        self.config = BLOCKS[name](dim=8, scales=(2, 1))
        self.module = RSTG(self.config, project_back=True)
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.features = self.rng.normal(size=(2, self.frames, 3, 5, 6)).astype(np.float32)
        self.shapes = jax.eval_shape(self.module.init, jax.random.key(0), self.features)
        self.variables = drawn(self.shapes, self.rng)
        self.out = self.apply(self.variables, self.features)
        self.size = np.abs(self.out.nodes).max()

    def apply(self, variables, features, **choices):
        with jax.disable_jit():
            return jax.device_get(self.module.apply(variables, features, **choices))


def reach(block):
    """How many frames ahead an output of a block can depend on."""
    if block.post_norm == "layer":
        return 99  # official: the norm before the graph takes all frames of the clip together
    return block.stages.count("spacetime")


def drawn(shapes, rng):
    """Random variables: neither zero biases nor unit gains, which would hide mistakes."""

    def one(path, leaf):
        noise, name = rng.normal(size=leaf.shape).astype(np.float32), path[-1].key
        if name in ("scale", "var"):
            return np.exp(noise / 4)
        return noise / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else noise / 4

    return jax.tree_util.tree_map_with_path(one, shapes)


def spread(found, expected):
    """Root mean square of the difference, relative to the spread of what is expected."""
    error = np.square(np.asarray(found, np.float32) - expected).mean()
    return np.sqrt(error / np.asarray(expected).var())


case = functools.cache(Case)
every_block = pytest.mark.parametrize("name", BLOCKS)


@every_block
def test_permuted_nodes_permute_the_output(name, monkeypatch):
    """Nodes with their edges and positions; within scales where these have weights of their own."""
    it = case(name)
    graph = RegionGraph(it.config.scales)
    parts = graph.scale_slices if it.config.update_per_scale else (slice(0, graph.num_nodes),)
    order = np.concatenate([p.start + it.rng.permutation(p.stop - p.start) for p in parts])
    assert (order != np.arange(len(order))).any()

    class Permuted(RegionGraph):
        pool = property(lambda self: RegionGraph.pool.func(self)[order])
        adjacency = property(lambda self: RegionGraph.adjacency.func(self)[np.ix_(order, order)])
        position_maps = property(lambda self: RegionGraph.position_maps.func(self)[order])

    in_training = "batch_stats" in it.variables  # where the norms depend on the nodes
    run = functools.partial(
        it.apply, it.variables, it.features, train=in_training, mutable=["batch_stats"]
    )
    (nodes, attention), kept = run()
    monkeypatch.setattr(rstg_config, "RegionGraph", Permuted)
    (turned, turned_attention), turned_kept = run()
    np.testing.assert_allclose(turned, nodes[:, :, order], atol=1e-4 * it.size)
    chex.assert_trees_all_close(turned_kept, kept, rtol=1e-4, atol=1e-5)
    if attention is not None:
        expected = attention[..., order, :][..., order]
        np.testing.assert_allclose(turned_attention, expected, atol=1e-5)
    assert np.abs(turned - nodes).max() > 1e-2 * it.size


@every_block
def test_other_clips_and_frames_out_of_reach_change_nothing(name):
    it = case(name)
    other = it.features.copy()
    other[0, -1] = -other[0, -1]
    other[1] = np.nan
    nodes = it.apply(it.variables, other).nodes
    assert np.isnan(nodes[1]).all()
    changes = np.abs(nodes[0] - it.out.nodes[0]).max(axis=(1, 2)) / it.size  # [t]
    same = max(it.frames - 1 - reach(it.config), 0)
    assert (changes[:same] < 1e-7).all(), changes
    assert (changes[same:] > 1e-7).all() and changes[-1] > 1e-4, changes


@every_block
def test_an_ensemble_is_a_loop(name):
    it = case(name)
    members = [it.variables, drawn(it.shapes, it.rng)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    with jax.disable_jit():
        both = jax.vmap(it.module.apply, in_axes=(0, None))(stacked, it.features).nodes
    for found, expected in zip(
        both, (it.out.nodes, it.apply(members[1], it.features).nodes), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@every_block
def test_bfloat16_stays_near_float32(name):
    it = case(name)
    low = it.apply(it.variables, jnp.asarray(it.features, jnp.bfloat16)).nodes
    assert low.dtype == jnp.bfloat16
    assert spread(low, it.out.nodes) < BFLOAT16_ERROR


@pytest.mark.parametrize("seed", range(4))
def test_any_size(seed):
    """Compiled blocks of random kind and size: other clips and later frames can be left out."""
    rng = np.random.default_rng(seed)
    causal = [name for name in BLOCKS if reach(BLOCKS[name]()) == 0]
    scales = ((3, 2, 1), (4, 1), (1, 3), (5,))[seed]
    module = RSTG(BLOCKS[rng.choice(causal)](dim=int(rng.choice([4, 12])), scales=scales))
    frames = int(rng.integers(2, 6))
    size = (rng.integers(2, 4), frames, *rng.integers(1, 9, 2), rng.integers(1, 9))
    features = rng.normal(size=size).astype(np.float32)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), features), rng)
    apply = jax.jit(module.apply)
    nodes = apply(variables, features).nodes
    short = apply(variables, features[:1, :-1]).nodes
    np.testing.assert_allclose(short, nodes[:1, :-1], atol=1e-5 * np.abs(nodes).max())


# --- whole models ---------------------------------------------------------------------------------


def small(variant):
    """The variant at the smallest size that has all its parts, in float32."""
    changes = {"model.dtype": "float32", "data.frame_size": "16", "loss.frame_start": "0"}
    if variant in ("demo", "tiny"):
        return config.override(sync_mnist.get_config(variant), changes | {"data.num_frames": "3"})
    experiment = scaled_down(variant)
    if isinstance(experiment.model.backbone, SimpleCNNConfig):
        changes |= {"model.backbone.features": "8,8", "model.backbone.kernels": "3,3"}
        changes |= {"model.backbone.strides": "1,1"}
        if not experiment.model.rstg.objects:
            changes |= {"model.rstg.scales": "2,1"}
    elif not sync_mnist.get_config(variant).model.backbone.non_local:
        changes |= {"model.backbone.non_local": ""}
    return config.override(experiment, changes)


def is_causal(model):
    """Whether the logits of a frame depend on no later frame."""
    if isinstance(model.backbone, ResNet3DConfig):
        return False  # its kernels look ahead
    return not model.rstg_at or reach(model.rstg) == 0


# The other rows of lite differ from those of the full size only by the object map.
WHOLE = [v for v in sync_mnist.VARIANTS if not v.startswith("lite")]
WHOLE += ["lite3", "lite3_positional", "lite3_mean_lstm"]


@pytest.mark.parametrize("variant", WHOLE)
def test_whole_models(variant):
    """Other clips, later frames; jit and bfloat16 for some of each kind."""
    model = small(variant).model
    shape = (2, *small(variant).data.clip_shape)
    rng = np.random.default_rng(zlib.crc32(variant.encode()))
    video = jnp.asarray(rng.integers(0, 256, shape), jnp.uint8)

    def run(module, variables, video):
        logits, out = module.apply(variables, video)
        return logits, out["frame_logits"]

    module = classifier.build(model, 5)
    variables = drawn(jax.eval_shape(module.init, jax.random.key(0), video), rng)
    if variant == "lite3_mean_lstm":  # sums of presence over the frame saturate its gates
        lstm = variables["params"]["head"]["lstm"]
        lstm["input_kernel"] = lstm["input_kernel"] / 100
    apply = jax.jit(functools.partial(run, module))
    logits, frames = jax.device_get(apply(variables, video))
    size = np.abs(frames).max()

    other = video.at[1].set(255 - video[1]).at[0, -1].set(255 - video[0, -1])
    changes = np.abs(apply(variables, other)[1] - frames).max(axis=2) / size  # [b t]
    assert (changes[:, -1] > 1e-4).all(), changes
    if is_causal(model):
        assert (changes[0, :-1] < 1e-6).all(), changes
    else:
        assert changes[0, -2] > 1e-5, changes

    if variant in ("paper", "official", "homogeneous", "gru", "conv_lstm"):
        with jax.disable_jit():
            plain = run(module, variables, video)
        chex.assert_trees_all_close((logits, frames), plain, atol=1e-4 * size)
    if variant in ("paper", "nl_i3d"):
        low = classifier.build(
            config.override(small(variant), {"model.dtype": "bfloat16"}).model, 5
        )
        _, low_frames = jax.jit(functools.partial(run, low))(variables, video)
        assert spread(low_frames, frames) < BFLOAT16_ERROR
