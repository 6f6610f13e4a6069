"""Credit sections: which estimator assigns advantages, and the critic behind learned values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.section import Section


class AdvantagesConfig(Section):
    """The advantages stage: which .sql file in store/sql/estimators, and over which groups."""

    estimator: str = "c3"
    group_by: Literal["state", "context"] = "state"
    """"state": siblings of one replay state. "context": all alternatives of a problem shown the same token ids.
    An estimator whose header says `groups: problem` compares over a whole problem whatever this says."""
    normalisation: Literal["none", "group_std", "batch_std"] = "none"
    """Which .sql file in store/sql/normalisations: "group_std" is the z-score inside the group, "batch_std" a division by the
    batch's standard deviation."""
    ablated_replays: int = Field(1, ge=1)
    """Only for estimators that read ablated_replay: replays of every state of a credited role without that role's
    message. They come on top of the plan's budget; `c3 plan` counts them."""


class CriticConfig(Section):
    """The critic stage, which runs where the estimator reads critic_values."""

    folds: int = Field(5, ge=2)
    """The round's problems are cut into so many; value heads fitted on the others predict each."""
