-- The advantages table as a Parquet file.
-- As an enum, a column of few words is written by word, not looked up row by row; in the file it is text all the same.
-- Ids hardly repeat: a dictionary of them would be built only to be thrown away. One of few words and numbers pays.
-- Version 2 writes ids by length and text, and numbers by their bytes: less to compress.
-- The words are in order, because a file's bytes depend on it.
create type word as enum (
    select role as word from decisions where role is not null
    union
    select policy_version from decisions where policy_version is not null
    union
    select unnest([getvariable('estimator'), getvariable('normalisation')])
    order by word
);

copy (
    select * replace (
        role::word as role,
        policy_version::word as policy_version,
        estimator::word as estimator,
        normalisation::word as normalisation
    )
    from advantages
) to ? (format parquet, compression zstd, compression_level 1, dictionary_size_limit 500, parquet_version v2)
