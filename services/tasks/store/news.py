"""The news of a statement, written by the statement itself: one row for all tasks that changed in the same way.

It knows the columns; what the bus is told in the end is worded when a row is relayed.
"""

# ruff: noqa: S608 - what is put into these statements are names of columns and of parts of the statement

_COLUMNS = "type, kind, task_ids, owner_ids, sequences, attempts, ats, data, results, labels, traceparents"
# What is read of a row. A moment that all share comes once, and what none of them has not at all: each value read costs
# more than to compare it here.
COLUMNS = """type, kind, task_ids, owner_ids, sequences, attempts, traceparents, results,
  CASE WHEN ats[1] = ALL(ats) THEN ats[1:1] ELSE ats END AS ats,
  CASE WHEN '{}' <> ANY(data) THEN data END AS data, CASE WHEN '' <> ANY(labels) THEN labels END AS labels"""


def news_of(*changes: tuple[str, str], data: str = "NULL", result: str = "NULL") -> str:
    """The part of a statement that tells what happened to tasks; of each change at most one event a task.

    Args:
        changes: in the order in which they are told, each a source and its type. The source is a part with the columns
            task_id, owner_id, kind, sequence, attempt, at, labels and traceparent; the type of the event is an
            expression over it.
        data: an expression for the event's data; NULL for all of them: an empty object.
        result: the same for the result; NULL: none.
    """
    told = (
        f"""
  SELECT {type_}, kind, array_agg(task_id), array_agg(owner_id), array_agg(sequence), array_agg(attempt),
         array_agg(at), {_all(data, "bytea")}, {_all(result, "bytea")}, array_agg(labels), array_agg(traceparent)
  FROM {source} GROUP BY 1, 2
"""
        for source, type_ in changes
    )
    return f"INSERT INTO tasks.news ({_COLUMNS})" + "UNION ALL".join(told)


def _all(expression: str, type_: str) -> str:
    return f"NULL::{type_}[]" if expression == "NULL" else f"array_agg({expression})"
