"""VideoMAE and V-JEPA 2 against numbers of transformers, weights read by its names.

Each comparison is repeated with a mistake, which must be noticed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS
from rstg_jax.errors import UserError
from rstg_jax.layers import transformer
from rstg_jax.models import classifier
from rstg_jax.models.backbones import vit
from rstg_jax.models.backbones.vit import ViTConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import AttentivePooling, NormedPooling
from rstg_jax.rstg import presets
from rstg_jax.training import init_from, sharding, train_state
from rstg_jax.training.experiment import TrainConfig
from rstg_jax.training.sharding import MeshConfig
from tests import zoo

SMALL = {
    "videomae": {"width": 48, "depth": 3, "num_heads": 4, "mlp_dim": 96},
    "vjepa2": {"width": 64, "depth": 3, "num_heads": 4, "mlp_dim": 96},
}
HEADS = {"videomae": NormedPooling(), "vjepa2": AttentivePooling(layers=2, num_heads=4)}
NAMES = {"videomae": "videomae_b", "vjepa2": "vjepa2_l"}
MISTAKE = 1e-3


@functools.cache
def golden(name):
    return zoo.load(f"zoo_{name}")


def arch(name, **fields):
    """The golden's network, by the names of a large one."""
    found = ARCHS[NAMES[name]]
    backbone = dataclasses.replace(found.backbone, **SMALL[name] | fields)
    return dataclasses.replace(found, backbone=backbone, head=HEADS[name])


def encoder(name, **fields):
    found = ARCHS[f"{NAMES[name]}_encoder"]
    return dataclasses.replace(
        found, backbone=dataclasses.replace(found.backbone, **SMALL[name] | fields)
    )


def run(found, variables, video):
    classes = len(variables["params"]["classifier"]["bias"])
    module = classifier.build(convert_torch.model_config(found), classes)
    logits, out = jax.jit(module.apply)(variables, video)
    return np.asarray(out["features"])[0], np.asarray(logits)[0]


def deviations(name, found, weights=None):
    """Of the last map and of the logits."""
    kept = golden(name)
    variables = convert_torch.convert(weights or zoo.weights(kept), found)
    features, logits = run(found, variables, zoo.video(kept))
    return zoo.deviation(features, kept["out/features"]), zoo.deviation(logits, kept["out/logits"])


@pytest.mark.parametrize("name", SMALL)
def test_numbers_of_transformers(name):
    features, logits = deviations(name, arch(name))
    print(f"{name}: features {features:.2g}, logits {logits:.2g}")
    assert features < 1e-5 and logits < 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_another_epsilon_is_noticed(name):
    assert min(deviations(name, arch(name, epsilon=1e-2))) > MISTAKE


@pytest.mark.parametrize("name", SMALL)
def test_another_activation_is_noticed(name, monkeypatch):
    gelu = jax.nn.gelu
    monkeypatch.setattr(jax.nn, "gelu", lambda x, approximate: gelu(x, approximate=True))
    assert deviations(name, arch(name))[0] > 1e-4


def test_another_table_of_sines_is_noticed(monkeypatch):
    table = transformer.sine_table
    halves = lambda tokens, width: np.roll(table(tokens, width), 1, axis=1)  # noqa: E731
    monkeypatch.setattr(vit, "sine_table", halves)
    assert min(deviations("videomae", arch("videomae"))) > MISTAKE


def test_other_rotary_positions_are_noticed(monkeypatch):
    right = transformer.rotary_table

    def axes_exchanged(grid, head_dim):
        t, h, w = grid
        cos, sin = (
            x.reshape(t, h, w, -1).swapaxes(1, 2).reshape(t * h * w, -1)
            for x in right(grid, head_dim)
        )
        return transformer.Rotary(cos, sin)

    def rest_in_front(grid, head_dim):
        return transformer.Rotary(*(np.roll(x, 4, axis=1) for x in right(grid, head_dim)))

    def pairs_alike(grid, head_dim):  # one frequency for both features, as others do
        part = head_dim // 3 // 2 * 2
        first = [part * i + j // 2 for i in range(3) for j in range(part)]
        order = [*first, *range(3 * part, head_dim)]
        return transformer.Rotary(*(x[:, order] for x in right(grid, head_dim)))

    def frames_at_rest(grid, head_dim):
        t, h, w = grid
        cos, sin = right((1, h, w), head_dim)
        return transformer.Rotary(np.tile(cos, (t, 1)), np.tile(sin, (t, 1)))

    for wrong in (axes_exchanged, rest_in_front, pairs_alike, frames_at_rest):
        with monkeypatch.context() as patch:
            patch.setattr(vit, "rotary_table", wrong)
            assert min(deviations("vjepa2", arch("vjepa2"))) > MISTAKE, wrong.__name__


def test_a_missing_norm_is_noticed():
    kept = {k: v for k, v in zoo.weights(golden("vjepa2")).items() if ".encoder.layernorm" not in k}
    assert min(deviations("vjepa2", arch("vjepa2", final_norm=False), kept)) > MISTAKE


def test_older_names_of_videomae():
    weights = zoo.weights(golden("videomae"))
    older = {
        name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for name, value in weights.items()
    }
    assert sum(name.endswith("q_bias") for name in older) == 3
    assert max(deviations("videomae", arch("videomae"), older)) < 1e-5


def test_pretrained_videomae_without_its_decoder():
    """As in files of the training task: another norm, a decoder and no classifier."""
    weights = zoo.weights(golden("videomae"))
    rest = ("fc_norm", "classifier")
    state = {name: value for name, value in weights.items() if not name.startswith(rest)}
    norm = {"videomae.layernorm.weight": np.ones(48), "videomae.layernorm.bias": np.zeros(48)}
    others = {
        name: np.ones(3)
        for name in ("decoder.norm.bias", "mask_token", "encoder_to_decoder.weight")
    }
    found = encoder("videomae")
    variables = convert_torch.convert(state | norm | others, found)
    assert not any(map(np.any, jax.tree.leaves(variables["params"]["classifier"])))
    features, logits = run(found, variables, zoo.video(golden("videomae")))
    wanted = golden("videomae")["out/features"]
    wanted = wanted - wanted.mean(axis=-1, keepdims=True)
    assert zoo.deviation(features, wanted / wanted.std(axis=-1, keepdims=True)) < 1e-5
    assert logits.tolist() == [0.0]


def meta_names(weights):
    """The encoder of V-JEPA 2 as Meta's file has it."""
    state = {}
    for name, value in weights.items():
        if not name.startswith("vjepa2.encoder."):
            continue
        name = name.removeprefix("vjepa2.encoder.")
        name = name.replace("embeddings.patch_embeddings", "patch_embed")
        name = name.replace("layernorm", "norm").replace("layer.", "blocks.")
        name = name.replace("attention.", "attn.")
        state[f"module.backbone.{name}"] = value
    for query in [name for name in state if ".query." in name]:
        parts = [state.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        state[query.replace("query", "qkv")] = np.concatenate(parts)
    return state | {"module.backbone.pos_embed": np.zeros((1, 36, 64), np.float32)}


def test_names_of_meta():
    kept = golden("vjepa2")
    found, state = encoder("vjepa2"), meta_names(zoo.weights(kept))
    features, logits = run(found, convert_torch.convert(state, found), zoo.video(kept))
    assert zoo.deviation(features, kept["out/features"]) < 1e-5
    assert logits.tolist() == [0.0]
    name = "module.backbone.blocks.1.attn.qkv.bias"
    state[name] = state[name][::-1].copy()
    features, _ = run(found, convert_torch.convert(state, found), zoo.video(kept))
    assert zoo.deviation(features, kept["out/features"]) > MISTAKE


def test_a_run_starts_from_a_converted_encoder(tmp_path, monkeypatch):
    """A file without a classifier, through the command line, to a model with RSTG behind it."""
    kept = golden("vjepa2")
    weights = zoo.weights(kept)
    rest = ("pooler", "classifier")
    save_file(
        {name: value for name, value in weights.items() if not name.startswith(rest)},
        tmp_path / "model.safetensors",
    )
    monkeypatch.setitem(ARCHS, "tiny", encoder("vjepa2"))
    out = str(tmp_path / "out")
    words = [str(tmp_path / "model.safetensors"), "--arch=tiny", f"--out={out}"]
    assert convert_torch.main(words) == 0
    config = ModelConfig(
        backbone=encoder("vjepa2").backbone,
        rstg=presets.modern(dim=8, scales=(2, 1)),
        head=HEADS["vjepa2"],
    )
    video, mesh = zoo.video(kept), sharding.make_mesh(MeshConfig(data=1))
    abstract = train_state.abstract_variables(classifier.build(config, 7), video.shape[1:], mesh)
    settings = TrainConfig(total_steps=1, init_from=out, init_fresh=("params/rstg", "params/head"))
    found, source = init_from.weights(settings, abstract, list("abcdefg"))
    assert not any(name.startswith(("params/classifier", "params/rstg")) for name in found)
    nested = traverse_util.unflatten_dict(found, sep="/")["params"]["backbone"]
    backbone = config.backbone.build(jnp.float32, None)
    features = jax.jit(backbone.apply)({"params": nested}, video)[0]
    assert zoo.deviation(features, kept["out/features"]) < 1e-5


def test_every_tensor_is_accounted_for():
    weights = zoo.weights(golden("vjepa2"))
    block = "encoder.layer.2.attention.key.bias"
    lost = {name: value for name, value in weights.items() if not name.endswith(block)}
    with pytest.raises(UserError, match=f"missing {block}$"):
        convert_torch.convert(lost, arch("vjepa2"))
    with pytest.raises(UserError, match=r"unused vjepa2x\.weight$"):
        convert_torch.convert(weights | {"vjepa2x.weight": np.ones(2)}, arch("vjepa2"))
    with pytest.raises(UserError, match=r"unused classifier\.bias; unused classifier"):
        convert_torch.convert(weights, encoder("vjepa2"))
    key = "videomae.encoder.layer.0.attention.attention.key.bias"
    weights = zoo.weights(golden("videomae")) | {key: np.ones(48)}
    with pytest.raises(
        UserError, match=r"unused encoder\.layer\.0\.attention\.attention\.key\.bias$"
    ):
        convert_torch.convert(weights, arch("videomae"))


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [  # of `VideoMAEModel` and of the encoder of `VJEPA2Model`
        (vit.videomae("s"), 21.9),
        (vit.videomae("b"), 86.2),
        (vit.videomae("l"), 303.9),
        (vit.vjepa2("l"), 303.9),
        (vit.vjepa2("h"), 632.8),
        (vit.vjepa2("g"), 1012.2),
    ],
)
def test_sizes(backbone, millions):
    module = backbone.build(jnp.float32, None)
    video = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), video)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(
        millions, rel=2e-3
    )


def test_blocks_change_nothing_at_first():
    head = AttentivePooling(layers=1, num_heads=4)
    backbone = ViTConfig(width=16, depth=1, num_heads=4, mlp_dim=24, positions="rotary")
    config = ModelConfig(
        backbone=backbone,
        rstg=presets.modern(dim=8, scales=(2, 1)),
        rstg_at=("block0", "final"),
        head=head,
    )
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3)).astype(np.uint8)
    module = classifier.build(config, 3)
    variables = jax.jit(module.init)(jax.random.key(0), video)
    logits, out = jax.jit(module.apply)(variables, video)
    assert out["features"].shape == (2, 2, 2, 2, 16)
    plain = classifier.build(dataclasses.replace(config, rstg_at=()), 3)
    params = {k: v for k, v in variables["params"].items() if not k.startswith("rstg")}
    np.testing.assert_array_equal(logits, jax.jit(plain.apply)({"params": params}, video)[0])

    def loss(params):
        logits, _ = module.apply({"params": params}, video)
        return (logits * jnp.arange(6.0).reshape(2, 3)).sum()

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables["params"]), sep="/")
    still = {name for name, leaf in gradients.items() if not np.any(leaf)}
    # The block moves from its gain on, and softmax ignores what all keys have in common.
    assert all(name.startswith("rstg") or "key/bias" in name for name in still)
    assert {"rstg_block0/scale", "rstg_final/scale"} <= gradients.keys() - still


def test_bad_input():
    with pytest.raises(UserError, match="width=10 is no multiple of num_heads=4"):
        ViTConfig(width=10, num_heads=4)
    with pytest.raises(UserError, match="even number of features"):
        ViTConfig(width=9, num_heads=3, positions="rotary")
    with pytest.raises(UserError, match="must be at least 1"):
        ViTConfig(depth=0)
    with pytest.raises(UserError, match="num_heads of at least 1"):
        AttentivePooling(num_heads=0)
    with pytest.raises(UserError, match="clips of 3 frames of 32x40 are no whole number"):
        module = ViTConfig(width=8, depth=1, num_heads=2).build(jnp.float32, None)
        jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 3, 32, 40, 3), np.uint8))
