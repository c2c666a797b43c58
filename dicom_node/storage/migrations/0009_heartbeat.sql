-- Which processes of the node live: each says so every few seconds.
CREATE TABLE heartbeat (
    id TEXT PRIMARY KEY,                -- of the process, drawn when it starts
    role TEXT NOT NULL,                 -- receiver, worker
    at DOUBLE PRECISION NOT NULL
);
