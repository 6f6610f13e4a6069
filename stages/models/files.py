"""A model's files: where they are and what their digest is, without loading them."""

from __future__ import annotations

import json
from pathlib import Path

from configs.errors import EngineError
from store.disk.hashing import digest, file_digest

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
)


def model_directory(model: str, revision: str | None, cache: Path) -> Path:
    """Return the directory of "embedded", of a local path, or of a hub name (downloaded by huggingface_hub where it can be).

    EngineError saying what is missing when it is not a model.
    """
    if model == "embedded":
        from stages.models.embedded import embedded_model

        return embedded_model(cache)
    path = Path(model).expanduser()
    if path.exists() or model.startswith((".", "/", "~")):
        return _checked(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return _checked(Path(snapshot_download(model, revision=revision)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EngineError(
            f"engine.model: '{model}' is neither a local directory nor a hub model that can be reached "
            f"({type(error).__name__}); give a directory with config.json, a tokenizer and safetensors weights"
        ) from error


def _checked(path: Path) -> Path:
    if not path.is_dir():
        raise EngineError(f"engine.model: {path} is not a directory; give one with config.json and safetensors weights")
    for wanted in ("config.json", "tokenizer_config.json"):
        if not (path / wanted).exists():
            raise EngineError(f"engine.model: {path} holds no {wanted}, so it is no model directory with a tokenizer")
    if not any(file.suffix in _WEIGHTS for file in path.iterdir()):
        raise EngineError(f"engine.model: {path} holds no weights (*.safetensors)")
    return path


def model_digest(directory: Path, cache: Path, weights: bool = True) -> str:
    """Digest over the contents of a model's files; `weights` False: of the tokenizer alone.

    Large files are hashed once: the result is remembered beside the cache by path, size and modification time.
    """
    if not weights:
        return digest({name: file_digest(directory / name) for name in _TOKENIZER if (directory / name).exists()})
    files = sorted(
        p
        for p in directory.iterdir()
        if p.is_file() and (p.suffix in _WEIGHTS or p.suffix == ".json" or p.suffix == ".jinja" or p.suffix == ".txt")
    )
    record = cache / "model-digests.json"
    try:
        remembered = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        remembered = {}
    digests, fresh = {}, False
    for file in files:
        status = file.stat()
        mark = f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        if mark not in remembered:
            remembered[mark] = file_digest(file)
            fresh = True
        digests[file.name] = remembered[mark]
    if fresh:
        _remember(record, remembered)
    return digest(digests)


def _remember(record: Path, remembered: dict[str, str]) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_suffix(".tmp")
        temporary.write_text(json.dumps(remembered, indent=1, sort_keys=True), encoding="utf-8")
        temporary.rename(record)
    except OSError:
        return  # a cache that cannot be written only costs the hashing again
