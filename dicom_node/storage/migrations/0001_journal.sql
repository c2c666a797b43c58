-- The journal: the history of each instance. SERIAL is replaced by the dialect's
-- auto-increment integer key. Times are seconds since 1970, UTC. Columns are only added,
-- so that the previous release can still work on the same database.

CREATE TABLE instance (
    id TEXT PRIMARY KEY,                -- UUID, also the name of the file
    sop_instance_uid TEXT NOT NULL,
    content_digest TEXT NOT NULL,       -- BLAKE3 of the dataset as sent
    revision INTEGER NOT NULL,          -- 1, then 2 for other bytes under the same UID
    path TEXT NOT NULL,                 -- relative to the storage directory
    size BIGINT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    modality TEXT NOT NULL,
    study_date TEXT NOT NULL,
    body_part TEXT NOT NULL,
    view_position TEXT NOT NULL,
    laterality TEXT NOT NULL,
    source_uids TEXT NOT NULL,          -- of Source Image Sequence, space-separated
    calling_ae_title TEXT NOT NULL,
    calling_address TEXT NOT NULL,
    received_at DOUBLE PRECISION NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,               -- sentences, for not_analyzed and failed
    run INTEGER NOT NULL,               -- number of this analysis, from 1
    attempts INTEGER NOT NULL,          -- of this run
    child_deaths INTEGER NOT NULL,      -- of this run
    picture_digest TEXT,                -- equal for images that look the same
    identity_digest TEXT,
    analyzed_at DOUBLE PRECISION,
    probability DOUBLE PRECISION,
    operating_point TEXT,
    model_name TEXT,
    model_version TEXT,
    model_digest TEXT,
    UNIQUE (sop_instance_uid, content_digest),
    UNIQUE (sop_instance_uid, revision)
);
CREATE INDEX instance_by_study ON instance (study_instance_uid);
CREATE INDEX instance_by_state ON instance (state, received_at);

-- The result objects of an instance. They are encoded once, and sent as often as needed.
CREATE TABLE result (
    instance_id TEXT NOT NULL REFERENCES instance (id),
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,                 -- relative to the storage directory
    PRIMARY KEY (instance_id, sop_instance_uid)
);

-- The delivery of the results of one instance to one destination.
CREATE TABLE delivery (
    instance_id TEXT NOT NULL REFERENCES instance (id),
    destination TEXT NOT NULL,
    state TEXT NOT NULL,
    run INTEGER NOT NULL,               -- number of work items enqueued for it
    attempts INTEGER NOT NULL,          -- since it was last requested
    asked_at DOUBLE PRECISION NOT NULL,
    next_at DOUBLE PRECISION NOT NULL,
    finished_at DOUBLE PRECISION,
    PRIMARY KEY (instance_id, destination)
);
CREATE INDEX delivery_by_state ON delivery (destination, state);

-- One object of a delivery, with the peer's last response.
CREATE TABLE delivered_object (
    instance_id TEXT NOT NULL,
    destination TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    state TEXT NOT NULL,
    status INTEGER,                     -- of the C-STORE response
    comment TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (instance_id, destination, sop_instance_uid),
    FOREIGN KEY (instance_id, destination) REFERENCES delivery (instance_id, destination)
);

CREATE TABLE event (
    id SERIAL,
    instance_id TEXT REFERENCES instance (id),
    at DOUBLE PRECISION NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX event_by_instance ON event (instance_id);

-- Destinations that a user paused.
CREATE TABLE paused_destination (
    name TEXT PRIMARY KEY,
    at DOUBLE PRECISION NOT NULL
);
