"""The agents service: agents, their executions and the log of their runs.

It owns the schema `agents`, turns an execution into one task per agent in the tasks service, follows those tasks on the
bus, and runs them itself (kind `agent.run`) by asking the llm service. The gateway calls it.
"""
