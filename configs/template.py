"""`c3 init`: a configuration file to start from, every key with its meaning."""

from __future__ import annotations

import ast
import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from configs.errors import ConfigError
from configs.load import PRESETS, presets
from configs.schema import Config
from configs.section import Section

_WIDTH = 100


def write_starter(path: Path, preset: str) -> None:
    """Write the preset with, below it, every key it leaves at its default. ConfigError when the file is there."""
    if preset not in presets():
        raise ConfigError(f"--preset {preset}: no such preset; there is {', '.join(presets())}")
    text = (PRESETS / f"{preset}.toml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text + _every_key())
    except FileExistsError:
        raise ConfigError(f"{path}: is there already; choose another name, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; choose a folder you can write to") from None


def _every_key() -> str:
    """Return all keys with defaults, as comments."""
    lines = ["", "# ---- every key with its default and meaning; uncomment what you change ----"]
    for name, field in Config.model_fields.items():
        for kind in _sections(field):
            lines += ["", f"# [{name}]" + (f"   ({kind.__name__})" if len(_sections(field)) > 1 else "")]
            meanings = _meanings(kind)
            lines += [_key(key, entry, meanings.get(key, "")) for key, entry in kind.model_fields.items()]
    return "\n".join(lines) + "\n"


def _sections(field: FieldInfo) -> list[type[Section]]:
    """Return the section types a field can hold: itself, or each member of a union."""
    found: list[type[Section]] = []
    waiting: list[Any] = [field.annotation]
    while waiting:
        kind = waiting.pop(0)
        if isinstance(kind, type) and issubclass(kind, Section):
            found.append(kind)
        else:
            waiting += [part for part in getattr(kind, "__args__", ()) if part is not Ellipsis]
    return found


def _meanings(kind: type[Section]) -> dict[str, str]:
    """Return the text below each key in a section's source.

    Read here, because every command would wait for pydantic to read it.
    """
    meanings: dict[str, str] = {}
    for section in reversed(kind.__mro__[: kind.__mro__.index(Section)]):
        body = ast.parse(inspect.getsource(section)).body[0]
        assert isinstance(body, ast.ClassDef)
        for key, text in pairwise(body.body):
            match key, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    meanings[name] = " ".join(meaning.split())
    return meanings


def _key(name: str, field: FieldInfo, meaning: str) -> str:
    if field.is_required():
        shown = "(required)"
    else:
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Section):
            return f"# [...{name}]"
        shown = f"= {json.dumps(default, default=str)}" if default is not None else "(not set)"
    return f"# {name} {shown}" + (f"    # {meaning}" if meaning else "")
