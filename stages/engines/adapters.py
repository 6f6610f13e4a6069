"""Which adapter answers, and what it is called. Loads neither weights nor torch."""

from __future__ import annotations

from collections.abc import Mapping

from configs.errors import EngineError
from store.artifacts.policy_version import Adapter


def adapter_of(name: str, adapters: Mapping[str, Adapter]) -> Adapter:
    """Return the adapter of a policy. EngineError when the policy version has no such policy."""
    if name not in adapters:
        raise EngineError(f"policy '{name}': the policy version in use holds {', '.join(sorted(adapters)) or 'none'}")
    return adapters[name]


def adapter_name(adapter: Adapter) -> str:
    """Return what an adapter is called in vLLM: after its content, so that equal weights are loaded once."""
    return f"c3-{adapter.digest[:24]}"
