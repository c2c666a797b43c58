-- When an object about the instance was first stored at the destination. NULL: never, or
-- recorded by a previous release.
ALTER TABLE delivery ADD COLUMN stored_at DOUBLE PRECISION;
