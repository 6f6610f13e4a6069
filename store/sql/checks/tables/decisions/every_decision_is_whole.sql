-- every message has tokens, one log-prob for each (or NULL, where it was imported without), and ends as it says
select decision_id, len(token_ids) as tokens, len(behaviour_logprobs) as logprobs, finish_reason
from decisions
where
    coalesce(len(token_ids), 0) = 0
    or (behaviour_logprobs is null and seed is not null) -- without a seed it was imported
    or len(token_ids) <> len(behaviour_logprobs)
    or len(token_ids) <> list_count(behaviour_logprobs) -- no NULL among them
    or list_max(behaviour_logprobs) > 0
    or not isfinite(list_min(behaviour_logprobs))
    or coalesce(finish_reason, '') not in ('stop', 'length')
