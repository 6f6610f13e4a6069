"""Every estimator against enumerated truth: writes the tables of docs/results-credit.md.

    PYTHONPATH=. python bench/estimators.py [--copies 4000] [--seed 1] [--output docs/results-credit.md]

Worlds and measures are those of tests/support/estimator_truth.py, which tests/store/sql/test_estimators_against_truth.py
holds to its claims. What the page says below the tables is written by hand and stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from store.queries.estimators import estimators
from tests.support.estimator_truth import Figures, World, credit_of, measure, play, worlds

ABOUT = {
    "solo": "one role, fanout 8",
    "duo": "Reasoner -> Actor, fanout 2,4",
    "trio": "Reasoner -> Actor -> Verifier who hears both, fanout 2,2,2",
    "diamond": "two parallel roles between a first and a last, fanout 2,2,2,2",
    "agreement": "two roles whose values interact: 1 where both say the same, else 0; fanout 2,4",
    "irrelevant": "the first role alone decides, the second makes no difference; fanout 2,4",
    "unequal": "three messages of the first role, answered 2, 3 and 4 times; both count",
}
HEAD = """# Credit against the truth

Made by `bench/estimators.py` ({copies} copies of each world, four problems each, seed {seed}); what it shows is asserted in
`tests/store/sql/test_estimators_against_truth.py`. Every world is small enough that Q and V are exact sums. All estimators
see the same stored rows.

| figure | meaning |
|---|---|
| slope | of the advantage A on t = Q - V; 1 is unbiased. Standard error in brackets |
| bias | root mean square over (context, word) of E[A] - t, its noise taken out |
| RMSE | of A as an estimate of t |
| variance | of A, given context and word |
| gradient slope | of the mean policy gradient along the true one; 1 is unbiased |
| gradient bias | length of the mean gradient's error relative to the true gradient, its noise taken out |
| gradient variance | trace of the covariance of one problem's gradient |

How to read them. `c3` is unbiased for the advantage and for the gradient. `full_mean` is c3 times (n-1)/n at equal counts.
`no_replay` and `rloo` (on a tree they are the same leave-one-out over a problem's messages) and `global_mean` carry the worth
of the context into the advantage: biased for Q - V, unbiased for the gradient (the batch mean up to one part in the
batch). `magrpo` has that bias and, being part of its own mean, a shrunk gradient; on a tree a message takes the mean over
its leaves, so a fair run of it uses the `episodes` plan. A smaller variance beside a slope below 1 is no gain: divide it
by the slope's square first. Where a role makes no difference (`irrelevant`), c3 gives it exactly 0 and the others do not.
`ccpo`, here with one ablated replay per state, is off by V(h) less V without the message
(`tests/stages/test_ablated_replay.py` takes exactly that off): the same for all messages of a state, so the gradient is
unbiased. The last role has none; its figures are over the others.

`mappo`, `value_assisted` and `value_only` read learned values, fitted as the stage `critic` fits them: per role two ridge
regressions, on the log-probabilities of all words at the context, and (for Q) on which word was said; each copy is told by
heads that were fitted on other copies. How likely its words are is all that such a head knows of a context, so it is often
wrong. The baselines of the first two do not depend on the message that is credited: their gradients are unbiased
whatever the head says, and as estimates of Q - V they are off by its error in V(h). No sibling's luck is in `mappo`'s
baseline, so its gradient varies less than c3's in each of these worlds. `value_only` is as good as its head: nearly right
where a word is worth the same in every context (`irrelevant`), far off where its worth hangs on what else is said
(`agreement`), and no number of samples mends that.
"""
BELOW = "\n## Do the diagnostics hold?"
"""Where what was written by hand begins."""


def table(world: World, copies: int, seed: int) -> str:
    """One world's table, in Markdown."""
    played = play(world, copies, seed)
    lines = [
        f"\n## {world.name}: {ABOUT[world.name]}\n",
        "| estimator | slope | bias | RMSE | variance | gradient slope | gradient bias | gradient variance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, credit in credit_of(played, estimators()).items():
        if credit:  # ccpo has nothing to say of a team of one
            lines.append(f"| {name} | {_cells(measure(played, credit))} |")
    return "\n".join(lines) + "\n"


def _cells(found: Figures) -> str:
    return " | ".join(
        [
            f"{found.slope:.3f} ({found.slope_error:.3f})",
            f"{found.bias:.4f}",
            f"{found.rmse:.4f}",
            f"{found.variance:.4f}",
            f"{found.gradient_slope:.3f} ({found.gradient_slope_error:.3f})",
            f"{found.gradient_bias:.3f}",
            f"{found.gradient_variance:.4f}",
        ]
    )


def main() -> None:
    """Measure every world and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--copies", type=int, default=4000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--output", type=Path)
    chosen = arguments.parse_args()
    page = HEAD.format(copies=chosen.copies, seed=chosen.seed)
    page += "".join(table(world, chosen.copies, chosen.seed) for world in worlds())
    if chosen.output:
        before = chosen.output.read_text(encoding="utf-8") if chosen.output.exists() else ""
        page += "".join(before.partition(BELOW)[1:])
        chosen.output.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
