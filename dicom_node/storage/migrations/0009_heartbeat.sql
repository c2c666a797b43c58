-- Heartbeats of the node's processes, which each process sends every few seconds.
CREATE TABLE heartbeat (
    id TEXT PRIMARY KEY,                -- name of the process, or a random id
    role TEXT NOT NULL,                 -- receiver, worker
    at DOUBLE PRECISION NOT NULL
);
