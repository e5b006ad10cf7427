"""A way to an S3-compatible store that is busy, breaks and loses replies, as a plan says; seeded.

It also lets one conditional put through at a time: moto looks for the object and makes it in two steps.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Plan = Callable[[str, str, bool], str]
"""Of method, path and whether it is a conditional put: the fault, or nothing."""
STATUS = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict"}
SILENCE_S = 3.0
"""Longer than the test's clients wait."""


class Faulty:
    """What befalls the requests, and how many there were."""

    def __init__(self, store: int, plan: Plan, *, unconditional: bool = False) -> None:
        self.store, self.plan, self.unconditional = store, plan, unconditional
        self.done: Counter[str] = Counter()
        self.lock, self.one = threading.Lock(), threading.Lock()

    def fault(self, method: str, path: str, conditional: bool) -> str:
        """Of the next request."""
        with self.lock:
            fault = self.plan(method, path, conditional)
            self.done[fault or "passed"] += 1
        return fault


def shares(rate: float, *, seed: int = 0) -> Plan:
    """So many of all requests fail: busy, broken before or after the store has done it, and some in silence."""
    luck = random.Random(seed)
    kinds = ("500", "503", "503", "reset", "lost reply", "silence")

    def plan(method: str, path: str, conditional: bool) -> str:
        if luck.random() >= rate:
            return ""
        kind = luck.choice(kinds)
        return "503" if kind == "silence" and method == "GET" and luck.random() < 0.8 else kind

    return plan


def on_commit(*faults: str) -> Plan:
    """These befall the first puts of a manifest, one each."""
    left = [*faults]

    def plan(method: str, path: str, conditional: bool) -> str:
        return left.pop(0) if left and conditional and path.endswith("/_manifest.json") else ""

    return plan


class Handler(BaseHTTPRequestHandler):
    """One request: passed on whole, or not."""

    protocol_version = "HTTP/1.1"
    faulty: Faulty

    def handle_any(self) -> None:
        """Any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        conditional = self.command == "PUT" and self.headers.get("If-None-Match") == "*"
        fault = self.faulty.fault(self.command, self.path.partition("?")[0], conditional)
        if fault in STATUS:
            return self.refuse(int(fault), STATUS[fault])
        if fault == "silence":
            time.sleep(SILENCE_S)
            return self.reset()
        if fault == "reset":
            return self.reset()
        if self.faulty.unconditional:
            del self.headers["If-None-Match"]
        status, headers, content = self.passed(body, conditional)
        if fault == "lost reply":
            return self.reset()
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        return self.answer(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def passed(self, body: bytes, conditional: bool) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the store says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.faulty.store)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        with self.faulty.one if conditional else threading.Lock():
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def refuse(self, status: int, code: str) -> None:
        """As S3 says it."""
        content = f"<Error><Code>{code}</Code><Message>in a test</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content) if self.command != "HEAD" else 0))
        self.end_headers()
        self.answer(content)

    def answer(self, content: bytes) -> None:
        """The body, where there is one."""
        if self.command != "HEAD":
            self.wfile.write(content)

    def reset(self) -> None:
        """The line breaks: RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Not a word."""


class Server(ThreadingHTTPServer):
    """Whose clients may leave."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """They did."""

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Closing is enough; a shutdown would end politely what is to be reset."""
        self.close_request(request)


@contextmanager
def between(faulty: Faulty) -> Iterator[int]:
    """The proxy, at work; its port."""
    handler = type("Bound", (Handler,), {"faulty": faulty})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
