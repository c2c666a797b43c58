-- What tells one exposure from another: Irradiation Event UID, else Acquisition DateTime,
-- else Acquisition Date and Time; empty: not known. NULL: from before this column.
ALTER TABLE instance ADD COLUMN acquisition TEXT;
