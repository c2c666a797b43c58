-- Refusals that are tried three times are counted apart from all attempts: a lost
-- association says nothing of the object.
ALTER TABLE delivered_object ADD COLUMN brief_refusals INTEGER NOT NULL DEFAULT 0;
