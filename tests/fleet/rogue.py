"""Somebody who answers in the place of a controller, with a certificate that he has."""

import http.server
import ssl
import threading


class Rogue:
    """An HTTPS server that says what it is told to say, and remembers what it was told.

    Args:
        pair: Key and certificate files that it shows; None for plain HTTP.
        answers: Bytes by path, or what makes them of a request's body.
    """

    def __init__(self, pair, answers):
        self.heard = []
        rogue = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer(b"")

            def do_POST(self):
                self.answer(self.rfile.read(int(self.headers["content-length"])))

            def answer(self, body):
                rogue.heard.append((self.path, body))
                said = answers[self.path]
                said = said(body) if callable(said) else said
                self.send_response(200)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        scheme = "https" if pair is not None else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self):
        return [path for path, _ in self.heard]
