-- The audit trail: see audit/event.py. Read by `fracture-node audit`.
CREATE TABLE audit (
    id SERIAL,
    at DOUBLE PRECISION NOT NULL,       -- seconds since 1970
    role TEXT NOT NULL,                 -- role of the process that wrote the row
    what TEXT NOT NULL,
    who TEXT NOT NULL,
    address TEXT NOT NULL,
    about TEXT NOT NULL,
    sop_instance_uid TEXT,
    times INTEGER NOT NULL              -- number of equal events up to this time
);
CREATE INDEX audit_by_time ON audit (at);
