"""A local web page on which a person judges synthetic queries."""

from __future__ import annotations

import secrets
import threading
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, cast
from urllib.parse import parse_qs, urlsplit

from llama_index_ace_finetune.pipeline.label import Labelling
from llama_index_ace_finetune.synthesis.judged_queries import Judgement

_LARGEST_FORM: Final = 64 * 1024
_JUDGEMENTS: Final = ("keep", "wrong", "edit", "skip")
_STYLE: Final = """
:root{color-scheme:light dark}body{font:1.05rem/1.5 system-ui,sans-serif;margin:0 auto;max-width:44rem;padding:1rem}
h1{font-size:1.4rem;overflow-wrap:anywhere}pre{white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid;
padding-left:.8rem;font:inherit}button{font:inherit;padding:.4rem .9rem;margin:.2rem .4rem .2rem 0}
input[type=text]{font:inherit;width:100%;box-sizing:border-box;padding:.3rem}
"""
_SCRIPT: Final = """
document.addEventListener("keydown", event => {
  if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = {k: "keep", w: "wrong", s: "skip"}[event.key];
  if (button) document.querySelector(`button[value=${button}]`).click();
  if (event.key === "e") { event.preventDefault(); document.querySelector("#edited").focus(); }
});
"""


class LabelServer(ThreadingHTTPServer):
    """Serves the page on 127.0.0.1, at `url` only: the address holds a secret token.

    `serve_forever` returns when nothing is left to judge.

    Args:
        labelling: the session; judgements are stored as they arrive.
        port: to listen on; 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, labelling: Labelling, *, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.labelling = labelling
        self.token = secrets.token_urlsafe(24)
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.server_port}/?token={self.token}"

    def close_when_done(self) -> None:
        """Let `serve_forever` return if nothing is left to judge."""
        if self.labelling.next() is None:
            threading.Thread(target=self.shutdown, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    timeout = 30

    @property
    def _server(self) -> LabelServer:
        return cast(LabelServer, self.server)

    def do_GET(self) -> None:
        if self._is_allowed():
            with self._server.lock:
                page, nonce = _page(self._server.labelling, self._server.token)
            self._answer(200, page, nonce)
            self._server.close_when_done()

    def do_POST(self) -> None:
        if not self._is_allowed():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_FORM:
            self._answer(413, "This form is too large.")
            return
        form = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"))
        judgement, query_id, text = (form.get(name, [""])[0] for name in ("judgement", "id", "text"))
        if judgement not in _JUDGEMENTS:
            self._answer(400, "This judgement is not known.")
            return
        with self._server.lock:
            if judgement == "skip":
                self._server.labelling.skipped.add(query_id)
            else:
                self._server.labelling.judge(query_id, cast(Judgement, judgement), text=text)
        self.send_response(303)
        self.send_header("Location", f"/?token={self._server.token}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _is_allowed(self) -> bool:
        """Whether the request has the token; and names this machine, which a page of another site cannot fake."""
        address = urlsplit(self.path)
        token = parse_qs(address.query).get("token", [""])[0]
        port = self._server.server_port
        known = self.headers.get("Host") in (f"127.0.0.1:{port}", f"localhost:{port}")
        if known and address.path == "/" and secrets.compare_digest(token.encode(), self._server.token.encode()):
            return True
        self._answer(403, "Open the address that the command printed.")
        return False

    def _answer(self, status: int, page: str, nonce: str = "") -> None:
        body = page.encode("utf-8", "replace")
        allowed = f"'nonce-{nonce}'" if nonce else "'none'"
        self.send_response(status)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            (
                "Content-Security-Policy",
                f"default-src 'none'; style-src {allowed}; script-src {allowed}; form-action 'self'; "
                "base-uri 'none'; frame-ancestors 'none'",
            ),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing: the address holds the token."""


def _page(labelling: Labelling, token: str) -> tuple[str, str]:
    """Return the page of the next query, and the nonce of its style and script."""
    nonce, query = secrets.token_urlsafe(16), labelling.next()
    if query is None:
        body = f"<h1>{labelling.done} queries are judged</h1><p>You can close this page.</p>"
    else:
        start = (
            f'<form method="post" action="/?token={escape(token)}">'
            f'<input type="hidden" name="id" value="{escape(query.id)}">'
        )
        buttons = "".join(
            f'<button name="judgement" value="{name}">{title}</button>'
            for name, title in (("keep", "Keep (k)"), ("wrong", "Wrong (w)"), ("skip", "Skip (s)"))
        )
        body = (
            f"<p>{labelling.done} of {labelling.count} judged. Would a user ask this, and does the memory answer it?"
            f"</p><h1>{escape(query.text)}</h1>{start}{buttons}</form>{start}"
            f'<label for="edited">Or edit it (e):</label> <input type="text" id="edited" name="text" '
            f'value="{escape(query.text)}"> <button name="judgement" value="edit">Save the edited query</button></form>'
            f"<h2>Memory {escape(query.memory_id)}</h2><pre>{escape(query.memory)}</pre>"
            f'<script nonce="{nonce}">{_SCRIPT}</script>'
        )
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Judge queries</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style nonce="{nonce}">{_STYLE}</style></head><body><main>'
    )
    return f"{head}{body}</main></body></html>", nonce
