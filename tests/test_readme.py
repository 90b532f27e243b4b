"""README and docs: examples run, commands parse, places exist, links resolve."""

import argparse
import importlib
import importlib.util
import pathlib
import re
import shlex
import tomllib

import numpy as np
import pytest

from rstg_jax import cli, config

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(make|python|pip) ")
# Values in capitals stand for something of the user's.
PLACEHOLDERS = {
    "--config=FILE:VARIANT": "--config=configs/smt.py:demo",
    "--config=FILE": "--config=configs/sync_mnist.py:tiny",
    "--config.ANY.KEY=VALUE": "--config.train.seed=1",
    "num_frames=T": "num_frames=20",
    "remat=...": "remat=space",
    "--config=...": "--config=configs/smt.py:demo",
}
# The test that runs each program, or what a run needs that a test does not have.
PROGRAMS = {
    "train.py": "tests/test_configs.py::test_command_lines_end_to_end",
    "rstg_jax.evaluate": "tests/test_configs.py::test_command_lines_end_to_end",
    "rstg_jax.predict": "tests/test_configs.py::test_command_lines_end_to_end",
    "rstg_jax.report": "tests/viz/test_examples.py::test_report_of_a_real_run",
    "rstg_jax.animate": "tests/viz/test_video_writer.py::test_command",
    "rstg_jax.summary": "tests/test_summary.py::test_table_and_json",
    "rstg_jax.features": "tests/test_features.py::test_command_line_killed_and_resumed",
    "rstg_jax.launch": (
        "tests/training/test_resume.py::test_four_processes_of_the_launcher_train_as_one"
    ),
    "rstg_jax.verify": "tests/test_verify.py::test_a_run_is_identical",
    "rstg_jax.convert.export": "tests/convert/test_export.py::test_export_and_load",
    "rstg_jax.convert.i3d_jax": "tests/convert/test_i3d_jax.py::test_command_line",
    "rstg_jax.convert.official": "tests/convert/test_official.py::test_sync_mnist_model",
    "rstg_jax.convert.torch": "tests/convert/test_torch.py::test_command_line",
    "tfds_builders.sync_mnist.build": "tests/tfds_builders/test_sync_mnist.py::test_disk_too_small",
    "tfds_builders.sync_mnist.official": (
        "tests/tfds_builders/test_sync_mnist.py::test_official_paths_are_rendered"
    ),
    "tfds_builders.something_something.build": (
        "tests/test_smt_end_to_end.py::test_result_is_of_the_last_step"
    ),
    "tfds_builders.something_something.make_demo": (
        "tests/tfds_builders/test_make_demo.py::test_picture_of_all_classes"
    ),
    "benchmarks.operations": "tests/benchmarks/test_operations.py::test_tables_and_json",
    "benchmarks.scaling": (
        "tests/benchmarks/test_scaling.py::test_quick_run_writes_what_it_measures"
    ),
    "benchmarks.analysis": "tests/benchmarks/analysis/test_page.py::test_page",
    "benchmarks.accelerator": (
        "tests/benchmarks/test_accelerator.py::test_all_sections_run_without_data_packages"
    ),
    "benchmarks.block": "a quiet machine",
    "benchmarks.clip_loading": "a quiet machine",
    "benchmarks.roofline": "memory for the largest models",
    "benchmarks.sync_mnist_generation": "a quiet machine",
    "benchmarks.train_step": "a quiet machine",
    "benchmarks.long_range": "hours",
    "benchmarks.table": "hours",
    "benchmarks.kill": "many starts of whole programs",
    "benchmarks.soak": "many minutes",
}


def commands() -> list[str]:
    """All commands in code blocks and code spans; flags alone are flags of train.py."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
        found += [line.partition("  #")[0].strip() for line in lines if COMMAND.match(line)]
        found += [span for span in spans if COMMAND.match(span)]
        found += [f"python train.py {s}" for s in spans if re.match(r"--config=.*\.py", s)]
    return sorted(set(found))


class Parsed(Exception):
    """Raised instead of running a command whose flags are right."""


def parsed(words: list[str], monkeypatch) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parses the words after "python" with the parser of their program."""
    name, rest = (words[1], words[2:]) if words[0] == "-m" else ("train", words[1:])
    package = importlib.util.find_spec(name).submodule_search_locations
    main = importlib.import_module(f"{name}.__main__" if package else name).main
    real, cli_parse = argparse.ArgumentParser.parse_args, cli.parse

    def stop(self, args=None, namespace=None):
        raise Parsed(real(self, args, namespace), {})

    def stop_with_overrides(*args, **kwargs):
        raise Parsed(*cli_parse(*args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(cli, "parse", stop_with_overrides)
    with pytest.raises(Parsed) as caught:
        main(rest)
    return caught.value.args


@pytest.mark.parametrize("command", commands())
def test_command(command, monkeypatch):
    """Its program, flags, config and keys exist, and a test runs the program."""
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    program, *words = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[0] in targets
        return
    if program == "pip" and words[-2] == "-r":
        assert (ROOT / words[-1]).is_file()
        return
    if program == "pip" and "==" in words[-1]:
        assert f"{words[-1]} --hash" in (ROOT / "requirements-predict-demo.txt").read_text()
        return
    if program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert words[:2] == ["install", "-e"]
        assert set(re.findall(r"\[(\w+)\]", command)) <= set(extras["optional-dependencies"])
        return
    if words[:2] == ["-m", "pytest"]:
        assert all((ROOT / file).is_file() for file in words[2:])
        return
    name = words[1] if words[0] == "-m" else words[0]
    test, _, function = PROGRAMS[name].partition("::")
    assert not function or f"def {function}(" in (ROOT / test).read_text()
    monkeypatch.chdir(ROOT)
    args, changes = parsed(words, monkeypatch)
    if str(getattr(args, "config", "")).startswith("configs/"):
        config.override(config.load(args.config), changes)


def test_there_are_commands():
    found = commands()
    assert "make demo" in found
    assert "python train.py --config=configs/smt.py" in found
    assert len(found) > 40


def test_examples():
    names = {}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(code, names)
    assert names["nodes"].shape == (2, 10, 14, 64)
    assert names["attention"].shape == (3, 2, 10, 14, 14)
    assert names["vector"].shape == (2, 64)
    assert names["back"].shape == (2, 10, 7, 7, 64)
    np.testing.assert_allclose(names["out"].nodes[:, 0], names["nodes"][:, -1], atol=1e-5)


def test_example_of_data_made_on_the_device():
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL):
        exec(code, names)
    video, source = names["video"], names["source"]
    assert (video.shape, video.dtype) == ((8, 10, 64, 64, 1), np.uint8)
    assert len(names["names"]) == 8 and {*names["names"]} <= {*source.label_names}
    assert {"coords", "digits"} <= set(names["batch"])


def test_named_places_exist():
    places = [
        place
        for cell in re.findall(r"^\| (`.*?) \|", (ROOT / "docs/code.md").read_text(), re.MULTILINE)
        for place in re.findall(r"`(.*?)`", cell)
    ]
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_places_in_prose_exist(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = re.findall(r"`((?:rstg_jax|benchmarks|tests|configs)/[\w/.]+)`", page.read_text())
    assert [place for place in named if not (ROOT / place).exists()] == []
