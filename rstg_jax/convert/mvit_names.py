"""Names that torchvision and PySlowFast give the layers of MViTv2.

Sources: torchvision's `mvit.py`; PySlowFast's `attention.py`, `video_model_builder.py` and
`head_helper.py`.
"""

import re

from rstg_jax.convert.fit import Arrays
from rstg_jax.convert.vit_names import ViTNames

# Our modules, dotted -> theirs. The first row that fits counts.
TORCHVISION = {
    r"backbone\.embed": r"conv_proj",
    r"backbone\.class_token": r"pos_encoding.class_token",
    r"backbone\.block(\d+)\.(norm\d)": r"blocks.\1.\2",
    r"backbone\.block(\d+)\.project": r"blocks.\1.project",
    r"backbone\.block(\d+)\.mlp\.fc1": r"blocks.\1.mlp.0",
    r"backbone\.block(\d+)\.mlp\.fc2": r"blocks.\1.mlp.3",
    r"backbone\.block(\d+)\.attention\.qkv": r"blocks.\1.attn.qkv",
    r"backbone\.block(\d+)\.attention\.out": r"blocks.\1.attn.project.0",
    r"backbone\.block(\d+)\.attention\.pool_(\w)": r"blocks.\1.attn.pool_\2.pool",
    r"backbone\.block(\d+)\.attention\.norm_(\w)": r"blocks.\1.attn.pool_\2.norm_act.0",
    r"backbone\.block(\d+)\.attention\.frames": r"blocks.\1.attn.rel_pos_t",
    r"backbone\.block(\d+)\.attention\.rows": r"blocks.\1.attn.rel_pos_h",
    r"backbone\.block(\d+)\.attention\.columns": r"blocks.\1.attn.rel_pos_w",
    r"backbone\.norm": r"norm",
    r"classifier": r"head.1",
}
PYSLOWFAST = TORCHVISION | {
    r"backbone\.embed": r"patch_embed.proj",
    r"backbone\.class_token": r"cls_token",
    r"backbone\.block(\d+)\.project": r"blocks.\1.proj",
    r"backbone\.block(\d+)\.mlp\.fc1": r"blocks.\1.mlp.fc1",
    r"backbone\.block(\d+)\.mlp\.fc2": r"blocks.\1.mlp.fc2",
    r"backbone\.block(\d+)\.attention\.out": r"blocks.\1.attn.proj",
    r"backbone\.block(\d+)\.attention\.pool_(\w)": r"blocks.\1.attn.pool_\2",
    r"backbone\.block(\d+)\.attention\.norm_(\w)": r"blocks.\1.attn.norm_\2",
    r"classifier": r"head.projection",
}


class MViTNames(ViTNames):
    """MViTv2."""

    def prepare(self, state: Arrays) -> Arrays:
        """Tables as PyTorch's matrices, which are turned round, and the token as a vector."""
        prepared = dict(state)
        for name, value in state.items():
            if re.search(r"\.rel_pos_[thw]$", name):
                prepared[name] = value.T
            elif name.endswith(("cls_token", "class_token")):
                prepared[name] = value.reshape(-1)
        return prepared
