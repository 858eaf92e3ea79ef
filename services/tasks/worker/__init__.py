"""The built-in worker: a process of its own (``python -m services.tasks.worker``, as many side by side as needed) that
does the kinds this project brings along. It knows the tasks service only through the worker protocol.
"""
