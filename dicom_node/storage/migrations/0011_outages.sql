-- The state of each AE or service that receives results: see journal/circuit_breaker.py. A
-- row changes at each failure, and at the first success after failures.
CREATE TABLE peer_state (
    peer TEXT PRIMARY KEY,              -- the destination; with the AE if it has several
    destination TEXT NOT NULL,
    failing_since DOUBLE PRECISION,     -- no attempt has succeeded since; NULL: not failing
    failures INTEGER NOT NULL,          -- number of probes that were chosen since then
    probe TEXT,                         -- the instance to send in the next attempt
    failed_at DOUBLE PRECISION NOT NULL,
    reason TEXT NOT NULL                -- of the last failure; may quote the peer
);
-- The peer that must recover before this delivery is retried; NULL: none.
ALTER TABLE delivery ADD COLUMN waits_for TEXT;
CREATE INDEX delivery_that_waits ON delivery (waits_for, attempts)
    WHERE waits_for IS NOT NULL;
-- For the time of the last success, without a scan of all deliveries.
CREATE INDEX delivery_by_end ON delivery (destination, state, finished_at);

-- When a process shut down cleanly. The last row of each role stays: it shows that the
-- node has such a role.
ALTER TABLE heartbeat ADD COLUMN ended_at DOUBLE PRECISION;

-- 1: a result of this software that was sent back to it; NULL: it is not.
ALTER TABLE instance ADD COLUMN returned INTEGER;
UPDATE instance SET returned = 1 WHERE state = 'not_analyzed'
    AND substr(reason, 1, 35) = 'A result of this software came back';
CREATE INDEX instance_in_worklist ON instance (returned, received_at, id);
CREATE INDEX result_by_uid ON result (sop_instance_uid);
