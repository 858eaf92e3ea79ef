"""What the owners' webhooks are to be told, written in the statement that makes it true."""

# ruff: noqa: S608 - what is put into these statements are numbers and names of the model

from services.tasks.model.signing import MOST_RESULT_BYTES
from services.tasks.model.states import EventType, State

# The part of the statement that ends tasks; `d` is what ended, with what its live row said. Nothing of it is looked up
# later: by then the task may have been requeued, or its day of history dropped.
TELL_WEBHOOKS = f"""
  INSERT INTO tasks.webhook_delivery (delivery_id, webhook_id, event_id, type, at, facts, result, traceparent)
  SELECT tasks.delivery_id(), w.webhook_id, 'evt_' || d.task_id || '_' || d.sequence, 'task.' || v.status, d.at,
         jsonb_build_object(
           'task_id', d.task_id, 'task_type', d.kind, 'status', v.status, 'attempt', d.attempt,
           'max_attempts', d.max_attempts, 'error', CASE WHEN d.error_code IS NOT NULL THEN
             jsonb_build_object('code', d.error_code, 'message', left(d.error_message, 1000)) END),
         CASE WHEN d.state = {State.SUCCEEDED:d} AND octet_length(d.result) <= {MOST_RESULT_BYTES} THEN d.result END,
         d.traceparent
  FROM d JOIN tasks.webhook w ON w.owner_id = d.owner_id AND w.enabled
  CROSS JOIN LATERAL (
    SELECT CASE d.type WHEN '{EventType.SUCCEEDED}' THEN 'completed' ELSE d.type END AS status
  ) AS v
  WHERE w.events && ARRAY['*', 'task.*', 'task.' || v.status]
  ON CONFLICT (webhook_id, event_id) DO NOTHING RETURNING 1 AS told
"""
