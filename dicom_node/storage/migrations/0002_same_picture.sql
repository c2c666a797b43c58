-- The earlier revision of the same UID that has the same pixels. Its results are used, and
-- this instance is not analyzed.
ALTER TABLE instance ADD COLUMN same_picture_as TEXT REFERENCES instance (id);
