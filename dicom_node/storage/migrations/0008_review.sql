-- Data of an instance for the review page, in addition to its state.

-- The patient of an image. No other table has patient data. Deleted with the instance.
CREATE TABLE patient (
    instance_id TEXT PRIMARY KEY REFERENCES instance (id),
    name TEXT NOT NULL,                 -- as sent, decoded
    patient_id TEXT NOT NULL,
    accession_number TEXT NOT NULL,
    folded TEXT NOT NULL                -- all three, case-folded for searches
);

-- The model's result, to be drawn over the radiograph. Deleted with the files.
CREATE TABLE finding (
    instance_id TEXT PRIMARY KEY REFERENCES instance (id),
    picture_rows INTEGER NOT NULL,      -- of the radiograph as displayed
    picture_columns INTEGER NOT NULL,
    arrow TEXT NOT NULL,                -- JSON, [[column, row] of tip, of tail]; or empty
    doubtful DOUBLE PRECISION NOT NULL, -- the model's operating points
    definite DOUBLE PRECISION NOT NULL,
    map_rows INTEGER NOT NULL,
    map_columns INTEGER NOT NULL,
    map BYTES NOT NULL                  -- 0 to 255, row by row, zlib
);

-- Feedback of readers on a result: the last feedback of each reader.
CREATE TABLE feedback (
    instance_id TEXT NOT NULL REFERENCES instance (id),
    who TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    verdict TEXT NOT NULL,              -- agree, disagree, unsure
    place_column DOUBLE PRECISION,      -- position of a missed fracture on the
    place_row DOUBLE PRECISION,         -- radiograph as displayed
    run INTEGER NOT NULL,               -- of the analysis that the feedback is about
    PRIMARY KEY (instance_id, who)
);

-- Connection tests (C-ECHO) of destinations that users requested.
CREATE TABLE echo (
    id SERIAL,
    destination TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    who TEXT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    comment TEXT NOT NULL               -- reason of a failure; empty: success
);
CREATE INDEX echo_by_destination ON echo (destination, id);
CREATE INDEX audit_by_kind ON audit (what, at);
