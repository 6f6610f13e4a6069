-- grain: one terminal evaluation of one half of the evaluations below each decision of a depth
-- Halves are cut between the draws that follow such a decision, so that given the decision they share nothing: what is
-- estimated on one is independent of what is estimated on the other.
-- reads: all_episodes; variables split_depth, split_half (0 or 1)
select * exclude (half)
from (
    select
        *,
        dense_rank() over (
            partition by decision_ids[getvariable('split_depth')]
            order by decision_ids[getvariable('split_depth') + 1]
        ) % 2 as half
    from all_episodes
    where len(decision_ids) > getvariable('split_depth')
)
where half = getvariable('split_half')
