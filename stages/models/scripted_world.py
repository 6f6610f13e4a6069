"""Scripted worlds: logits that are a function of the context, so that values can be enumerated; and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from configs.engines import ScriptedEngineConfig
from configs.errors import StoreError
from store.disk.hashing import digest
from store.disk.ids import seed_from

Vector = npt.NDArray[np.float64]
"""[W]: one number per word of the world, in the order of its configuration."""


TABLE_FILE = "table.safetensors"


_NORMAL = NormalDist()


def context_key(context_ids: Sequence[int]) -> str:
    """Return the name of a context in a table: the hash of its token ids."""
    return digest([int(token) for token in context_ids])


def world_logits(config: ScriptedEngineConfig, key: str) -> Vector:
    """Return the untrained policy's logits [W] in one context: standard normals times `spread`.

    From the hash by the inverse normal CDF, because no library promises its random stream across releases.
    """
    draws = (seed_from("logit", config.world_seed, key, word) >> 11 for word in range(len(config.words)))
    normals = [_NORMAL.inv_cdf((draw + 0.5) / 2**52) for draw in draws]  # 52 bits: never rounded to 0 or 1
    return config.spread * np.array(normals, dtype=np.float64)


def log_softmax(logits: Vector) -> Vector:
    """Return logits - log sum exp(logits), [W]."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def load_table(directory: Path, words: int) -> dict[str, Vector]:
    """Return the deltas of an adapter directory: context key -> [W]. StoreError when the file is missing or not such
    a table."""
    path = directory / TABLE_FILE
    try:
        table = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: not a readable table: {error}; make the update again") from error
    for key, delta in table.items():
        if delta.shape != (words,) or delta.dtype != np.float64:
            raise StoreError(
                f"{path}: {key}: {delta.dtype}{list(delta.shape)}, wanted float64[{words}]; "
                f"the table is of a world with other words"
            )
    return table


def save_table(directory: Path, table: Mapping[str, Vector]) -> None:
    """Write deltas as an adapter directory. Equal tables give equal bytes: names and layout are in canonical
    order."""
    directory.mkdir(parents=True, exist_ok=True)
    ordered = {key: np.ascontiguousarray(table[key], dtype=np.float64) for key in sorted(table)}
    (directory / TABLE_FILE).write_bytes(save(ordered))
