"""What the owners' webhooks are to be told, written in the statement that makes it true."""

# ruff: noqa: S608 - what is put into these statements are numbers and names of the model

from services.tasks.model.signing import MOST_RESULT_BYTES
from services.tasks.model.states import EventType, State

# The part of the statement that ends tasks; `i` is what ended, `d` are the live rows that were. Nothing of it is looked
# up later: by then the task may have been requeued, or its day of history dropped.
TELL_WEBHOOKS = f"""
  INSERT INTO tasks.webhook_delivery (delivery_id, webhook_id, event_id, type, at, facts, result, traceparent)
  SELECT tasks.delivery_id(), w.webhook_id, 'evt_' || i.task_id || '_' || i.sequence, 'task.' || v.status, i.at,
         jsonb_build_object(
           'task_id', i.task_id, 'task_type', i.kind, 'status', v.status, 'attempt', d.attempt,
           'max_attempts', d.max_attempts, 'error', CASE WHEN i.error_code IS NOT NULL THEN
             jsonb_build_object('code', i.error_code, 'message', left(i.error_message, 1000)) END),
         CASE WHEN i.state = {State.SUCCEEDED:d} AND octet_length(i.result) <= {MOST_RESULT_BYTES} THEN i.result END,
         i.traceparent
  FROM i JOIN d USING (task_id) JOIN tasks.webhook w ON w.owner_id = i.owner_id AND w.enabled
  CROSS JOIN LATERAL (
    SELECT CASE i.type WHEN '{EventType.SUCCEEDED}' THEN 'completed' ELSE i.type END AS status
  ) AS v
  WHERE w.events && ARRAY['*', 'task.*', 'task.' || v.status]
  ON CONFLICT (webhook_id, event_id) DO NOTHING RETURNING 1 AS told
"""
