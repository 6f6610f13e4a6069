-- A sum of doubles with the same last bit in whatever order rows, parts and threads bring them; the sum of nothing is NULL.
-- Most rewards are 0, 1 or a simple share: multiples of 1/1024 up to 1024 add up without rounding, in any order.
-- The others are added in ascending order, with Kahan's correction.
create macro adds_exactly(x) as abs(x) <= 1024 and x * 1024 = trunc(x * 1024);

create macro stable_sum(x) as case
    when count(x) > 0 then
        coalesce(sum(x) filter (where adds_exactly(x)), 0)
        + coalesce(list_aggregate(list_sort(list(x) filter (where not adds_exactly(x))), 'fsum'), 0)
end;
