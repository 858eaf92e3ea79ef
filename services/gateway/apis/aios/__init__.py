"""The AI OS API, under ``/api``: accounts, agents, executions and the live socket. One module a resource."""
