"""One or many vLLM servers by URL: every message is a request of its own, spread over them with bounded concurrency.

Messages of one prompt prefer one server, whose prefix cache then holds it. What is worth asking again is asked again,
after growing pauses, elsewhere if it can be; a server that dies costs only the messages it was writing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from configs.engines import VllmServerEngineConfig
from configs.environment import server_key
from configs.errors import EngineError, EngineUnreachableError
from stages.engines.adapters import adapter_name, adapter_of
from stages.engines.protocol import Completion, Request
from stages.engines.vllm_server.http_client import AdapterNotLoadedError, CompletionsServer, TransientServerError
from stages.models.chat_codec import ChatCodec
from stages.models.protocol import Codec
from store.artifacts.policy_version import Adapter, PolicyVersion
from store.disk.ids import seed_from

_LONGEST_PAUSE_SECONDS = 60.0


class VllmServerEngine:
    """Samples messages from servers. Implements Engine; may be used from several threads."""

    codec: Codec

    def __init__(self, config: VllmServerEngineConfig, model_dir: Path) -> None:
        codec = ChatCodec(model_dir)
        self.codec, self._end = codec, sorted(codec.end_token_ids)
        self._config = config
        self._base = served_name(config, model_dir)
        key = server_key()
        servers = [CompletionsServer(url, config.timeout_seconds, config.concurrency, key) for url in config.urls]
        self._fleet = _Fleet([_Served(server, self._base) for server in servers], config)
        self._threads = ThreadPoolExecutor(config.concurrency * len(servers), thread_name_prefix="message")
        self._policy: PolicyVersion | None = None

    def use(self, policy: PolicyVersion) -> None:
        """Sample from these weights: adapters that are not of this version leave every server.

        Raises EngineError when no server can be reached, or one serves another model or refuses an adapter.
        """
        if policy == self._policy:
            return
        trained = [adapter for adapter in policy.adapters.values() if adapter.directory is not None]
        self._fleet.show(trained)
        self._policy = policy

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        """Return one list per request, one completion per seed.

        Raises EngineError for an empty prompt, one past the window, a server that refuses for good, or when
        `attempts` are used up.
        """
        if self._policy is None:
            raise EngineError("vllm_server engine: no policy version in use; call use() first")
        asked: list[list[Future[Completion]]] = []
        for request in requests:
            adapter = adapter_of(request.policy, self._policy.adapters)
            self._check(request)
            asked.append([self._threads.submit(self._message, request, seed, adapter) for seed in request.seeds])
        futures = [future for row in asked for future in row]
        for future in futures:
            future.add_done_callback(lambda done: None if done.cancelled() or done.exception() else on_message(1))
        _finish(futures)
        return [[future.result() for future in row] for row in asked]

    def check_adapters_allowed(self) -> None:
        """Raise EngineError naming the first server that does not let adapters be loaded."""
        self._fleet.check_adapters_allowed()

    def release_memory(self) -> None:
        """Do nothing: no weights are in this process."""

    def close(self) -> None:
        """Close every connection; adapters stay where they are."""
        self._policy = None
        self._threads.shutdown(cancel_futures=True)
        self._fleet.close()

    def _check(self, request: Request) -> None:
        prompt, new, window = len(request.prompt_ids), request.sampling.max_new_tokens, self._fleet.window
        if not prompt or new < 1:
            raise EngineError(f"vllm_server engine: {prompt} prompt and {new} new tokens; 1 of each is the least")
        if window is not None and prompt + new > window:
            raise EngineError(
                f"vllm_server engine: a prompt of {prompt} tokens and {new} new ones are {prompt + new}, past the "
                f"servers' window of {window}; shorten the prompts, lower max_new_tokens or raise --max-model-len"
            )

    def _message(self, request: Request, seed: int, adapter: Adapter) -> Completion:
        """Return one message, asked for until it is there or the attempts are used up."""
        config, last = self._config, None
        home = seed_from("home", *request.prompt_ids)
        plain = request.sampling.temperature in (0, 1) and request.sampling.top_p >= 1 and not request.sampling.top_k
        patience = Retrying(
            retry=retry_if_exception_type(TransientServerError),
            stop=stop_after_attempt(config.max_attempts),
            wait=wait_exponential_jitter(
                max=_LONGEST_PAUSE_SECONDS,
                multiplier=config.initial_backoff_seconds,
                jitter=config.initial_backoff_seconds / 4,  # so that not everybody comes back at the same moment
            ),
            reraise=True,
        )
        try:
            for attempt in patience:
                with attempt, self._fleet.one(home, avoid=last) as served:
                    last = served
                    return served.message(request, seed, adapter, self._end, plain)
        except TransientServerError as error:
            raise EngineUnreachableError(
                f"{error}; {config.max_attempts} attempts on {len(config.urls)} servers failed. What is finished is kept: "
                f"run the same command again when a server answers"
            ) from error
        raise AssertionError("a message is returned or raised")


class _Served:
    """One server, and what is known of it: whether it was checked since its last trouble, and which adapters it holds."""

    def __init__(self, server: CompletionsServer, base: str) -> None:
        self.server, self._base = server, base
        self.window: int | None = None
        self.in_flight = 0
        self.resting_until = 0.0
        self.failures = 0
        self._turn = threading.RLock()  # an adapter is loaded once, however many messages wait for it
        self._checked = self._processed = False
        self._adapters: dict[str, str] = {}

    def prepare(self, adapters: Sequence[Adapter]) -> None:
        """Check what it serves, once, and load what it lacks."""
        with self._turn:
            if not self._checked:
                offered = self.server.models()
                if self._base not in offered:
                    known = ", ".join(sorted(offered)) or "nothing"
                    raise EngineError(
                        f"server {self.server.url}: serves {known}, not '{self._base}'; name it in engine.served_model, or "
                        f"take the server out of engine.urls"
                    )
                self.window = offered[self._base]
                self._checked = True
            for adapter in adapters:
                if adapter.directory is not None and adapter.digest not in self._adapters:
                    self.server.load_adapter(adapter_name(adapter), adapter.directory.resolve())
                    self._adapters[adapter.digest] = adapter_name(adapter)

    def keep_only(self, adapters: Sequence[Adapter]) -> None:
        """Unload what this process loaded and no longer needs."""
        with self._turn:
            for digest in self._adapters.keys() - {adapter.digest for adapter in adapters}:
                self.server.unload_adapter(self._adapters.pop(digest))

    def message(self, request: Request, seed: int, adapter: Adapter, end: Sequence[int], plain: bool) -> Completion:
        """Return one message. `plain`: raw and processed log-probs are the same for it."""
        self.prepare([adapter])
        if not plain:
            self._insist_on_processed(request.prompt_ids)
        model = self._base if adapter.directory is None else adapter_name(adapter)
        try:
            return self.server.complete(model, request, seed, end)
        except AdapterNotLoadedError:
            self.forget(adapter)
            raise

    def forget(self, adapter: Adapter | None = None) -> None:
        """Forget what is known of a server in trouble: look again what it serves."""
        with self._turn:
            self._checked = self._processed = False
            if adapter is not None:
                self._adapters.pop(adapter.digest, None)

    def _insist_on_processed(self, prompt_ids: Sequence[int]) -> None:
        with self._turn:
            if not self._processed and not self.server.reports_processed_logprobs(self._base, prompt_ids):
                raise EngineError(
                    f"server {self.server.url}: reports log-probs of the raw logits, not of what was sampled from; "
                    f"start it with --logprobs-mode processed_logprobs (or sample at temperature 1, untruncated)"
                )
            self._processed = True


class _Fleet:
    """Which server writes the next message."""

    def __init__(self, served: Sequence[_Served], config: VllmServerEngineConfig) -> None:
        self._all, self._config = list(served), config
        self._changed = threading.Condition()

    @property
    def window(self) -> int | None:
        """The smallest window of the servers looked at so far."""
        return min((served.window for served in self._all if served.window is not None), default=None)

    def show(self, adapters: Sequence[Adapter]) -> None:
        """Load adapters everywhere. A server in trouble rests; EngineError when all are."""
        troubles = []
        for served in self._all:
            try:
                served.prepare(adapters)
                served.keep_only(adapters)
            except TransientServerError as error:
                self._rest(served)
                troubles.append(str(error))
        if len(troubles) == len(self._all):
            raise EngineUnreachableError(
                f"{troubles[0]}; none of {len(troubles)} servers in engine.urls can be used: start one"
            )

    def check_adapters_allowed(self) -> None:
        """Ask every server."""
        for served in self._all:
            served.server.check_adapters_allowed()

    @contextmanager
    def one(self, home: int, avoid: _Served | None) -> Iterator[_Served]:
        """Yield a server with room: the prompt's own, unless it is full, resting, or has just failed."""
        with self._changed:
            while (served := self._choose(home, avoid)) is None:
                self._changed.wait()
            served.in_flight += 1
        try:
            yield served
        except TransientServerError:
            served.forget()
            self._rest(served)
            raise
        else:
            served.failures = 0
        finally:
            with self._changed:
                served.in_flight -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Close every connection."""
        for served in self._all:
            served.server.close()

    def _choose(self, home: int, avoid: _Served | None) -> _Served | None:
        now = time.monotonic()
        awake = [served for served in self._all if served.resting_until <= now and served is not avoid]
        usable = awake or [served for served in self._all if served is not avoid] or self._all
        free = [served for served in usable if served.in_flight < self._config.concurrency]
        own = self._all[home % len(self._all)]
        if own in free:
            return own
        return min(free, key=lambda served: served.in_flight, default=None)

    def _rest(self, served: _Served) -> None:
        pause = min(self._config.initial_backoff_seconds * 2**served.failures, _LONGEST_PAUSE_SECONDS)
        served.failures = min(served.failures + 1, 16)
        served.resting_until = time.monotonic() + pause


def served_name(config: VllmServerEngineConfig, model_dir: Path) -> str:
    """Return what the servers call the model: as configured, else its hub name, else the directory it was started from."""
    if config.served_model is not None:
        return config.served_model
    return str(model_dir) if config.model == "embedded" or Path(config.model).expanduser().exists() else config.model


def _finish(futures: Sequence[Future[Completion]]) -> None:
    """Wait for all, or for the first that failed: then those not yet begun are not, and its error is raised."""
    done, pending = wait(futures, return_when=FIRST_EXCEPTION)
    for future in pending:
        future.cancel()
    wait(pending)
    for future in done:
        future.result()
