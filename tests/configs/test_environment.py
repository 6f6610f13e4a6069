"""Environment variables: what the user set is left as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from configs import environment


def test_the_store_and_the_cache_lie_where_they_are_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("C3_STORE", "C3_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert environment.store_root() == Path("c3-store")
    assert environment.cache_root() == Path("/home/someone/.cache/c3")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert environment.cache_root() == Path("/cache/c3")
    monkeypatch.setenv("C3_CACHE", "/models")
    monkeypatch.setenv("C3_STORE", "/store")
    assert (environment.cache_root(), environment.store_root()) == (Path("/models"), Path("/store"))


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("PREFECT_API_URL", "http://user")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    environment.prepare_threads()
    environment.prepare_prefect("http://other", Path("results"))
    environment.prepare_vllm(4, 2)
    assert environment.prefect_api_url() == "http://user"
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["VLLM_LOGGING_LEVEL"]) == ("active", "INFO")
    assert os.environ["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] == "results"
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "4"


def test_an_empty_address_or_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, read in (("PREFECT_API_URL", environment.prefect_api_url), ("VLLM_API_KEY", environment.server_key)):
        monkeypatch.setenv(name, "")
        assert read() is None
        monkeypatch.setenv(name, "x")
        assert read() == "x"
