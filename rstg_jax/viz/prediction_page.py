"""The HTML page beside annotated videos: each with its most likely labels."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rstg_jax import files
from rstg_jax.viz import html_page

NAME = "index.html"


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
    shown = [
        {
            "name": Path(record["video"]).name,
            "drawn": quote(os.fsencode(Path(record.get("drawn", "")).name)),
            "predictions": record.get("predictions", ()),
            "error": record.get("error", ""),
        }
        for record in records
    ]
    template = html_page.environment().get_template("predictions.html")
    page = template.render(model=model, labels=labels, records=shown)
    path = directory / NAME
    # Bytes of names that are not UTF-8 are shown as they are on a terminal.
    files.write_bytes(path, page.encode("utf-8", "backslashreplace"))
    return path
