-- Heartbeats of the node's processes, which each process sends every few seconds.
CREATE TABLE heartbeat (
    id TEXT PRIMARY KEY,                -- of the process, random at each start
    role TEXT NOT NULL,                 -- receiver, worker
    at DOUBLE PRECISION NOT NULL
);
