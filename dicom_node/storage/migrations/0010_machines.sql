-- For several machines. since: start of the current heartbeats without a gap; a process
-- that was disconnected must not declare others dead. process: the process that uses a
-- worker's name.
ALTER TABLE heartbeat ADD COLUMN since DOUBLE PRECISION;
ALTER TABLE heartbeat ADD COLUMN process TEXT;

-- The id of the storage directory. A file in the directory contains the same id, so that a
-- directory that is not mounted is detected.
CREATE TABLE storage (
    id TEXT PRIMARY KEY
);

-- The oldest schema version that is compatible with this one.
ALTER TABLE journal_version ADD COLUMN works_from INTEGER;
