-- every probe has as many terminal evaluations as were asked for, and nothing else has one
-- reads: own_replays, the step's own rows; the others hold its inputs' too
with
found as (
    select alternative_id as probe_id, count(*) as replays
    from own_replays
    group by alternative_id
)

select coalesce(probes.probe_id, found.probe_id) as probe_id, probes.replays as asked, coalesce(found.replays, 0) as found
from probes
full join found on found.probe_id = probes.probe_id
where probes.replays is distinct from coalesce(found.replays, 0)
