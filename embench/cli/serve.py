"""A local server for the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embench.core.errors import BadInput, Interrupted

if TYPE_CHECKING:
    pass


def serve(site: Path, port: int) -> None:
    """Serve a built site on this machine until interrupted."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    if not (site / "index.html").is_file():
        raise BadInput(f"{site}: no index.html; run: embench leaderboard build --out {site}")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(site)))
    except OSError as error:
        raise BadInput(f"--port {port}: {error.strerror}; choose another") from None
    with server:
        print(f"http://127.0.0.1:{server.server_port}/    stop with Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except Interrupted:
            print()
