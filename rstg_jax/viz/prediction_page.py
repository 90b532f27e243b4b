"""The HTML page beside annotated videos: each with its most likely labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from rstg_jax import files


def write(directory: Path, model: str, labels: int, records: Sequence[Mapping[str, Any]]) -> Path:
    """Writes `directory`/index.html and returns its path.

    Args:
      directory: of the annotated videos.
      model: name of the model.
      labels: how many labels it knows.
      records: from `predictor.predict`.

    Raises:
      UserError: the page cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rstg_jax.viz"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    shown = [
        {
            "name": Path(record["video"]).name,
            "drawn": Path(record["drawn"]).name if "drawn" in record else "",
            "predictions": record.get("predictions", ()),
            "error": record.get("error", ""),
        }
        for record in records
    ]
    page = environment.get_template("predictions.html").render(
        model=model, labels=labels, records=shown
    )
    path = directory / "index.html"
    files.write_text(path, page)
    return path
