"""Names for the files that are written for videos, none of which replaces somebody else's file."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from rstg_jax import files
from rstg_jax.errors import UserError

INDEX = ".rstg_jax_outputs.json"  # name of a file beside it -> the video that it was made of

_LONGEST = 240  # bytes of a name without number and suffix; file systems take 255


def paths_in(
    directory: Path, names: Sequence[str], flag: str, suffixes: Sequence[str], page: str = ""
) -> list[Path]:
    """Returns a file for each video in a directory, which is created; no two are the same.

    A video has the files that an earlier call gave it. Those of another video are kept: it gets a
    number behind its name, as in "clip~2.json".

    Args:
      directory: Of the files. What was written there, and of which video, is kept in `INDEX`.
      names: Of the videos.
      flag: That names the directory.
      suffixes: Of the files of each video. Paths with the first of them are returned.
      page: Name of a file about all of them, if there is one.

    Raises:
      UserError: A file that was not written here has the name of one, or the directory or its index
        cannot be written; names the flag.
    """
    shown = f"{flag}={directory}"
    files.make_directory(directory, shown)
    ours = _read(directory / INDEX)
    new = {page: ""} if page else {}
    stems = []
    for name in names:
        # The same name in another directory is another video. An example of a split is no path.
        video = str(Path(name).resolve()) if os.path.exists(name) else name
        stem = Path(name).stem.replace(":", "-") or "video"
        while len(os.fsencode(stem)) > _LONGEST:
            stem = stem[:-1]
        numbered = (f"{stem}~{number}" for number in itertools.count(2))
        for free in itertools.chain([stem], numbered):
            outputs = [f"{free}{suffix}" for suffix in suffixes]
            there = [output for output in outputs if (directory / output).exists()]
            if free not in stems and all(ours.get(output, video) == video for output in there):
                break
        stems.append(free)
        new |= dict.fromkeys(outputs, video)
    for output in new:
        if output not in ours and (directory / output).exists():
            raise UserError(
                f"{shown}: {output} is there, and was not written by this command; move it, or "
                "name another directory"
            )
    files.write_json(directory / INDEX, ours | new)
    return [directory / f"{stem}{suffixes[0]}" for stem in stems]


def _read(index: Path) -> dict[str, str]:
    """Files of earlier calls; none without an index, or if it is damaged."""
    try:
        content = files.read_json(index)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}
