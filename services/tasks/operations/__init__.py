"""The use-cases: intake (submissions), desk (the worker protocol), queries, and upkeep (what goes on by itself).

They speak only to ports. `batches` puts concurrent calls into one commit, `figures` keeps what was measured, `checks`
refuses bad input before anything is written.
"""
