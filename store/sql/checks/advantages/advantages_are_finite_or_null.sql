-- an advantage is a finite number or NULL, and NULL exactly where there is no baseline
select decision_id, mean_return, baseline, advantage
from advantages
where
    not isfinite(coalesce(advantage, 0))
    or (advantage is null) <> (baseline is null or mean_return is null)
