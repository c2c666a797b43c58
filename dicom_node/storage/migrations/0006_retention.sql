-- Time at which an instance and all its deliveries were finished; NULL: not finished.
ALTER TABLE instance ADD COLUMN ended_at DOUBLE PRECISION;
-- Time at which its file and the files of its results were removed by retention.
ALTER TABLE instance ADD COLUMN files_removed_at DOUBLE PRECISION;
UPDATE instance SET ended_at = COALESCE(delivered_at, analyzed_at, received_at)
    WHERE state NOT IN ('received', 'delivering') AND NOT EXISTS (
        SELECT 1 FROM delivery WHERE delivery.instance_id = instance.id
        AND delivery.state IN ('queued', 'committing', 'paused'));
CREATE INDEX instance_with_files ON instance (ended_at)
    WHERE files_removed_at IS NULL;
CREATE INDEX instance_without_files ON instance (ended_at)
    WHERE files_removed_at IS NOT NULL;
-- Looked up for each row that is deleted, to keep the reference.
CREATE INDEX instance_by_same_picture ON instance (same_picture_as);
CREATE INDEX instance_by_arrival ON instance (received_at);
CREATE INDEX event_of_no_instance ON event (at) WHERE instance_id IS NULL;
