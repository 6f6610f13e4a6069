-- grain: one alternative of the groups asked for, with its message and what the update made of it
-- parameter: groups
select
    advantages.*,
    decisions.text,
    decisions.finish_reason,
    decisions.new_tokens,
    trained.advantage as trained_advantage,
    trained.skipped,
    trained.behaviour_logprob,
    trained.policy_logprob,
    trained.decision_id is not null as was_updated
from advantages
inner join decisions on decisions.decision_id = advantages.decision_id
left join trained on trained.decision_id = advantages.decision_id
where list_contains($groups, advantages.group_id)
order by advantages.problem_id, advantages.depth, advantages.group_id, decisions.path
