"""Draw findings, notices and examination summaries as images."""
