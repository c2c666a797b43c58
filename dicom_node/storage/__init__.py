"""The storage directory and the database, and how their content is made durable."""
