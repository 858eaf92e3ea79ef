"""The use-cases: what can be done with agents, and with executions. They speak only to ports."""
