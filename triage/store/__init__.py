"""Remembers: the durable object store and the database; the only home of SQLAlchemy and of file paths."""
