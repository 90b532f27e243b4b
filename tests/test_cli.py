"""Shared by the command lines: config overrides, lazy imports, the compilation cache."""

import argparse
import io
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rstg_jax import cli, config, launch, limits, processes
from rstg_jax.cli import running
from rstg_jax.errors import UserError
from rstg_jax.training.experiment import Experiment, TrainConfig

ROOT = Path(__file__).parent.parent
RESIDUAL, BATCH = "model.rstg.residual", "train.batch_size"


@pytest.fixture
def cache():
    """JAX's own settings, which keep only slow programs, until those of the suite are back."""
    names = ("min_compile_time_secs", "min_entry_size_bytes")
    names = ["jax_compilation_cache_dir", *(f"jax_persistent_cache_{name}" for name in names)]
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[1], 1.0)  # JAX's default
    jax.config.update(names[2], 0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_compiled_programs_are_kept(cache, monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli.keep_compiled_programs()
    kept = Path(jax.config.jax_compilation_cache_dir)
    assert kept == tmp_path / "rstg_jax" / "compiled" / platform.node()
    compilation_cache.reset_cache()
    jax.block_until_ready(jax.jit(lambda x: x + 12345)(jnp.ones(3)))  # compiled in no time
    assert list(kept.iterdir())


def test_a_cache_that_cannot_be_written_is_not_claimed(cache, monkeypatch, tmp_path, caplog):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    cli.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert "compiled programs are not cached" in caplog.text and "file" in caplog.text


@pytest.mark.parametrize("directory", ["", "elsewhere"])
def test_the_environment_decides(cache, monkeypatch, directory):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", directory)
    before = jax.config.jax_compilation_cache_dir
    cli.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before


def test_names_that_the_terminal_cannot_show_are_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.run(lambda: print("caf\udce9 “ü”", end="") or 0) == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == b"caf\\udce9 \\u201c\xfc\\u201d"


@pytest.mark.parametrize("length", [10, 10**6])  # fails at the end, or at once
def test_a_reader_that_has_enough_is_no_error(length):
    """As `head` in `... | head -1`."""
    main = f"lambda: print('x' * {length}) or 0"
    code = f"import sys; from rstg_jax import cli; sys.exit(cli.run({main}))"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_not_hidden(monkeypatch):
    def main():
        raise BrokenPipeError("a worker's")

    with tempfile.TemporaryFile("w") as output, pytest.raises(BrokenPipeError, match="a worker's"):
        monkeypatch.setattr(sys, "stdout", output)
        running._run(main, ())


def parser(*, files: bool = False) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="command")
    parser.add_argument("--config")
    parser.add_argument("--json", action="store_true")
    if files:
        parser.add_argument("videos", nargs="+")
    return parser


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ([f"--config.{BATCH}=4"], {BATCH: "4"}),
        ([f"--config.{BATCH}", "4"], {BATCH: "4"}),
        ([f"-config.{BATCH}=4"], {BATCH: "4"}),
        ([f"-config.{BATCH}", "4", "--json"], {BATCH: "4"}),
        (["--config.optim.b1", "-1"], {"optim.b1": "-1"}),
        (["--config.name="], {"name": ""}),
        (["--config.name=a=b\nc"], {"name": "a=b\nc"}),
        ([f"--config.{RESIDUAL}"], {RESIDUAL: "true"}),
        ([f"-config.{RESIDUAL}", "--json"], {RESIDUAL: "true"}),
        ([f"--config.{RESIDUAL}", "false"], {RESIDUAL: "false"}),
        ([f"--noconfig.{RESIDUAL}"], {RESIDUAL: "false"}),
        ([f"-noconfig.{RESIDUAL}", f"--config.{BATCH}=4"], {RESIDUAL: "false", BATCH: "4"}),
        ([f"--config.{RESIDUAL}", f"-config.{BATCH}=4"], {RESIDUAL: "true", BATCH: "4"}),
        (["--json", "--"], {}),
        (["--", "--"], None),
        (["--", f"--config.{BATCH}=4"], None),
        ([f"--noconfig.{RESIDUAL}=true"], None),
        (["--jsn"], None),
        (["--conf=x"], None),
    ],
)
def test_spelling_of_overrides(words, changes, capsys):
    """None: the command refuses the words."""
    if changes is None:
        with pytest.raises(SystemExit) as stop:
            cli.parse(parser(), words)
        assert stop.value.code == 2
        assert "usage: command" in capsys.readouterr().err
    else:
        assert cli.parse(parser(), words)[1] == changes


@pytest.mark.parametrize(
    ("words", "videos", "changes"),
    [
        (["a.mp4", f"--config.{BATCH}", "4"], ["a.mp4"], {BATCH: "4"}),
        ([f"--config.{BATCH}", "4", "a.mp4"], ["a.mp4"], {BATCH: "4"}),
        ([f"--config.{RESIDUAL}", "a.mp4"], ["a.mp4"], {RESIDUAL: "true"}),
        ([f"--config.{RESIDUAL}", "False", "a.mp4"], ["a.mp4"], {RESIDUAL: "False"}),
        ([f"--noconfig.{RESIDUAL}", "a.mp4"], ["a.mp4"], {RESIDUAL: "false"}),
        (["a.mp4", f"--config.{BATCH}=4", "b.mp4"], ["a.mp4", "b.mp4"], {BATCH: "4"}),
        (["--config.data.path", "a", "b.mp4"], ["b.mp4"], {"data.path": "a"}),
        (["--", "-a.mp4", "--json"], ["-a.mp4", "--json"], {}),
    ],
)
def test_overrides_beside_file_names(words, videos, changes):
    args, found = cli.parse(parser(files=True), words, config_class=Experiment)
    assert (args.videos, found) == (videos, changes)


def test_a_switch_needs_a_boolean_key():
    experiment = Experiment("x", TrainConfig(total_steps=1))
    changed = config.override(experiment, cli.parse(parser(), [f"--noconfig.{RESIDUAL}"])[1])
    assert changed.model.rstg.residual is False
    for word, message in (
        (f"--config.{BATCH}", f"'{BATCH}' needs a value: --config.{BATCH}=VALUE"),
        ("--config.model.rstg", "'model.rstg' needs a value"),
        (f"--noconfig.{BATCH}", f"'{BATCH}' is not a boolean: --noconfig.{BATCH} cannot set it"),
        ("--noconfig.name", "'name' is not a boolean"),
    ):
        with pytest.raises(UserError, match=message):
            config.override(experiment, cli.parse(parser(), [word])[1])


def test_import_flag_makes_classes_known(tmp_path, monkeypatch):
    (tmp_path / "my_backbone.py").write_text(
        "import dataclasses\n"
        "from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class MyBackbone(SimpleCNNConfig):\n"
        "    fast: bool = False\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = Experiment("x", TrainConfig(total_steps=1))
    with pytest.raises(UserError, match=r"no class 'MyBackbone'.*--import=MODULE"):
        config.override(experiment, {"model.backbone": "MyBackbone"})
    words = ["--import=my_backbone", "--config.model.backbone=MyBackbone"]
    words += ["--config.model.backbone.fast", "a.mp4"]
    args, changes = cli.parse(parser(files=True), words, config_class=Experiment)
    assert args.videos == ["a.mp4"]
    backbone = config.override(experiment, changes).model.backbone
    assert (type(backbone).__name__, backbone.fast) == ("MyBackbone", True)
    with pytest.raises(UserError, match="--import=no_such: no module 'no_such'"):
        cli.parse(parser(), ["--import=no_such"])


def test_configs_and_commands_find_modules_beside_them(tmp_path, monkeypatch):
    """As a script does; `python DIR/train.py` itself looks into DIR alone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    config_file, here = tmp_path / "project" / "mine.py", tmp_path / "here"
    config_file.parent.mkdir()
    here.mkdir()
    (config_file.parent / "beside_the_config.py").write_text("STEPS = 7\n")
    config_file.write_text(
        "from beside_the_config import STEPS\n"
        "from rstg_jax.training.experiment import Experiment, TrainConfig\n"
        "def get_config(): return Experiment('mine', TrainConfig(total_steps=STEPS))\n"
    )
    assert config.load(str(config_file)).train.total_steps == 7
    (here / "in_this_directory.py").write_text("")
    monkeypatch.chdir(here)
    cli.parse(parser(), ["--import=in_this_directory"])
    assert "in_this_directory" in sys.modules


def test_a_module_can_raise_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "PIXELS", 100)
    with pytest.raises(UserError, match="has frames of 20x20 pixels, too many"):
        limits.check_pixels(20, 20)
    (tmp_path / "roomy.py").write_text("from rstg_jax import limits\nlimits.PIXELS = 1 << 28\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cli.parse(parser(), ["--import=roomy"])
    limits.check_pixels(16384, 16384)


def test_launched_processes_resume_by_the_command_of_the_launcher():
    code = "from rstg_jax import processes; print(processes.resume_command())"
    (job,) = launch.start(1, ["-c", code])
    assert job.communicate()[0].strip() == processes.resume_command()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import rstg_jax", 0),
        ("import train; train.main(['--help'])", 0),
        ("import train; train.main(['--config=configs/smt.py', '--wrkdir=x'])", 2),
        ("import train; train.main(['--config=x', '--config.train.batch_size', '4', '-x'])", 2),
    ],
)
def test_answers_without_loading_jax(code, status):
    script = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: os._exit(9) if {'jax', 'flax'} & set(sys.modules) else None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + code], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == status, done.stderr


def test_public_names():
    import rstg_jax
    from rstg_jax import RSTG, RSTGConfig, init_state, presets, to_map, to_vec
    from rstg_jax.rstg import RSTG as Same
    from rstg_jax.rstg import presets as same_presets

    assert RSTG is Same and presets is same_presets
    assert callable(init_state) and callable(to_map) and callable(to_vec)
    assert RSTG(RSTGConfig()).config == RSTGConfig()
    assert set(rstg_jax.__all__) <= set(dir(rstg_jax))
    with pytest.raises(AttributeError, match="has no attribute 'Rstg'"):
        rstg_jax.Rstg  # noqa: B018


@pytest.mark.parametrize(
    "word",
    [
        *("--workdir=s3://b/run", "--manual_dir=gs://b", "--out=gs://b/out", "https://host/a.mp4"),
        *("--out=s3://b/day=1", "https://host/a.mp4?key=b", "--given=row=gs://b/run"),
    ],
)
def test_buckets_are_no_directories(word, monkeypatch, capsys):
    """`Path("gs://b")` would be a new directory named "gs:"."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--config=a.py", word])
    assert cli.run(lambda: pytest.fail("the command has begun")) == 2
    assert f"error: {word}: " in capsys.readouterr().err
    for words in (
        ["--workdir=runs/a:b//c"],
        ["--workdir=gs://b/run"],
        ["--workdir", "gs://b/day=1"],
        ["-config.data.path=gs://b/data"],
        ["-config.data.path", "gs://b/data"],
    ):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        assert cli.run(lambda: 0) == 0
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--out=gs://b/out"])
    assert cli.run(lambda: 0, ("--out",)) == 0


@pytest.mark.parametrize("words", [["--workdir="], ["--workdir", ""], ["clip.mp4", ""]])
def test_a_variable_that_is_not_set_is_not_the_current_directory(words, monkeypatch, capsys):
    """`--workdir=$RUN` without RUN trained where the command was started."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert cli.run(lambda: pytest.fail("the command has begun")) == 2
    assert "is empty" in capsys.readouterr().err
    emptied = ["--config.data.path=", "--config.train.init_from", "", "-config.name=", "--json"]
    monkeypatch.setattr(sys, "argv", ["train.py", *emptied])
    assert cli.run(lambda: 0) == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("with cli.loading(): kill(signal.SIGINT), time.sleep(9)", 130),
        ("with cli.loading(): kill(signal.SIGHUP), time.sleep(9)", 129),
        ("with cli.loading(): pass\nsys.exit(cli.run(lambda: kill(signal.SIGTERM)))", 130),
    ],
)
def test_signals_before_training_end_it_in_one_line(code, status):
    first = "import functools, os, signal, sys, time\nfrom rstg_jax import cli\n"
    first += "kill = functools.partial(os.kill, os.getpid())\n"
    # The suite itself may run in the background or under nohup, where signals are ignored.
    first += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    first += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    command = [sys.executable, "-c", first + code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "interrupted\n")
