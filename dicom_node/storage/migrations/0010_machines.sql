-- Several machines: since when each process has beaten without a gap, so that one that
-- was cut off judges nobody; and which process goes by a worker's name.
ALTER TABLE heartbeat ADD COLUMN since DOUBLE PRECISION;
ALTER TABLE heartbeat ADD COLUMN process TEXT;

-- Which folder the files lie in: it has this id in a file, and what was not mounted has not.
CREATE TABLE storage (
    id TEXT PRIMARY KEY
);

-- The oldest schema whose release can work beside this one.
ALTER TABLE journal_version ADD COLUMN works_from INTEGER;
