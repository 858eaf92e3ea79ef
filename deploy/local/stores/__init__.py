"""Private stores: each one a real server on loopback with its own data, ports and password, run by an ordinary user
or by root. Every call blocks; callers with an event loop use a thread.
"""
