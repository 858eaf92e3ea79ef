"""What a task is and what may happen to it: values, the state table, rules and domain errors. No I/O; time is given.

Read `states` first (the table T1–T13), then `rules` (what an outcome makes of a task), `task` and `work` (the values).
"""
