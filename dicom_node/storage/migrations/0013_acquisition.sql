-- Identifies the exposure: Irradiation Event UID, else Acquisition DateTime, else
-- Acquisition Date and Time. Empty: unknown. NULL: recorded before this column existed.
ALTER TABLE instance ADD COLUMN acquisition TEXT;
