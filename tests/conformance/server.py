"""A loopback web server: of a repository, of files that never end, or of one byte now and then."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@contextlib.contextmanager
def serving(answer):
    """Serve what `answer` writes, on a free port; give the URL.

    Args:
        answer: Called with the handler of each request; its `path` is without the first slash.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.path = self.path.lstrip("/")
            with contextlib.suppress(OSError):  # the client may leave when it has heard enough
                answer(self)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def repository_answer(repository, asked):
    """Return the answer of a repository below `/metadata/` and `/targets/`; `asked` gets the paths."""

    def answer(handler):
        asked.append(handler.path)
        folder, _, name = handler.path.partition("/")
        found = repository.files.get(name if folder == "metadata" else unquote(name))
        if found is None:
            handler.send_error(404)
            return
        reply(handler, found)

    return answer


def begin(handler, *, length):
    """Send the head of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


def reply(handler, data, *, length=None):
    """Send a whole answer; `length` may lie."""
    begin(handler, length=len(data) if length is None else length)
    handler.wfile.write(data)
