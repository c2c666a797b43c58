-- 1: the analysis continues in the slow lane, because the decoder died or took too long
-- in the normal one. NULL: it does not.
ALTER TABLE instance ADD COLUMN slow INTEGER;
