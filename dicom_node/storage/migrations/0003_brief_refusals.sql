-- The number of refusals that are retried three times. It is separate from the number of
-- attempts, because a lost association is not a refusal of the object.
ALTER TABLE delivered_object ADD COLUMN brief_refusals INTEGER NOT NULL DEFAULT 0;
