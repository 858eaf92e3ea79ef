"""The durable engine: owns tasks, attempts, results, events, timers, dead letters and worker sessions.

It calls no other service. The gateway and agents submit to it; every worker of the mesh claims from it and reports to
it, and nobody else writes its tables. RabbitMQ carries pointers to its rows and news of them, never the truth.
"""
