"""What converters need that is not PyTorch: .safetensors files, names, checkpoint directories."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from rstg_jax.convert import fit, write
from rstg_jax.convert import torch as convert_torch
from rstg_jax.convert.torch_names import ARCHS, TORCHVISION, Arch
from rstg_jax.data import SyncMNISTConfig
from rstg_jax.errors import UserError
from rstg_jax.inference import evaluation, video_input
from rstg_jax.models import classifier
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.training import init_from, sharding, train_state, trained_model
from rstg_jax.training.experiment import TrainConfig
from rstg_jax.training.optim import OptimizerConfig
from tests import clip_files, standins

TINY = Arch(
    TORCHVISION,
    ResNet3DConfig(
        depths=(1, 1),
        width=2,
        temporal_kernels=((3,), (1,)),
        spatial_strides=(1, 2),
        temporal_strides=(1, 1),
        pool1_padding=1,
    ),
    frames=4,
)


def tiny_state():
    """As torchvision would name and shape it: 2D kernels `[out in h w]`."""
    rng = np.random.default_rng(0)
    state = {"conv1.weight": (2, 3, 7, 7), "fc.weight": (3, 16), "fc.bias": (3,)}
    norms = {"bn1": 2}
    for layer, (size_in, inner) in enumerate([(2, 2), (8, 4)], 1):
        name = f"layer{layer}.0"
        state[f"{name}.conv1.weight"] = (inner, size_in, 1, 1)
        state[f"{name}.conv2.weight"] = (inner, inner, 3, 3)
        state[f"{name}.conv3.weight"] = (4 * inner, inner, 1, 1)
        state[f"{name}.downsample.0.weight"] = (4 * inner, size_in, 1, 1)
        norms |= {f"{name}.bn1": inner, f"{name}.bn2": inner, f"{name}.bn3": 4 * inner}
        norms[f"{name}.downsample.1"] = 4 * inner
    for name, size in norms.items():
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{leaf}"] = (size,)
        state[f"{name}.num_batches_tracked"] = ()
    return {name: rng.random(shape, np.float32) for name, shape in state.items()}


def test_kernels_are_turned_and_inflated():
    state = tiny_state()
    variables = convert_torch.convert(state, TINY)
    backbone = variables["params"]["backbone"]
    conv1 = np.asarray(backbone["conv1"]["kernel"])  # [t h w in out]
    assert conv1.shape == (5, 7, 7, 3, 2)
    for frame in range(5):
        theirs = state["conv1.weight"].transpose(2, 3, 1, 0) / 5
        np.testing.assert_allclose(conv1[frame], theirs, rtol=1e-6)
    np.testing.assert_array_equal(
        backbone["res3_0"]["shortcut"]["kernel"][0, 0, 0],
        state["layer2.0.downsample.0.weight"][:, :, 0, 0].T,
    )
    np.testing.assert_array_equal(
        variables["batch_stats"]["backbone"]["res2_0"]["shortcut_bn"]["var"],
        state["layer1.0.downsample.1.running_var"],
    )
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], state["fc.weight"].T)


def test_safetensors_need_no_pytorch(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(ARCHS, "tiny", TINY)
    state = {f"model.{name}": value for name, value in tiny_state().items()}
    save_file(state, tmp_path / "model.safetensors")
    out = tmp_path / "out"
    words = [str(tmp_path / "model.safetensors"), "--arch=tiny"]
    assert convert_torch.main([*words, f"--out={out}"]) == 0
    assert "tiny, 3 classes" in capsys.readouterr().out
    loaded = trained_model.load(out)
    wanted = convert_torch.convert(state, TINY)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, wanted)
    assert loaded.label_names == ("0", "1", "2")
    assert loaded.step == 0
    assert json.loads((out / "config.json").read_text())["model"]["backbone"]["width"] == 2

    with pytest.raises(UserError, match=r"model\.pth needs PyTorch"):
        (tmp_path / "model.pth").write_bytes(b"")
        convert_torch.read(tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        convert_torch.read(tmp_path / "none.pth")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"half\.safetensors is not a whole"):
        convert_torch.read(tmp_path / "half.safetensors")


# A conversion that is killed in a function of ours: before config.json, or before the manifest.
KILLED = """
import os, signal, sys
from rstg_jax import files
from rstg_jax.convert import torch
from rstg_jax.training import integrity
from tests.convert import test_write
torch.ARCHS["tiny"] = test_write.TINY
file, out, module, name = sys.argv[1:]
real = getattr({"files": files, "integrity": integrity}[module], name)
def die(path, *rest):
    if path.name != "lock.json":
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, *rest)
setattr({"files": files, "integrity": integrity}[module], name, die)
torch.main([file, "--arch=tiny", f"--out={out}"])
"""


@pytest.mark.parametrize("moment", ["files write_json", "integrity write_manifest"])
def test_a_killed_conversion_is_done_again(tmp_path, monkeypatch, moment):
    monkeypatch.setitem(ARCHS, "tiny", TINY)
    save_file(tiny_state(), tmp_path / "model.safetensors")
    words = [str(tmp_path / "model.safetensors"), str(tmp_path / "out")]
    command = [sys.executable, "-c", KILLED, *words, *moment.split()]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    begun = {path.name for path in (tmp_path / "out/checkpoints").iterdir()}
    assert "0" not in begun and bool(begun) == ("manifest" in moment)
    with pytest.raises(UserError, match="no checkpoint in"):
        trained_model.load(tmp_path / "out")
    assert convert_torch.main([words[0], "--arch=tiny", f"--out={words[1]}"]) == 0
    wanted = convert_torch.convert(tiny_state(), TINY)
    loaded = trained_model.load(tmp_path / "out").variables
    jax.tree.map(np.testing.assert_array_equal, loaded, wanted)
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["0"]
    with pytest.raises(UserError, match="already holds checkpoints"):
        write.check_free(words[1])


def test_converted_weights_see_clips_of_their_architecture(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHS, "tiny", dataclasses.replace(TINY, stride=3))
    save_file(tiny_state(), tmp_path / "model.safetensors")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    out, videos = tmp_path / "out", tmp_path / "videos"
    words = [str(tmp_path / "model.safetensors"), "--arch=tiny", f"--out={out}"]
    convert_torch.main([*words, f"--labels={tmp_path / 'labels.txt'}"])
    # As `predict`: 4 frames, 3 apart, of the middle of 30.
    film = (
        np.zeros((30, 256, 300, 3), np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None, None]
    )
    np.save(tmp_path / "clip.npy", film)
    clip = video_input.read(tmp_path / "clip.npy", trained_model.load(out).data)
    assert clip.shape == (4, 224, 224, 3) and clip[:, 0, 0, 0].tolist() == [10, 13, 16, 19]
    # As `evaluate`: on videos of the same labels.
    with pytest.raises(UserError, match="set path to a directory of videos or a csv file"):
        evaluation.open_named(trained_model.load(out).data, None)
    for label in "abc":
        (videos / label).mkdir(parents=True)
        frames = clip_files.pictures(5)
        frames[0].save(videos / label / "1.gif", save_all=True, append_images=frames[1:])
    overrides = {"data.path": str(videos), "data.test_path": str(videos)}
    loaded = trained_model.load(out, "last", overrides)
    source, split = evaluation.open_named(loaded.data, None)
    assert (split, source.label_names) == ("test", loaded.label_names)
    assert source.batch(np.arange(3))["video"].shape == (3, *loaded.meta["video_shape"])


def test_clips_of_published_networks():
    clips = {name: convert_torch.data_config(arch).clip for name, arch in ARCHS.items()}
    sides = {name: clip.clip_shape[1:3] for name, clip in clips.items()}
    assert sides.pop("vjepa2_g") == (384, 384)
    assert {sides.pop(name) for name in list(sides) if "vjepa2" in name} == {(256, 256)}
    assert {sides.pop(name) for name in list(sides) if "videoprism" in name} == {(288, 288)}
    x3d = {name: sides.pop(name)[0] for name in list(sides) if "x3d" in name}
    published = {"xs": 160, "s": 160, "m": 224, "l": 312}
    assert x3d == {name: published[name.split("_")[-1]] for name in x3d} and len(x3d) > 4
    assert set(sides.values()) == {(224, 224)}
    shown = {name: (clip.frames, clip.sampling, clip.stride) for name, clip in clips.items()}
    assert shown["slowfast_i3d_r50"] == shown["pytorchvideo_c2d_r50"] == (8, "stride", 8)
    assert shown["slowfast_nl_i3d_r50"] == shown["slowfast_c2d_r101"] == (8, "stride", 8)
    assert shown["mmaction_nl_i3d_r50"] == (32, "stride", 2)
    assert shown["imagenet_i3d_r50"][:2] == (8, "segments")
    assert shown["vjepa2_l"] == (16, "stride", 4)
    averages = {name: convert_torch.model_config(ARCHS[name]).view_average for name in ARCHS}
    assert averages["slowfast_i3d_r50"] == averages["vjepa2_l"] == "softmax"
    charades = ARCHS["slowfast_i3d_r50"].with_classes(157)
    assert convert_torch.model_config(charades).view_average == "max"
    assert averages["mit_tsm_r50"] == averages["trn_bn_inception"] == "logits"


def test_networks_for_bgr_read_rgb():
    """Files of such networks give the same logits as RGB that is turned round."""
    state, video = tiny_state(), np.random.default_rng(0).integers(0, 256, (1, 4, 32, 32, 3))
    module = classifier.build(convert_torch.model_config(TINY), 3)
    run = jax.jit(module.apply)
    bgr, plain = (convert_torch.convert(state, TINY, channels=order) for order in ("bgr", None))
    turned = run(bgr, video)[0]
    np.testing.assert_allclose(turned, run(plain, video[..., ::-1])[0], rtol=1e-5)
    assert np.abs(turned - run(plain, video)[0]).max() > 1e-2
    tensors = jax.tree.map(
        np.array_equal, convert_torch.convert(state, TINY, channels="bgr"), plain
    )
    assert jax.tree.leaves(tensors).count(False) == 1


@pytest.mark.parametrize("given", [None, "rgb", "bgr"])
@pytest.mark.parametrize("classes", [3, 4])
def test_the_classes_of_a_file_tell_its_inputs(classes, given, tmp_path, monkeypatch, capsys):
    """As Something-Something's 174 do; here 3 stand for it. A flag has the last word."""
    special = {"channels": "bgr", "stride": None, "protocol": "3x2-starts", "frames": 6}
    arch = dataclasses.replace(TINY, stride=2, protocol="1x5", of_classes={3: special})
    monkeypatch.setitem(ARCHS, "tiny", arch)
    state = tiny_state()
    for name in ("fc.weight", "fc.bias"):
        state[name] = np.concatenate([state[name]] * 2)[:classes]
    save_file(state, tmp_path / "model.safetensors")
    words = [str(tmp_path / "model.safetensors"), "--arch=tiny", f"--out={tmp_path / 'out'}"]
    assert convert_torch.main([*words, *([f"--channels={given}"] if given else [])]) == 0
    loaded = trained_model.load(tmp_path / "out")
    wanted = given or ("bgr" if classes == 3 else "rgb")
    kernel = np.asarray(loaded.variables["params"]["backbone"]["conv1"]["kernel"])
    theirs = state["conv1.weight"][:, :: -1 if wanted == "bgr" else 1].transpose(2, 3, 1, 0) / 5
    np.testing.assert_allclose(kernel[0], theirs, rtol=1e-6)
    clip = loaded.data.clip
    if classes == 3:
        assert (clip.sampling, clip.frames, loaded.data.protocol) == ("segments", 6, "3x2-starts")
    else:
        assert (clip.sampling, clip.stride, loaded.data.protocol) == ("stride", 2, "1x5")
    assert loaded.meta["data"]["weights"]["channels"] == wanted
    said = capsys.readouterr().out
    assert f"trained on {wanted.upper()}, tested by {loaded.data.protocol}, from" in said


def inputs(name, classes):
    """Channels, sampling, frames, shorter side and protocol of a published file."""
    arch = ARCHS[name].with_classes(classes)
    found = convert_torch.data_config(arch)
    clip = found.clip
    sampling = f"stride {clip.stride}" if clip.sampling == "stride" else clip.sampling
    return arch.channels, sampling, clip.frames, clip.resize, found.protocol


def test_inputs_of_published_files():
    """As in the configurations and read-me files of their projects."""
    dense, crops = "3x10-256", "3x1-256"
    assert inputs("pytorchvideo_slow_r50", 400) == ("rgb", "stride 8", 8, 256, dense)
    assert inputs("pytorchvideo_slow_r50", 174) == ("bgr", "segments", 8, 256, crops)
    assert inputs("pytorchvideo_slow_r50", 157) == ("bgr", "stride 8", 8, 256, dense)
    assert inputs("pytorchvideo_slowfast_r50", 157) == ("bgr", "stride 2", 32, 256, dense)
    assert inputs("slowfast_slowfast_r50", 157) == ("bgr", "stride 2", 64, 256, dense)
    assert inputs("pytorchvideo_slowfast_r50", 174) == ("bgr", "segments", 32, 256, crops)
    assert inputs("slowfast_slowfast_r50", 174) == ("bgr", "segments", 64, 256, "1x1-256")
    assert inputs("slowfast_slowfast_r50", 400) == ("rgb", "stride 2", 32, 256, dense)
    assert inputs("slowfast_mvit_v2_s", 174) == ("bgr", "segments", 16, 256, "3x1")
    assert inputs("slowfast_mvit_v2_s", 400) == ("rgb", "stride 4", 16, 256, "1x5")
    assert inputs("torchvision_mvit_v2_s", 174) == ("rgb", "stride 4", 16, 256, "1x5")
    assert inputs("slowfast_x3d_xs", 400) == ("rgb", "stride 12", 4, 182, "3x10-182")
    assert inputs("pytorchvideo_x3d_l", 400) == ("rgb", "stride 5", 16, 356, "3x10-356")
    assert inputs("nonlocal_net_nl_i3d_r50", 400) == ("rgb", "stride 2", 32, 256, dense)
    assert inputs("mit_tsm_r101", 174) == ("rgb", "segments", 8, 256, "tsm")
    assert inputs("mit_tsm_r50", 400) == ("rgb", "segments", 8, 256, "center")
    assert inputs("trn_bn_inception", 174) == ("bgr", "segments", 8, 256, "tsn")
    assert inputs("tsn_bn_inception", 101) == ("bgr", "segments", 25, 256, "tsn")
    assert inputs("mmaction_trn_r50", 174) == ("rgb", "segments", 8, 256, "tsm")
    assert inputs("mmaction_slowfast_r50", 400) == ("rgb", "stride 2", 32, 256, dense)
    assert inputs("mmaction_x3d_s", 400) == ("rgb", "stride 6", 13, 182, "3x10-182")
    assert inputs("videomae_b", 174) == ("rgb", "segments", 16, 224, "tsm")
    assert inputs("mcg_videomae_l", 400) == ("rgb", "stride 4", 16, 224, "3x5")
    assert inputs("vjepa2_l", 174) == ("rgb", "stride 4", 16, 292, "3x2")
    caffe = {"imagenet_bn_inception", "tsn_bn_inception", "trn_bn_inception", "eco_lite"}
    assert {name for name, arch in ARCHS.items() if arch.channels == "bgr"} == caffe


def test_weights_in_several_files(tmp_path):
    state = tiny_state()
    names = sorted(state)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, some in parts.items():
        save_file({name: state[name] for name in some}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    places = {name: file for file, some in parts.items() for name in some}

    def write_index(places):
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))

    write_index(places)
    found = convert_torch.read(index)
    assert found.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value)
    write_index(places | {"more": "model-2.safetensors"})
    with pytest.raises(UserError, match=r"index\.json: model-2\.safetensors lacks more"):
        convert_torch.read(index)
    write_index(places | {"more": "model-3.safetensors"})
    with pytest.raises(UserError, match=r"model-3\.safetensors: no such file"):
        convert_torch.read(index)
    write_index({"more": index.name})
    with pytest.raises(
        UserError, match=r"names model\.safetensors\.index\.json, which is an index"
    ):
        convert_torch.read(index)
    for text in ("[]", "{}", '{"weight_map": 3}', "hello"):
        index.write_text(text)
        with pytest.raises(UserError, match="is not an index of weights: it has no weight_map"):
            convert_torch.read(index)


def test_types_that_need_scales_are_refused(tmp_path):
    """Float8 as safetensors writes it; NumPy has no such type."""
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(
        UserError, match=r"model\.safetensors: a is of type F8_E4M3; save the weight"
    ):
        convert_torch.read(file)
    save_file({"a": np.ones(2, ml_dtypes.bfloat16)}, file)
    assert convert_torch.read(file)["a"].astype(np.float32).tolist() == [1, 1]


def test_converted_weights_begin_a_run_with_a_graph_inside(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHS, "tiny", TINY)
    save_file(tiny_state(), tmp_path / "model.safetensors")
    out = tmp_path / "out"
    convert_torch.main([str(tmp_path / "model.safetensors"), "--arch=tiny", f"--out={out}"])
    settings = TrainConfig(total_steps=1, init_from=str(out), init_fresh=("^params/rstg_res2_0/",))
    config = dataclasses.replace(convert_torch.model_config(TINY), rstg_at=("res2.0",))
    module = classifier.build(config, 5)
    mesh = sharding.make_mesh(sharding.MeshConfig())
    abstract = train_state.abstract_variables(module, (4, 32, 32, 3), mesh)
    pretrained, _ = init_from.weights(settings, abstract, "abcde")
    wanted = traverse_util.flatten_dict(convert_torch.convert(tiny_state(), TINY), sep="/")
    wanted = {path: value for path, value in wanted.items() if "/classifier/" not in path}
    assert pretrained.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(pretrained[path], value)


def test_label_names(tmp_path, caplog):
    path = tmp_path / "labels.txt"
    path.write_text("pushing\npulling\n")
    assert write.label_names(str(path), 2) == ("pushing", "pulling")
    path.write_bytes("schieben\r\nüben\r\n\r\n".encode("utf-8-sig"))
    assert write.label_names(str(path), 2) == ("schieben", "üben")
    path.write_text("üben", "latin-1")
    with pytest.raises(UserError, match=r"cannot read label names from .*labels\.txt: 'utf-8'"):
        write.label_names(str(path), 1)
    path.write_text("pushing\npulling\n")
    assert write.label_names(None, 3) == ("0", "1", "2")
    with pytest.raises(UserError, match=r"labels\.txt has 2 labels, the classifier has 3"):
        write.label_names(str(path), 3)
    with pytest.raises(UserError, match="cannot read label names"):
        write.label_names(str(tmp_path / "none"), 3)

    online = SyncMNISTConfig(classes=(0, 1, 2), num_digits=2, test_source="online")
    assert write.label_names(None, 4, online) == online.spec.label_names
    with pytest.raises(UserError, match="the data of the config has 4 labels"):
        write.label_names(None, 5, online)
    elsewhere = SyncMNISTConfig(test_source="tfds", data_dir=str(tmp_path))
    assert write.label_names(None, 2, elsewhere) == ("0", "1")
    assert "labels are named by their numbers" in caplog.text


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_written_weights_are_evaluated_like_a_run(tmp_path, monkeypatch, ema_decay):
    standins.install(monkeypatch)
    experiment = standins.experiment(optim=OptimizerConfig(ema_decay=ema_decay))
    source = standins.Source("test")
    module = classifier.build(experiment.model, source.classes)
    batch = source.batch(range(len(source)))
    variables = module.init(jax.random.key(1), batch["video"], train=False)
    write.write(
        tmp_path,
        experiment,
        variables,
        label_names=source.label_names,
        video_shape=batch["video"].shape[1:],
        source={"name": "nowhere"},
    )
    figures, _ = evaluation.evaluate_checkpoint(trained_model.load(tmp_path), "test")
    logits, _ = module.apply(variables, batch["video"], train=False)
    hits = np.asarray(logits).argmax(-1) == batch["label"]
    assert figures["top1"] == pytest.approx(hits.mean())
    assert figures["step"] == 0


def test_variables_of_another_model_are_refused(tmp_path, monkeypatch):
    standins.install(monkeypatch)
    experiment = standins.experiment()
    module = classifier.build(experiment.model, 7)
    variables = module.init(jax.random.key(1), np.zeros((1, 3, 32, 32, 1)), train=False)
    variables["params"]["head"]["more"] = variables["params"]["head"].pop("bias")
    variables["params"]["project"]["kernel"] = np.zeros((32, 9))
    keywords = {"label_names": "abcdefg", "video_shape": (3, 32, 32, 1), "source": {}}
    with pytest.raises(UserError) as error:
        write.write(tmp_path, experiment, variables, **keywords)
    assert str(error.value) == (
        "the weights do not fit the model: missing params/head/bias; unused params/head/more; "
        "params/project/kernel is [32, 9], the model's is [8, 16]"
    )
    assert not list(tmp_path.iterdir())


def test_all_published_networks_have_names_for_all_their_layers(monkeypatch):
    """An empty file lacks as many differently named tensors as the network has."""
    monkeypatch.setattr(fit, "named", "; ".join)
    seen = set()
    for name, arch in ARCHS.items():
        # R101 has the same names for more blocks, SlowFast two pathways and TRN a head. Networks
        # whose tensors are named alike, for the same layers, differ in kernels and strides only.
        others = ("slowfast_r50", "4x16_r50", "trn_r50")
        if not name.endswith("r50") or name.endswith(others):
            continue
        kind = (id(arch.names), arch.backbone.depths, arch.backbone.non_local)
        if kind in seen:
            continue
        seen.add(kind)
        with pytest.raises(UserError) as error:
            convert_torch.convert({}, arch)
        missing = str(error.value).removeprefix("the tensors do not fit the architecture: ")
        names = missing.split("; ")
        # A convolution with norm is 5 tensors. A block has three, four of them a shortcut besides.
        attention = 11 if name.startswith("mmaction") else 12
        non_local = 5 * attention if "_nl_" in name else 0
        wanted = 5 * (1 + 3 * 16 + 4) + non_local + 2
        assert len(set(names)) == len(names) == wanted, name
        assert all(line.startswith("missing ") for line in names)
    assert len(seen) == 7
