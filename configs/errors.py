"""The error tree, by the boundary crossed.

    C3Error
    ├── ConfigError                 a configuration, command line or problem file that makes no sense      (exit 2)
    │   └── MissingFileError        a problem file is not where the configuration says                     (exit 2)
    ├── StoreError                  something stored is missing, corrupt, locked, or cannot be written     (exit 3)
    │   └── CheckError              a stage's rows break a SQL check: the plan was not spent exactly       (exit 3)
    ├── EngineError                 the sampler: no such model, wrong policy, prompt past the window       (exit 4)
    │   └── EngineUnreachableError  no server responds; one may later                                      (exit 4)
    ├── EvaluatorError              the grader failed on more answers than the configured share            (exit 5)
    ├── UpdateError                 the update: non-finite loss, rows of another policy version            (exit 6)
    └── LimitReachedError           a limit of this command (--max-seconds, --max-evaluations) is reached  (exit 7)

Each is raised with one line that names the thing, what was got, what was wanted and the cure.
"""


class C3Error(Exception):
    """Anything C3 refuses to do, with one line for the user."""

    exit_code = 1


class ConfigError(C3Error):
    """A request that cannot be carried out as written; raised before anything runs."""

    exit_code = 2


class MissingFileError(ConfigError):
    """A file that the configuration names is not there. What was read of it earlier may be in the store."""


class StoreError(C3Error):
    """Something on disk is missing, corrupt, locked by another process, or cannot be written."""

    exit_code = 3


class CheckError(StoreError):
    """A stage's rows break one of the checks in store/sql/checks."""


class EngineError(C3Error):
    """The sampler could not do what was requested."""

    exit_code = 4


class EngineUnreachableError(EngineError):
    """No server responded within the allowed attempts. Nothing is known to be wrong with what they would sample."""


class EvaluatorError(C3Error):
    """The evaluator failed on more answers than the configuration allows."""

    exit_code = 5


class UpdateError(C3Error):
    """The policy update had to stop; no policy version was written."""

    exit_code = 6


class LimitReachedError(C3Error):
    """A limit set for this command is reached. Nothing is wrong and nothing is lost."""

    exit_code = 7
