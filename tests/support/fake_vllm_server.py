"""A real HTTP server on loopback that speaks vLLM's protocol, and misbehaves as told: refuses, stalls, cuts off, lies.

What it "samples" is a function of the seed, so a message is the same from whichever server it comes; or, where `speak`
says so, what a real model samples.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["refuses", "stalls", "truncates", "not_json", "drops", "overloaded", "broken", "empty", "aborts", "key"]


Said = tuple[list[int], list[float], str]
"""Token ids, log-probs, finish reason."""
Speaker = Callable[[dict[str, Any], str | None], Said]


@dataclass
class FakeServer:
    """A server's state and what it was asked. Faults are taken from the front, one per completion request."""

    model: str
    window: int = 64
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    """What it does to every completion request, once the faults are used up."""
    lasts: int | None = None
    """Completion requests that it answers before `then`; None: all."""
    then: Fault | Literal["dies"] = "dies"
    adapters_allowed: bool = True
    rejects_adapters: bool = False
    processed: bool = True
    pause: float = 0.0
    """Seconds a message takes."""
    adapters: dict[str, str] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The body of every completion request, in the order of arrival."""
    calls: Counter[str] = field(default_factory=Counter)
    """Requests by path."""
    speak: Speaker | None = None
    """What answers instead: the request's body and the path of the adapter that it names (None: the base)."""
    busiest: int = 0
    """The most completion requests at work at one time."""
    url: str = ""
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _http: ThreadingHTTPServer | None = None

    def die(self) -> None:
        """Stop listening and cut whoever is connected."""
        assert self._http is not None
        self.always, self.lasts = "drops", None
        self._http.shutdown()
        self._http.server_close()

    def restart(self) -> None:
        """Listen again at the same address; adapters are forgotten, as a restarted vLLM does."""
        self.always = None
        self.adapters.clear()
        self._listen(int(self.url.rpartition(":")[2]))

    def _listen(self, port: int) -> None:
        state = self

        class Handler(_Handler):
            fake = state

        self._http = _Quiet(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@contextmanager
def fake_server(**settings: Any) -> Iterator[FakeServer]:
    """Such a server, until the block ends."""
    fake = FakeServer(**settings)
    fake._listen(0)
    try:
        yield fake
    finally:
        fake.always = "drops"
        if fake._http is not None:
            fake._http.shutdown()
            fake._http.server_close()


def message(seed: int, limit: int, end: int) -> Said:
    """What the fake says for a seed: two tokens and the end, cut at the limit."""
    tokens = [seed % 40, (seed // 40) % 40, end][:limit]
    return tokens, [-0.5 - token / 100 for token in tokens], "stop" if len(tokens) == 3 else "length"


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the play."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        """The list of models."""
        self.fake.calls[self.path] += 1
        if self.fake.always == "drops":
            return self._drop()
        base = [{"id": self.fake.model, "max_model_len": self.fake.window}]
        return self._send(200, {"data": base + [{"id": name, "max_model_len": None} for name in self.fake.adapters]})

    def do_POST(self) -> None:
        """A completion, or an adapter loaded or unloaded."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.calls[self.path] += 1
        if self.path == "/v1/completions":
            with self.fake._lock:
                self.fake.asked.append(body)
                self.fake._busy += 1
                self.fake.busiest = max(self.fake.busiest, self.fake._busy)
            try:
                self._complete(body)
            finally:
                with self.fake._lock:
                    self.fake._busy -= 1
        elif not self.fake.adapters_allowed:
            self._send(404, {"detail": "Not Found"})
        elif self.path == "/v1/load_lora_adapter":
            self._load(body["lora_name"], body["lora_path"])
        else:
            self.fake.adapters.pop(body["lora_name"], None)
            self._send(200, {})

    def _load(self, name: str, path: str) -> None:
        if not name:
            self._error(400, "Both 'lora_name' and 'lora_path' must be provided.")
        elif self.fake.rejects_adapters:
            self._error(500, "Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 16.")
        elif name in self.fake.adapters:
            self._error(400, f"The lora adapter '{name}' has already been loaded.")
        else:
            self.fake.adapters[name] = path
            self._send(200, {})

    def _complete(self, body: dict[str, Any]) -> None:
        fault = self._fault()
        time.sleep(self.fake.pause)
        if fault == "drops":
            return self._drop()
        if fault == "stalls":
            time.sleep(5)
            return self._drop()
        if fault in ("overloaded", "broken", "key"):
            return self._error({"overloaded": 503, "broken": 500, "key": 401}[fault], f"it is {fault}")
        if body["model"] not in (self.fake.model, *self.fake.adapters):
            return self._error(404, f"The model `{body['model']}` does not exist.")
        if len(body["prompt"]) + body["max_tokens"] > self.fake.window or fault == "refuses":
            return self._error(400, f"This model's maximum context length is {self.fake.window} tokens.")
        if self.fake.speak is not None:
            tokens, logprobs, finish = self.fake.speak(body, self.fake.adapters.get(body["model"]))
        else:
            tokens, logprobs, finish = message(body["seed"], body["max_tokens"], (body["stop_token_ids"] or [0])[0])
        if fault == "aborts":
            finish = "abort"
        scale = body["temperature"] if self.fake.processed and body["temperature"] else 1.0
        top = [{"token_id:1": -0.5 / scale, "token_id:2": -1.5 / scale}] if body["logprobs"] else None
        choice = {
            "token_ids": tokens,
            "logprobs": {"token_logprobs": logprobs, "top_logprobs": top},
            "finish_reason": finish,
        }
        text = json.dumps({"choices": [] if fault == "empty" else [choice]}).encode()
        if fault == "not_json":
            text = b"<html>gateway</html>"
        return self._write(200, text, len(text) + (100 if fault == "truncates" else 0))

    def _fault(self) -> Fault | None:
        with self.fake._lock:
            if self.fake.lasts is not None and len(self.fake.asked) > self.fake.lasts:
                self.fake.always, self.fake.lasts = "drops" if self.fake.then == "dies" else self.fake.then, None
                if self.fake.then == "dies":
                    self.fake.die()
        return self.fake.faults.pop(0) if self.fake.faults else self.fake.always

    def _error(self, status: int, text: str) -> None:
        self._send(status, {"error": {"message": text, "code": status}})

    def _send(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self._write(status, text, len(text))

    def _write(self, status: int, text: bytes, promised: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(text)
        if promised != len(text):
            self._drop()

    def _drop(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
