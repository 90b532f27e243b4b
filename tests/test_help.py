"""Every command prints its flags with --help."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("rstg_jax", "tfds_builders", "benchmarks")
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in [
        ROOT / "train.py",
        *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")),
    ]
    if '__name__ == "__main__"' in path.read_text()
)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(command, run_name="__main__")
    assert not ended.value.code
    said = capsys.readouterr().out
    if command != "train":  # its usage names the script that was started
        assert said.split()[1:4] == ["python", "-m", command]
    assert "show this help message" in said
