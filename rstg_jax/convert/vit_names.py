"""What transformers calls the layers of VideoMAE, V-JEPA 2 and VideoPrism, and Meta V-JEPA 2's."""

import dataclasses
import re

import numpy as np

from rstg_jax.convert.fit import Arrays, Names, Path
from rstg_jax.convert.inception_names import LEAVES
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
WEIGHTS = LEAVES | {"query": "query_tokens", "": ""}  # a table of positions is a module by itself
# Networks of the training task, and Meta's table of positions that rotary positions replaced.
LEFT_OUT = re.compile(r"(decoder|encoder_to_decoder|predictor)\.|(mask_token|pos_embed)$")


@dataclasses.dataclass(frozen=True)
class ViTNames(Names):
    """A video transformer in a file.

    Attributes:
      modules: one of the tables above.
      encoder_only: the file has no classifier. Ours then has one class and weights of 0.
    """

    modules: dict[str, str]
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
            for pattern, replacement in RENAMED.items():
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
        prepared = dict(super().prepare(state))
        for name, value in prepared.items():
            if re.search(r"layernorm\w+\.weight$", name):
                prepared[name] = value + 1
            elif name.endswith("position_embeddings") and value.ndim == 3:
                prepared[name] = value[0].T  # as a matrix of PyTorch, which is turned round
        return prepared
