"""What the owners' webhooks are to be told, written in the statement that makes it true."""

# ruff: noqa: S608 - what is put into these statements are numbers and names of the model

from services.tasks.model.signing import MOST_RESULT_BYTES
from services.tasks.model.states import EventType, State

# The part of a statement that ends tasks; `z` is what ended. Nothing of it is looked up later: by then the task may
# have been requeued, or its day of history dropped. Each owner's are looked up by their index: the
# plan is made once, and must not read everybody's when there are many.
TELL_WEBHOOKS = f"""
  INSERT INTO tasks.webhook_delivery (delivery_id, webhook_id, event_id, type, at, facts, result, traceparent)
  SELECT tasks.delivery_id(), w.webhook_id, 'evt_' || z.task_id || '_' || z.sequence, 'task.' || v.status, z.at,
         jsonb_build_object(
           'task_id', z.task_id, 'task_type', z.kind, 'status', v.status, 'attempt', z.attempt,
           'max_attempts', z.max_attempts, 'error', CASE WHEN z.error_code IS NOT NULL THEN
             jsonb_build_object('code', z.error_code, 'message', left(z.error_message, 1000)) END),
         CASE WHEN z.state = {State.SUCCEEDED:d} AND octet_length(z.result) <= {MOST_RESULT_BYTES} THEN z.result END,
         z.traceparent
  FROM z JOIN (
    SELECT w.webhook_id, w.events, w.owner_id FROM tasks.webhook w
    WHERE w.owner_id = ANY(ARRAY(SELECT z.owner_id FROM z)) AND w.enabled OFFSET 0
  ) AS w USING (owner_id) CROSS JOIN LATERAL (
    SELECT CASE z.type WHEN '{EventType.SUCCEEDED}' THEN 'completed' ELSE z.type END AS status
  ) AS v
  WHERE w.events && ARRAY['*', 'task.*', 'task.' || v.status]
  ON CONFLICT (webhook_id, event_id) DO NOTHING RETURNING 1 AS told
"""
