-- grain: one alternative, at a state that holds two or more
-- The group is the state whatever the estimator compares with, because Q and V are of a state.
-- reads: advantages, decisions
select
    advantages.problem_id,
    advantages.role,
    advantages.depth,
    advantages.state_id,
    advantages.group_id,
    advantages.decision_id,
    advantages.replay_count,
    advantages.mean_return,
    advantages.advantage,
    advantages.estimator,
    advantages.normalisation
from advantages
inner join decisions on decisions.decision_id = advantages.decision_id
qualify count(*) over (partition by advantages.state_id) >= 2
order by advantages.depth, advantages.problem_id, advantages.state_id, decisions.path
