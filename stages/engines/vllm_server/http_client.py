"""One vLLM server over HTTP: its models, its adapters, and messages by token ids. Knows nothing of other servers.

Three outcomes besides an answer:
    TransientServerError     may pass: refused, timed out, cut off, overloaded, restarted; ask again, here or elsewhere
    AdapterNotLoadedError  the server no longer knows an adapter (it was restarted): load it again
    EngineError       asking again would not help; the line says what to change
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from configs.errors import EngineError
from stages.engines.protocol import Completion, FinishReason, Request, SamplingParameters

_CONNECT_SECONDS = 10.0
_ADMINISTRATION_SECONDS = 120.0
"""Listing models is quick; loading an adapter may wait for messages under way."""
_PASSING = frozenset({408, 425, 429})
_SEED_BITS = 63
_HOW_TO_ALLOW = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"


class TransientServerError(EngineError):
    """The server could not answer now. Worth asking again."""


class AdapterNotLoadedError(TransientServerError):
    """The server does not know the adapter (any more)."""


class CompletionsServer:
    """A vLLM server at one URL. Safe to use from several threads."""

    def __init__(self, url: str, timeout_seconds: float, connections: int, key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
        )

    def models(self) -> dict[str, int | None]:
        """Name -> window in tokens, of every model and adapter on offer."""
        answer = self._ask("GET", "/v1/models", timeout=_ADMINISTRATION_SECONDS)
        self._check(answer)
        with self._reading(answer) as body:
            return {str(entry["id"]): entry.get("max_model_len") for entry in body["data"]}

    def load_adapter(self, name: str, directory: Path) -> None:
        """Make an adapter known under this name. One that is there already stays: names are digests of contents."""
        body = {"lora_name": name, "lora_path": str(directory)}
        answer = self._ask("POST", "/v1/load_lora_adapter", body, _ADMINISTRATION_SECONDS)
        said = _message(answer)
        if answer.is_success or "already been loaded" in said:
            return
        self._check_route(answer)
        if answer.status_code in _PASSING or (answer.status_code >= 500 and "add_lora" not in said):
            self._check(answer)
        raise EngineError(
            f"server {self.url}: refuses adapter {directory}: {said}; it needs the store under the same path, and "
            f"--max-lora-rank as high as the policies' lora_rank"
        )

    def check_adapters_allowed(self) -> None:
        """Raise EngineError when it does not let adapters be loaded. Asks for one without a name, which none loads."""
        answer = self._ask("POST", "/v1/load_lora_adapter", {"lora_name": "", "lora_path": ""}, _ADMINISTRATION_SECONDS)
        self._check_route(answer)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; one that is not there is no error."""
        self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _ADMINISTRATION_SECONDS)

    def complete(self, model: str, request: Request, seed: int, end_token_ids: Sequence[int]) -> Completion:
        """Return one message for one of the request's seeds, under the model or adapter of that name."""
        sampling = request.sampling
        answer = self._ask("POST", "/v1/completions", _body(model, request.prompt_ids, sampling, seed, end_token_ids))
        if answer.status_code == 404:
            raise AdapterNotLoadedError(f"server {self.url}: does not serve '{model}': {_message(answer)}")
        if answer.status_code == 400:
            raise EngineError(
                f"server {self.url}: refuses a prompt of {len(request.prompt_ids)} tokens and "
                f"{sampling.max_new_tokens} new ones: {_message(answer)}"
            )
        self._check(answer)
        with self._reading(answer) as body:
            return _completion(body["choices"][0])

    def reports_processed_logprobs(self, model: str, prompt_ids: Sequence[int]) -> bool:
        """Return whether its log-probs are those sampled from (temperature applied), and not those of the raw logits.

        Half the temperature doubles the distance between the two likeliest tokens; raw log-probs do not move.
        """
        whole, half = (self._two_likeliest(model, prompt_ids, temperature) for temperature in (1.0, 0.5))
        return abs(half - 2 * whole) <= abs(half - whole)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _two_likeliest(self, model: str, prompt_ids: Sequence[int], temperature: float) -> float:
        body = _body(model, prompt_ids, SamplingParameters(temperature, 1.0, 0, 1), 0, ())
        answer = self._ask("POST", "/v1/completions", {**body, "logprobs": 2, "return_tokens_as_token_ids": True})
        self._check(answer)
        with self._reading(answer) as found:
            top = sorted(found["choices"][0]["logprobs"]["top_logprobs"][0].values())
            return float(top[-1] - top[-2])

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> httpx.Response:
        try:
            return self._client.request(
                method, path, json=body, timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout
            )
        except httpx.TimeoutException as error:
            raise TransientServerError(f"server {self.url}: no answer in time ({type(error).__name__})") from error
        except httpx.TransportError as error:
            raise TransientServerError(f"server {self.url}: {type(error).__name__}: {error or 'cut off'}") from error

    def _check_route(self, answer: httpx.Response) -> None:
        if answer.status_code in (404, 405) and _message(answer) in ("Not Found", "Method Not Allowed"):
            raise EngineError(f"server {self.url}: does not let adapters be loaded; {_HOW_TO_ALLOW}")

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        said = f"server {self.url}: {answer.status_code}: {_message(answer)}"
        if answer.status_code in _PASSING or answer.status_code >= 500:
            raise TransientServerError(said)
        if answer.status_code in (401, 403):
            raise EngineError(f"{said}; put the server's key into VLLM_API_KEY")
        raise EngineError(f"{said}; is this the address of a vLLM server?")

    def _reading(self, answer: httpx.Response) -> _Reading:
        return _Reading(self.url, answer)


class _Reading:
    """Reads a body; what is not what was promised is trouble, because a proxy or a dying server sends such things."""

    def __init__(self, url: str, answer: httpx.Response) -> None:
        self._url, self._answer = url, answer

    def __enter__(self) -> Any:
        try:
            return self._answer.json()
        except ValueError as error:
            raise TransientServerError(f"server {self._url}: an answer that is no JSON ({error})") from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, IndexError, TypeError, ValueError)):
            raise TransientServerError(
                f"server {self._url}: an answer without what was asked for ({type(error).__name__}: {error})"
            ) from error


def _body(
    model: str, prompt_ids: Sequence[int], sampling: SamplingParameters, seed: int, end_token_ids: Sequence[int]
) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(prompt_ids),
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,  # these too are said: a server takes what is not from the model's generation config
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": seed % 2**_SEED_BITS,
        "stop_token_ids": list(end_token_ids),
        "logprobs": 0,  # of the sampled token alone
        "return_token_ids": True,
        "add_special_tokens": False,
        "skip_special_tokens": False,
    }


def _completion(choice: Mapping[str, Any]) -> Completion:
    finish: FinishReason = choice["finish_reason"]
    token_ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if finish not in ("stop", "length"):
        raise ValueError(f"finish_reason '{finish}'")
    if not token_ids or len(token_ids) != len(logprobs):
        raise ValueError(f"{len(token_ids)} tokens with {len(logprobs)} log-probs")
    return Completion(tuple(map(int, token_ids)), tuple(map(float, logprobs)), finish)


def _message(answer: httpx.Response) -> str:
    """Return what the server says is wrong, in one line."""
    try:
        body = answer.json()
    except ValueError:
        return " ".join(answer.text.split())[:200] or answer.reason_phrase
    if isinstance(body, dict):
        error = body.get("error", body)
        found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if found:
            return " ".join(str(found).split())[:300]
    return json.dumps(body)[:200]
