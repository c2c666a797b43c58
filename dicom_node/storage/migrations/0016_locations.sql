-- The locations of suspected fractures, as JSON: a list of
-- {"tip": [column, row], "tail": [column, row], "score": 0.75, "operating_point": "definite"}.
-- The column `arrow` keeps the first one for the previous release. NULL: recorded by the
-- previous release.
ALTER TABLE finding ADD COLUMN locations TEXT;
