"""The ports over Postgres: agents, executions and runners, each in its file."""
