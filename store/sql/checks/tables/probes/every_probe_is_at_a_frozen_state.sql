-- every probe is at a frozen state, said by the role whose turn it is there, once
select probes.probe_id, probes.state_id, probes.role, count(contexts.state_id) as states
from probes
left join contexts on contexts.state_id = probes.state_id and contexts.role = probes.role
group by probes.probe_id, probes.state_id, probes.role
having count(contexts.state_id) <> 1 or count(*) <> 1
