-- every message that an advantage rests on was sampled by the policy version that the advantage names
select advantages.decision_id, advantages.policy_version as credited, decisions.policy_version as sampled
from advantages
inner join decisions on decisions.decision_id = advantages.decision_id
where decisions.policy_version <> advantages.policy_version
