"""The ports over Postgres, in raw batched statements on the driver: whole batches as column arrays, one commit a batch.

Read `changes` first: every transition but acceptance and claim locks rows (in the order of their ids, so batches cannot
deadlock), lets a rule decide, and writes what it decided. `outgoing` puts what is announced into the same commit.
"""
