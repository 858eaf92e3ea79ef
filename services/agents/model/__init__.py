"""What agents, executions and runs are and what may happen to them. No I/O; time and ids are given.

Read `agent` first, then `execution` (the state table of runs, and what news of a task makes of an execution).
"""
