-- grain: one alternative of a state, with its message
-- parameter: state
select
    advantages.decision_id,
    advantages.is_logged,
    advantages.mean_return,
    advantages.replay_count,
    advantages.unscored_count,
    decisions.text
from advantages
inner join decisions on decisions.decision_id = advantages.decision_id
where advantages.state_id = $state
order by decisions.path
