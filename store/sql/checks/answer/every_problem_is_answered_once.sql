-- every held-out problem has one transcript
select problems.problem_id, count(transcripts.episode_id) as times
from problems
left join transcripts on transcripts.problem_id = problems.problem_id
group by problems.problem_id
having count(transcripts.episode_id) <> 1
