"""What happens now, told to those who watch: events from the bus to the sockets of the users they belong to.

Read `hub` first, then `frames` (what an event looks like), `order` (in which order), `mailbox` and `session` (one
socket). Knows no dialect's routes and asks no service.
"""
