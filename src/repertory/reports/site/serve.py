"""The site in a browser of this machine."""

from __future__ import annotations

import functools
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from repertory.core.problem import Problem


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # the next build has other pages at the same addresses
        super().end_headers()


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """A server of a folder on 127.0.0.1 alone; `serve_forever` starts it.

    Args:
        folder: what it serves.
        port: 0 takes a free one.

    Raises:
        Problem: the port is taken or not allowed.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Quiet, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise Problem(f"no server can listen there: {error}", f"127.0.0.1:{port}", "choose another --port") from error
    with server:
        yield server


def address(server: ThreadingHTTPServer) -> str:
    """Where a server is reached."""
    return f"http://127.0.0.1:{server.server_address[1]}/"


def show(url: str) -> bool:
    """Open the browser; False where there is none."""
    return webbrowser.open(url)
