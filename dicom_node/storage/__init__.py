"""The storage directory and the database: where data is kept, and when it is safe."""
