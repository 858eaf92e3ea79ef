"""External workers: sockets on one side, the worker protocol of the tasks service on the other.

`frames` is the language of the sockets, `holdings` what a worker holds, `session` its life at the tasks service, `link`
one socket with all of it, `links` all links of this process. None of them knows what any kind of task does.
"""
