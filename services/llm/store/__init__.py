"""The ports over Postgres: usage, written in batches behind the requests' backs, and the answers kept under keys."""
