-- every figure has a finite value, inside its interval, or a reason for having none, never both or neither
select name, role, value, low, high, reason
from diagnostics
where
    (value is null) = (reason is null)
    or not isfinite(coalesce(value, 0))
    or (low is null) <> (high is null)
    or low > high
    or (value is null and low is not null)
