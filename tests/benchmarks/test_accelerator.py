"""The accelerator benchmark runs, tiny, where only the model side's packages are installed."""

import json
import subprocess
import sys

# What a bare machine with JAX and Flax lacks.
MISSING = (
    "array_record",
    "av",
    "google_crc32c",
    "jaxtyping",
    "jinja2",
    "matplotlib",
    "mlxtend",
    "tensorboardX",
    "tensorflow_datasets",
)
BARE = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
RUN = f"""{BARE}
from benchmarks import accelerator
sys.exit(accelerator.main(sys.argv[1:]))
"""


def test_all_sections_run_without_data_packages(tmp_path):
    only = "golden float32 highest|step .*float32|stream|generator 3"
    command = [sys.executable, "-c", RUN, "--quick", f"--only={only}", f"--json={tmp_path / 'j'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "j").read_text())["rows"]}
    assert rows["golden float32 highest"]["largest deviation"] < 5e-5
    step = rows["step configs/sync_mnist.py:tiny, 2 clips, float32"]
    assert step["clips/s"] == 2 / (step["step ms"] / 1e3)
    assert {name.split()[0] for name in rows} == {"golden", "step", "stream", "generator"}


def test_missing_packages_are_missed():
    """Negative control of the test above."""
    done = subprocess.run(
        [sys.executable, "-c", f"{BARE}\nimport rstg_jax.data.video.seek"],
        capture_output=True,
        text=True,
    )
    assert "No module named 'av'" in done.stderr


def test_what_does_not_begin_in_time_is_listed(tmp_path, capsys):
    from benchmarks import accelerator

    out = tmp_path / "j"
    assert accelerator.main(["--quick", "--minutes=0", f"--json={out}"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 4 + 2 + 2 + 1 + 2
    assert all(row["left out"] == "--minutes=0 are over" for row in rows)
