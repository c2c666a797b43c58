-- Storage commitment requests (PS3.4 annex J), one row per request. The archive's report
-- identifies only the transaction. It may arrive hours later, at another process than the
-- one that sent the request.
CREATE TABLE commitment (
    transaction_uid TEXT PRIMARY KEY,   -- chosen by the node, new for each request
    instance_id TEXT NOT NULL,
    destination TEXT NOT NULL,
    asked_at DOUBLE PRECISION NOT NULL, -- recorded before the request is sent
    closed_at DOUBLE PRECISION,         -- reported, or no longer needed
    FOREIGN KEY (instance_id, destination) REFERENCES delivery (instance_id, destination)
);
CREATE INDEX commitment_by_delivery ON commitment (instance_id, destination);
