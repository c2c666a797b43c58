-- What an archive was asked to commit itself to (PS3.4 annex J): one row a request. The
-- archive's report names no more than the transaction, and may come hours later, to
-- another process than the one that asked.
CREATE TABLE commitment (
    transaction_uid TEXT PRIMARY KEY,   -- ours, new for each request
    instance_id TEXT NOT NULL,
    destination TEXT NOT NULL,
    asked_at DOUBLE PRECISION NOT NULL, -- recorded before it is sent
    closed_at DOUBLE PRECISION,         -- reported on, or nobody asks any more
    FOREIGN KEY (instance_id, destination) REFERENCES delivery (instance_id, destination)
);
CREATE INDEX commitment_by_delivery ON commitment (instance_id, destination);
