-- The images of one patient in one study. patient_key is a digest of the Patient ID, or
-- of the name if the ID is empty.
CREATE TABLE examination (
    id TEXT PRIMARY KEY,
    study_instance_uid TEXT NOT NULL,
    patient_key TEXT NOT NULL,
    first_received_at DOUBLE PRECISION NOT NULL,
    last_received_at DOUBLE PRECISION NOT NULL,
    due_at DOUBLE PRECISION,            -- when the summary is due; NULL: no scheduled run
    runs INTEGER NOT NULL,              -- number of queued runs of the summary
    revision INTEGER NOT NULL,          -- number of different summaries, from 0
    inputs TEXT NOT NULL,               -- digest of what the last summary was made from
    objects TEXT NOT NULL,              -- JSON: the objects of the last summary
    predecessors TEXT NOT NULL,         -- JSON: the objects that it replaced
    UNIQUE (study_instance_uid, patient_key)
);
CREATE INDEX examination_by_arrival ON examination (last_received_at);
-- The examination of the image. NULL: not assigned yet, see journal/examinations.py.
ALTER TABLE instance ADD COLUMN examination_id TEXT;
-- 1: not an image, but the summary of the examination, which has the same deliveries.
ALTER TABLE instance ADD COLUMN is_summary INTEGER;
-- 1: not analyzed, and nobody expects a result.
ALTER TABLE instance ADD COLUMN not_meant INTEGER;
CREATE INDEX instance_by_examination
    ON instance (examination_id, is_summary, returned);
CREATE INDEX instance_without_examination ON instance (received_at)
    WHERE examination_id IS NULL;
-- The worklist of images counts the images without reading their rows.
DROP INDEX instance_in_worklist;
CREATE INDEX instance_in_worklist ON instance (returned, is_summary, received_at, id);
