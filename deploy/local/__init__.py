"""The whole mesh on one machine without Docker: private stores, migrations and services under one supervisor.

It owns how processes are started, watched and ended here. It refuses to know what any service does.
"""
