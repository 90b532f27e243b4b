"""Names of the layers of VideoMAE, V-JEPA 2 and VideoPrism: transformers' and the authors'."""

import dataclasses
import re

import numpy as np

from rstg_jax.convert.fit import LEAVES, Arrays, Names, Path
from rstg_jax.models.backbones.vit import ViTConfig

# Our modules, dotted -> theirs. The first row that fits counts.
VIDEOMAE = {
    r"backbone\.embed": r"embeddings.patch_embeddings.projection",
    r"backbone\.block(\d+)\.norm1": r"encoder.layer.\1.layernorm_before",
    r"backbone\.block(\d+)\.attention\.out": r"encoder.layer.\1.attention.output.dense",
    r"backbone\.block(\d+)\.attention\.(\w+)": r"encoder.layer.\1.attention.attention.\2",
    r"backbone\.block(\d+)\.norm2": r"encoder.layer.\1.layernorm_after",
    r"backbone\.block(\d+)\.mlp\.fc1": r"encoder.layer.\1.intermediate.dense",
    r"backbone\.block(\d+)\.mlp\.fc2": r"encoder.layer.\1.output.dense",
    r"backbone\.norm": r"layernorm",
    r"head\.norm": r"fc_norm",
    r"classifier": r"classifier",
}
VJEPA2 = {
    r"backbone\.embed": r"encoder.embeddings.patch_embeddings.proj",
    r"backbone\.block(\d+)\.attention\.out": r"encoder.layer.\1.attention.proj",
    r"backbone\.block(\d+)\.(.+)": r"encoder.layer.\1.\2",
    r"backbone\.norm": r"encoder.layernorm",
    r"head\.block(\d+)\.norm(\d)": r"pooler.self_attention_layers.\1.layer_norm\2",
    r"head\.block(\d+)\.attention\.out": r"pooler.self_attention_layers.\1.self_attn.out_proj",
    r"head\.block(\d+)\.attention\.(\w)\w+": r"pooler.self_attention_layers.\1.self_attn.\2_proj",
    r"head\.block(\d+)\.(.+)": r"pooler.self_attention_layers.\1.\2",
    r"head\.cross\.norm(\d)": r"pooler.cross_attention_layer.layer_norm\1",
    r"head\.cross\.attention\.(\w)\w+": r"pooler.cross_attention_layer.cross_attn.\1_proj",
    r"head\.cross\.(.+)": r"pooler.cross_attention_layer.\1",
    r"head": r"pooler",
    r"classifier": r"classifier",
}
VIDEOPRISM = {
    r"backbone\.embed": r"spatial_embeddings.patch_embeddings.projection",
    r"backbone\.(spatial|temporal)_positions": r"\1_embeddings.position_embeddings",
    r"backbone\.(spatial|temporal)(\d+)\.norm1": r"\1_layers.\2.layernorm_before",
    r"backbone\.(spatial|temporal)(\d+)\.norm2": r"\1_layers.\2.layernorm_after",
    r"backbone\.(spatial|temporal)(\d+)\.attention\.(\w)\w+": r"\1_layers.\2.attention.\3_proj",
    r"backbone\.(spatial|temporal)(\d+)\.(.+)": r"\1_layers.\2.\3",
    r"backbone\.spatial_norm": r"layernorm1",
    r"backbone\.temporal_norm": r"layernorm2",
}
# Older files of VideoMAE have biases of their own; Meta's files of V-JEPA 2 have other names.
RENAMED = {
    r"^(videomae|vjepa2|backbone)\.": "",
    r"\.attention\.q_bias$": ".attention.query.bias",
    r"\.attention\.v_bias$": ".attention.value.bias",
    r"^blocks\.(\d+)\.attn\.": r"encoder.layer.\1.attention.",
    r"^blocks\.": "encoder.layer.",
    r"^patch_embed\.": "encoder.embeddings.patch_embeddings.",
    r"^norm\.": "encoder.layernorm.",
}
# The authors' names of VideoMAE, of which the pretrained file has a decoder, too.
VIDEOMAE_RENAMED = {
    r"^encoder\.(patch_embed|blocks|norm)\.": r"\1.",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^blocks\.(\d+)\.norm1\.": r"encoder.layer.\1.layernorm_before.",
    r"^blocks\.(\d+)\.norm2\.": r"encoder.layer.\1.layernorm_after.",
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"^blocks\.(\d+)\.attn\.q_bias$": r"encoder.layer.\1.attention.attention.query.bias",
    r"^blocks\.(\d+)\.attn\.v_bias$": r"encoder.layer.\1.attention.attention.value.bias",
    r"^blocks\.(\d+)\.attn\.": r"encoder.layer.\1.attention.attention.",
    r"^blocks\.(\d+)\.mlp\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"^blocks\.(\d+)\.mlp\.fc2\.": r"encoder.layer.\1.output.dense.",
    r"^norm\.": "layernorm.",
    r"^head\.": "classifier.",
}
# The authors' names of VideoPrism, a Flax network: all blocks of a kind are in one array.
FLAX = "params/"
STACK = re.compile(r"(spatial|temporal)_encoder/transformers_stack/x_layers/(.+)")
VIDEOPRISM_RENAMED = {
    "layer_norm": "layernorm_before",
    "ff_layer/layer_norm": "layernorm_after",
    "self_attention/query": "attention.q_proj",
    "self_attention/key": "attention.k_proj",
    "self_attention/value": "attention.v_proj",
    "self_attention/post": "attention.o_proj",
    "ff_layer/ffn_layer1/linear": "mlp.fc1",
    "ff_layer/ffn_layer2/linear": "mlp.fc2",
    "patch_projection/linear": "spatial_embeddings.patch_embeddings.projection",
    "spatial_pos_emb/emb_var": "spatial_embeddings.position_embeddings",
    "temporal_pos_emb/emb_var": "temporal_embeddings.position_embeddings",
    "spatial_ln": "layernorm1",
    "temporal_ln": "layernorm2",
}
WEIGHTS = LEAVES | {"query": "query_tokens", "": ""}  # a table of positions is a module by itself
# Networks of the training task, and Meta's table of positions that rotary positions replaced.
LEFT_OUT = re.compile(r"(decoder|encoder_to_decoder|predictor)\.|(mask_token|pos_embed)$")


@dataclasses.dataclass(frozen=True)
class ViTNames(Names):
    """A video transformer in a file.

    Attributes:
      modules: one of the tables above.
      renamed: patterns of names in files -> those of today's transformers, one after the other.
      encoder_only: the file has no classifier. Ours then has one class and weights of 0.
    """

    modules: dict[str, str]
    renamed: dict[str, str] = dataclasses.field(default_factory=lambda: RENAMED)
    encoder_only: bool = False

    def of(self, backbone: ViTConfig, path: Path) -> str | None:
        if path[0] == "classifier" and self.encoder_only:
            return None
        *modules, leaf = path if path[-1] in WEIGHTS else (*path, "")
        name = ".".join(modules)
        fitting = (row for row in self.modules.items() if re.fullmatch(row[0], name))
        return f"{re.sub(*next(fitting), name)}.{WEIGHTS[leaf]}".removesuffix(".")

    def prepare(self, state: Arrays) -> Arrays:
        """The names of today's transformers, without what is in front of all of them."""
        prepared: dict[str, np.ndarray] = {}
        for name, value in state.items():
            for pattern, replacement in self.renamed.items():
                name = re.sub(pattern, replacement, name)
            if LEFT_OUT.match(name):
                continue
            if ".qkv." in name:
                for part, array in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                    prepared[name.replace("qkv", part)] = array
            else:
                prepared[name] = value.reshape(-1) if name.endswith("query_tokens") else value
        return prepared


class VideoPrismNames(ViTNames):
    """VideoPrism, whose files have the gains of norms without the 1 that is added to them."""

    def prepare(self, state: Arrays) -> Arrays:
        if any(name.startswith(FLAX) for name in state):
            state = of_flax(state)
        prepared = dict(super().prepare(state))
        for name, value in prepared.items():
            if re.search(r"layernorm\w+\.weight$", name):
                prepared[name] = value + 1
            elif name.endswith("position_embeddings") and value.ndim == 3:
                prepared[name] = value[0].T  # as a matrix of PyTorch, which is turned round
        return prepared


def of_flax(state: Arrays) -> Arrays:
    """VideoPrism's file of its authors (.npz), with the names and layouts of transformers."""
    found: dict[str, np.ndarray] = {}
    for name, value in state.items():
        path = name.removeprefix(FLAX)
        match = STACK.fullmatch(path)
        if match and value.ndim:
            for number, row in enumerate(value):
                found[f"{match[1]}_layers.{number}.{_renamed(match[2])}"] = _turned(match[2], row)
        else:
            found[_renamed(path)] = _turned(path, value)
    return found


def _renamed(path: str) -> str:
    """The name of a variable in a block, or outside of all."""
    if path in VIDEOPRISM_RENAMED:
        return VIDEOPRISM_RENAMED[path]
    module, _, leaf = path.rpartition("/")
    leaves = {"kernel": "weight", "w": "weight", "scale": "weight", "b": "bias", "bias": "bias"}
    return f"{VIDEOPRISM_RENAMED.get(module, module)}.{leaves.get(leaf, leaf)}"


def _turned(path: str, value: np.ndarray) -> np.ndarray:
    """PyTorch's layout of an array; a misshapen one stays as it is, and will not fit."""
    if value.ndim < 2:
        return value.reshape(-1)
    if path == "patch_projection/linear/kernel":
        side = round((len(value) / 3) ** 0.5)
        if value.shape != (3 * side**2, value.shape[-1]):
            return value
        return np.moveaxis(value.reshape(side, side, 3, -1), (3, 2), (0, 1))[:, :, None]
    if path.endswith("/emb_var"):
        return value[None]
    if path.endswith("post/w"):
        return value.reshape(len(value), -1)
    if path.endswith("/w"):
        return value.reshape(len(value), -1).T
    return value.T if path.endswith("/kernel") else value.reshape(-1)
