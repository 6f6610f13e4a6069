"""What stages work with: engine, codec, learner and evaluator, each made when first needed and kept for the process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from configs.engines import EngineConfig
from configs.evaluators import EvaluatorConfig
from configs.schema import Config
from stages.engines.protocol import Engine
from stages.engines.registry import make_engine
from stages.evaluators.protocol import Evaluator
from stages.evaluators.registry import make_evaluator
from stages.models.identity import make_codec
from stages.models.protocol import Codec
from store.artifacts.policy_version import PolicyVersion

if TYPE_CHECKING:
    from stages.learners.protocol import Learner


class Resources:
    """One per process. `on_message` is told of finished messages, `on_step` of optimiser steps."""

    def __init__(self, on_message: Callable[[int], None] = lambda count: None) -> None:
        self.on_message = on_message
        self._making = threading.RLock()  # parts may be made side by side, tools are made once
        self._codec: tuple[EngineConfig, Codec] | None = None
        self._engine: tuple[EngineConfig, Engine] | None = None
        self._evaluator: tuple[EvaluatorConfig, Evaluator] | None = None
        self._learner: tuple[Any, Learner] | None = None
        self._done: set[Hashable] = set()

    def codec(self, config: Config) -> Codec:
        """Return what turns chats into token ids; it loads no weights."""
        with self._making:
            if self._codec is None or self._codec[0] != config.engine:
                self._codec = (config.engine, make_codec(config.engine))
            return self._codec[1]

    def load_engine(self, config: Config) -> Engine:
        """Return the engine, its model loaded, whichever policy it last sampled from."""
        with self._making:
            if self._engine is None or self._engine[0] != config.engine:
                if self._engine is not None:
                    self._engine[1].close()
                self._engine = (config.engine, make_engine(config.engine))
            return self._engine[1]

    def engine(self, config: Config, policy: PolicyVersion) -> Engine:
        """Return the engine, sampling from that policy version."""
        with self._making:
            engine = self.load_engine(config)
            engine.use(policy)
            return engine

    def evaluator(self, config: EvaluatorConfig) -> Evaluator:
        """Return the grader."""
        with self._making:
            if self._evaluator is None or self._evaluator[0] != config:
                self._evaluator = (config, make_evaluator(config))
            return self._evaluator[1]

    def once(self, what: Hashable, do: Callable[[], None]) -> None:
        """Do it, unless that was done before; whoever asks meanwhile waits. What raises is not done."""
        with self._making:
            if what not in self._done:
                do()
                self._done.add(what)

    def learner(self, config: Config, beside_engine: bool = False) -> Learner:
        """Return the learner, to be loaded before it is used. The engine makes room for it first, unless both are to stay.

        Its base model is kept from update to update where update.keep_model says so; its weights are loaded anew each time.
        """
        from stages.learners.registry import keeps_model, learner_settings, make_learner

        if self._engine is not None and not beside_engine:
            self._engine[1].release_memory()
        settings = learner_settings(config)
        if self._learner is None or self._learner[0] != settings:
            self._learner = None  # its memory first
            made = make_learner(config)
            if not keeps_model(config):
                return made
            self._learner = (settings, made)
        return self._learner[1]

    def release_memory(self) -> None:
        """Leave the memory to trainers in other processes."""
        if self._engine is not None:
            self._engine[1].release_memory()
        self._learner = None

    def close(self) -> None:
        """Give the memory back."""
        if self._engine is not None:
            self._engine[1].close()
            self._engine = None
        self._learner = None
