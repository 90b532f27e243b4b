"""Tiny video transformers of the package `transformers`, to compare with.

    python -m tests.transformers_peers

writes their numbers to tests/golden/zoo_videomae.npz and zoo_vjepa2.npz, for the tests that run
without the package.
"""

import json
import os
import pathlib

import numpy as np
import pytest

from tests import golden, torch_peers, zoo

REASON = "pip install -r requirements-transformers.txt"
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched
torch = torch_peers.torch
torch_peers.torchvision()  # which transformers imports, with all its operators
transformers = pytest.importorskip("transformers", reason=REASON)
CLASSES = 5
VIDEOMAE = {
    "image_size": (48, 32),
    "num_frames": 6,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
VJEPA2 = {
    "crop_size": 48,
    "frames_per_clip": 8,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 1.5,
    "num_pooler_layers": 2,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 2,
}


def peer(name):
    """A classifier in evaluation mode, "videomae" or "vjepa2"."""
    if name == "videomae":
        config = transformers.VideoMAEConfig(num_labels=CLASSES, **VIDEOMAE)
        return transformers.VideoMAEForVideoClassification(config).eval()
    config = transformers.VJEPA2Config(num_labels=CLASSES, **VJEPA2)
    return transformers.VJEPA2ForVideoClassification(config).eval()


def clip(name, seed):
    """What a peer takes, as `meta_json` of a golden describes it."""
    t, h, w = (6, 48, 32) if name == "videomae" else (8, 48, 48)
    return {"seed": seed, "t": t, "h": h, "w": w}


def drawn(name, seed):
    """Description of He-normal weights and of a video, as `zoo.weights` and `zoo.video` read it.

    With the package's own weights, of deviation 0.02, attention is uniform and positions change
    nothing.
    """
    shapes = {key: tuple(value.shape) for key, value in sorted(peer(name).state_dict().items())}
    padded = [shape + (0,) * (5 - len(shape)) for shape in shapes.values()]
    kinds = [
        "conv" if len(shape) > 1 else "bias" if key.endswith("bias") else "norm"
        for key, shape in shapes.items()
    ]
    meta = {"weights_seed": seed, "video": clip(name, seed + 1)}
    return {
        "weights/names": np.array(list(shapes)),
        "weights/shapes": np.array(padded, np.int32),
        "weights/kinds": np.array(kinds),
        "weights/factor": np.array([4.0 if "query_tokens" in key else 1.0 for key in shapes]),
        "weights/offset": np.zeros(len(shapes)),
        "meta_json": json.dumps(meta),
    }


def load(name, weights):
    """A peer with these weights."""
    model = peer(name)
    model.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
    return model


def run(model, video):
    """The last map `[t h w c]` and logits of a clip `[1 t h w c]`, pixels 0..255, RGB."""
    mean, scale = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = np.moveaxis((video / 255 - mean) / scale, -1, 2)
    _, t, h, w, _ = video.shape
    encoder = getattr(model, model.base_model_prefix)
    kept = []
    hook = encoder.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    with torch.no_grad():
        logits = model(torch.tensor(pixels, dtype=torch.float32)).logits
    hook.remove()
    return kept[0].numpy().reshape(t // 2, h // 16, w // 16, -1), logits.numpy()[0]


def main():
    for name, seed in (("videomae", 1000), ("vjepa2", 2000)):
        content = drawn(name, seed)
        model = load(name, zoo.weights(content))
        features, logits = run(model, zoo.video(content))
        content |= {"out/features": features, "out/logits": logits}
        path = pathlib.Path(golden.__file__).parent / f"zoo_{name}.npz"
        np.savez_compressed(path, **content)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
