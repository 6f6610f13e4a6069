"""Reading configuration: a TOML file or a preset's name, with `--set` overrides on top."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError
from configs.schema import Config

PRESETS = Path(__file__).parent / "presets"
DEFAULT_FILE = "c3.toml"


def presets() -> list[str]:
    """Return names of the presets that ship with C3."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(source: str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration in a file, or in the preset of that name, with overrides `a.b=value` applied.

    Raises ConfigError naming the file, the key and the cure.
    """
    path = Path(source)
    if not path.suffix and source in presets():
        path = PRESETS / f"{source}.toml"
    raw = _read_toml(path)
    return build_config(_with_prompt_files(raw, path), overrides, where=source)


def build_config(raw: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "config") -> Config:
    """Return a Config from plain data (a parsed file or a run's record), with overrides applied."""
    merged = json.loads(json.dumps(raw, default=str))
    for override in overrides:
        apply_override(merged, override)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from None


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Put one `a.b=value` into plain config data, in place. The value is read as TOML; a bare word is a string.

    A list of named tables (roles) is entered by name: `roles.actor.max_new_tokens=12`.
    """
    key, equals, text = override.partition("=")
    path = [part for part in key.strip().split(".") if part]
    if not equals or not path:
        raise ConfigError(f"--set {override}: wants section.key=value, as in --set update.learning_rate=1e-4")
    target: Any = raw
    for part in path[:-1]:
        target = _enter(target, part, override)
    if not isinstance(target, dict):
        raise ConfigError(f"--set {override}: '{path[-2]}' is not a section")
    target[path[-1]] = _value(text.strip())


def _enter(target: Any, part: str, override: str) -> Any:
    if isinstance(target, list):
        for item in target:
            if isinstance(item, dict) and item.get("name") == part:
                return item
        raise ConfigError(f"--set {override}: nothing named '{part}' in that list")
    if not isinstance(target, dict):
        raise ConfigError(f"--set {override}: nothing below '{part}' can be set")
    if not isinstance(target.get(part), (dict, list)):
        target[part] = {}
    return target[part]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if text.startswith(("[", "{", '"', "'")):
            raise ConfigError(f"--set: '{text}' is not a TOML value; quote the whole argument for the shell") from None
        return text


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(presets())
        raise ConfigError(f"{path}: no such file or preset; presets are {known}; `c3 init` writes a file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _with_prompt_files(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace prompts of the form "@file.txt" by that file's text; the path is relative to the config file."""
    for role in raw.get("roles", []):
        if not isinstance(role, dict):
            continue
        for key in ("system", "user"):
            value = role.get(key)
            if isinstance(value, str) and value.startswith("@"):
                prompt = path.parent / value[1:]
                try:
                    role[key] = prompt.read_text(encoding="utf-8").rstrip("\n")
                except (OSError, UnicodeDecodeError) as error:
                    name = role.get("name", "?")
                    raise ConfigError(f"{path}: roles.{name}.{key}: prompt file {prompt}: {error}") from None
    return raw


def _union_tags(section: type[BaseModel]) -> set[str]:
    """Return the values of every discriminator below a section: pydantic names them in a location, users do not write them."""
    found: set[str] = set()
    for field in section.model_fields.values():
        members = list(_sections_in(field.annotation))
        for member in members:
            found |= _union_tags(member)
            for name in ("kind", "source") if len(members) > 1 else ():
                tag = member.model_fields.get(name)
                if tag is not None and get_origin(tag.annotation) is Literal:
                    found |= set(get_args(tag.annotation))
    return found


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the section types in a field's annotation: itself, or those inside a union, tuple or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _sections_in(inner)


def _first_problem(error: ValidationError) -> str:
    """Return pydantic's first finding as one line: dotted key, what is wrong, how to cure it."""
    first = error.errors()[0]
    tags = _union_tags(Config)
    location = [str(part) for part in first["loc"]]
    key = ".".join(
        part for index, part in enumerate(location) if index == 0 or part not in tags or index == len(location) - 1
    )
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; check the spelling (`c3 init` writes every key with its meaning)"
    if first["type"] == "missing":
        return f"{key}: missing; it has no default"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return message if not key else f"{message}"
    got = first.get("input")
    shown = f" (got {got!r})" if isinstance(got, (str, int, float, bool)) else ""
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}{shown}"
