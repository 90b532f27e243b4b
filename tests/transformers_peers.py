"""Tiny video transformers of the package `transformers`, to compare with.

    python -m tests.transformers_peers

writes their numbers to zoo_videomae.npz, zoo_vjepa2.npz and zoo_videoprism.npz of tests/golden, for
the tests that run without the package.
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
VIDEOPRISM = {
    "image_size": 54,
    "num_frames": 4,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_spatial_layers": 2,
    "num_temporal_layers": 2,
    "attn_logit_softcapping": 2.0,  # with the usual 50 nothing changes at these sizes
}
CLIPS = {"videomae": (6, 48, 32), "vjepa2": (8, 48, 48), "videoprism": (4, 54, 54)}
INPUT = {"videoprism": (0.0, 1.0)}  # mean and deviation; the others' are ImageNet's
IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))


def peer(name):
    """A network in evaluation mode: "videomae" and "vjepa2" with a classifier, "videoprism"."""
    if name == "videoprism":
        config = transformers.VideoPrismVisionConfig(**VIDEOPRISM)
        return transformers.VideoPrismVisionModel(config).eval()
    if name == "videomae":
        config = transformers.VideoMAEConfig(num_labels=CLASSES, **VIDEOMAE)
        return transformers.VideoMAEForVideoClassification(config).eval()
    config = transformers.VJEPA2Config(num_labels=CLASSES, **VJEPA2)
    return transformers.VJEPA2ForVideoClassification(config).eval()


def clip(name, seed):
    """What a peer takes, as `meta_json` of a golden describes it."""
    return {"seed": seed, **dict(zip("thw", CLIPS[name], strict=True))}


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
    factors = {"query_tokens": 4.0, "position_embeddings": 5.0}
    norms = [name == "videoprism" and kind == "norm" for kind in kinds]  # these add 1 to the gain
    meta = {"weights_seed": seed, "video": clip(name, seed + 1)}
    return {
        "weights/names": np.array(list(shapes)),
        "weights/shapes": np.array(padded, np.int32),
        "weights/kinds": np.array(kinds),
        "weights/factor": np.array([factors.get(key.split(".")[-1], 1.0) for key in shapes]),
        "weights/offset": -np.array(norms, float),
        "meta_json": json.dumps(meta),
    }


def load(name, weights):
    """A peer with these weights."""
    model = peer(name)
    model.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
    return model


def run(name, model, video, **options):
    """The last map `[t h w c]` and logits, or None, of a clip `[1 t h w c]`, pixels 0..255, RGB."""
    mean, scale = INPUT.get(name, IMAGENET)
    pixels = torch.tensor(np.moveaxis((video / 255 - mean) / scale, -1, 2), dtype=torch.float32)
    encoder = model if name == "videoprism" else getattr(model, model.base_model_prefix)
    kept = []
    hook = encoder.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    with torch.no_grad():
        output = model(pixels, **options)
    hook.remove()
    _, t, h, w, _ = video.shape
    frames, side = (1, 18) if name == "videoprism" else (2, 16)
    features = kept[0].numpy().reshape(t // frames, h // side, w // side, -1)
    return features, None if name == "videoprism" else output.logits.numpy()[0]


def main():
    for name, seed in (("videomae", 1000), ("vjepa2", 2000), ("videoprism", 5000)):
        content = drawn(name, seed)
        features, logits = run(name, load(name, zoo.weights(content)), zoo.video(content))
        content |= {"out/features": features} | ({} if logits is None else {"out/logits": logits})
        path = pathlib.Path(golden.__file__).parent / f"zoo_{name}.npz"
        np.savez_compressed(path, **content)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
