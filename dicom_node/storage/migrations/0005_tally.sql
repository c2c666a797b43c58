-- What has been counted, for a monitoring system. Rows are only added, and added up by
-- the sweep: a row that is counted up would make each writer wait for the one before.
CREATE TABLE tally (
    name TEXT NOT NULL,                 -- of the metric
    label TEXT NOT NULL,                -- the reason, stage or destination, or nothing
    le TEXT NOT NULL,                   -- the bucket of a histogram; empty: a counter
    times BIGINT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL   -- of a histogram, all observations together
);
-- Deliveries that have not ended, which is few of many.
CREATE INDEX delivery_unfinished ON delivery (destination, state, asked_at)
    WHERE finished_at IS NULL;
ALTER TABLE instance ADD COLUMN delivered_at DOUBLE PRECISION; -- for the first time
