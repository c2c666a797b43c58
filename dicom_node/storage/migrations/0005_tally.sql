-- Counters for a monitoring system. Rows are only inserted, and the cleanup adds them up:
-- if a row were incremented, each writer would wait for the previous one.
CREATE TABLE tally (
    name TEXT NOT NULL,                 -- name of the metric
    label TEXT NOT NULL,                -- reason, stage or destination, or empty
    le TEXT NOT NULL,                   -- bucket of a histogram; empty: a counter
    times BIGINT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL   -- sum of all observations of a histogram
);
-- Unfinished deliveries, a small share of all.
CREATE INDEX delivery_unfinished ON delivery (destination, state, asked_at)
    WHERE finished_at IS NULL;
ALTER TABLE instance ADD COLUMN delivered_at DOUBLE PRECISION; -- for the first time
