-- grain: one terminal evaluation, from rollout and replay alike
-- reads: rewards
select episode_id, problem_id, decision_ids, credited, reward
from rewards
