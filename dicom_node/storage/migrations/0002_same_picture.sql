-- An instance that is not analyzed because an earlier revision of its UID looks just
-- like it names that one, whose results are its own.
ALTER TABLE instance ADD COLUMN same_picture_as TEXT REFERENCES instance (id);
