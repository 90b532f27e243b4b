"""A server on localhost that speaks Google Cloud Storage's JSON API, for tests.

It is gcp-storage-emulator with what this lacks and TensorStore relies on: an object is only written
if it still has the generation that the writer names, and readers learn the generation.
"""

import contextlib
import http
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

ROOT = Path(__file__).parents[1]
BUCKET = "bucket"

Handler = Callable[[server.Request, server.Response, Any], None]


def generation(storage: Any, bucket: str, name: str) -> str:
    """The generation of an object; "0" if there is none."""
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def insert(request: server.Request, response: server.Response, storage: Any) -> None:
    """Writes an object unless `ifGenerationMatch` says otherwise."""
    content = request.data  # must be read whatever the answer is
    if wanted := request.query.get("ifGenerationMatch"):
        named = request.query.get("name")
        name = named[0] if named else content.get("meta", content)["name"]
        if wanted[0] != generation(storage, request.params["bucket_name"], name):
            response.status = http.HTTPStatus.PRECONDITION_FAILED
            return
    objects.insert(request, response, storage)


def get(request: server.Request, response: server.Response, storage: Any) -> None:
    """Reads an object and says its generation."""
    bucket, name = request.params["bucket_name"], request.params["object_id"]
    response["x-goog-generation"] = generation(storage, bucket, name)
    objects.get(request, response, storage)


def while_up(handler: Handler, down: Path) -> Handler:
    """The handler, but the answer is 503 as long as there is a file `down`."""

    def handle(request: server.Request, response: server.Response, storage: Any) -> None:
        if down.exists():
            _ = request.data  # must be read whatever the answer is
            response.status = http.HTTPStatus.SERVICE_UNAVAILABLE
            return
        handler(request, response, storage)

    return handle


def with_generations(routes: dict[str, Handler], down: Path) -> dict[str, Handler]:
    """The routes of the emulator with the handlers of this file."""
    ours = {objects.insert: insert, objects.get: get}
    return {
        method: while_up(ours.get(handler, handler), down) for method, handler in routes.items()
    }


@contextlib.contextmanager
def running(down: Path) -> Iterator[dict[str, str]]:
    """Runs a server with an empty bucket; yields the environment of its clients.

    As long as there is a file `down`, it is unavailable.
    """
    command = [sys.executable, "-m", __name__, str(down)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            yield {
                "STORAGE_EMULATOR_HOST": address,
                "TENSORSTORE_GCS_HTTP_URL": address,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks another server
            }
        finally:
            process.kill()


def main() -> None:
    """Serves until it is killed; prints its address."""
    down = Path(sys.argv[1])
    server.HANDLERS = tuple(
        (path, with_generations(routes, down)) for path, routes in server.HANDLERS
    )
    served = server.create_server("localhost", 0, in_memory=True, default_bucket=BUCKET)
    served.start()
    print(f"http://localhost:{served._api._httpd.server_address[1]}", flush=True)


if __name__ == "__main__":
    main()
