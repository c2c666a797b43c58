-- Whether each AE or service that results go to fails: see journal/circuit_breaker.py. A row is
-- changed at failures, and at the first success after them.
CREATE TABLE peer_state (
    peer TEXT PRIMARY KEY,              -- the destination; with the AE if it is many
    destination TEXT NOT NULL,
    failing_since DOUBLE PRECISION,     -- no attempt has succeeded since; NULL: one has
    failures INTEGER NOT NULL,          -- how many probes were chosen in that time
    probe TEXT,                         -- the instance with which it is tried next
    failed_at DOUBLE PRECISION NOT NULL,
    reason TEXT NOT NULL                -- of the last failure; may hold the peer's words
);
-- The peer that must answer before this delivery is tried again; NULL: it waits for none.
ALTER TABLE delivery ADD COLUMN waits_for TEXT;
CREATE INDEX delivery_that_waits ON delivery (waits_for, attempts)
    WHERE waits_for IS NOT NULL;
-- For the time of the last success, without a scan of all deliveries.
CREATE INDEX delivery_by_end ON delivery (destination, state, finished_at);

-- When a process shut down cleanly. The last row of each role stays: it shows that the
-- node has such a role.
ALTER TABLE heartbeat ADD COLUMN ended_at DOUBLE PRECISION;

-- 1: a result of this software that came back; NULL: it is none.
ALTER TABLE instance ADD COLUMN returned INTEGER;
UPDATE instance SET returned = 1 WHERE state = 'not_analyzed'
    AND substr(reason, 1, 35) = 'A result of this software came back';
CREATE INDEX instance_in_worklist ON instance (returned, received_at, id);
CREATE INDEX result_by_uid ON result (sop_instance_uid);
