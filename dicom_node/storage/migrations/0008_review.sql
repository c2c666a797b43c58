-- What the review page shows of an instance besides how it fared.

-- Whose image it is: the only table that names patients. Goes with the instance's row.
CREATE TABLE patient (
    instance_id TEXT PRIMARY KEY REFERENCES instance (id),
    name TEXT NOT NULL,                 -- as sent, decoded
    patient_id TEXT NOT NULL,
    accession_number TEXT NOT NULL,
    folded TEXT NOT NULL                -- all three, as searches are made
);

-- What the model said, to be drawn over the radiograph. Goes with the files.
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

-- What readers think of an answer: the last word of each.
CREATE TABLE feedback (
    instance_id TEXT NOT NULL REFERENCES instance (id),
    who TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    verdict TEXT NOT NULL,              -- agree, disagree, unsure
    place_column DOUBLE PRECISION,      -- of a fracture that was missed, on the
    place_row DOUBLE PRECISION,         -- radiograph as displayed
    run INTEGER NOT NULL,               -- of the analysis that was judged
    PRIMARY KEY (instance_id, who)
);

-- Signs of life that somebody asked destinations for.
CREATE TABLE echo (
    id SERIAL,
    destination TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    who TEXT NOT NULL,
    seconds DOUBLE PRECISION NOT NULL,
    comment TEXT NOT NULL               -- why there was none; empty: it is alive
);
CREATE INDEX echo_by_destination ON echo (destination, id);
CREATE INDEX audit_by_kind ON audit (what, at);
