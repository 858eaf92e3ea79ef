"""JSON lines on stdout, each with the service and, inside a request, the trace id."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

from chassis import telemetry

# Their errors are ours to tell, once: link.py says when the broker is away, and when it is back.
_SILENT = ("aio_pika", "aiormq")
_NOISY = ("asyncio", "httpx", "urllib3", "watchfiles")


def configure(service: str, level: str) -> None:
    """Sends structlog and the standard library's logging through one JSON formatter."""

    def add_context(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        if traceparent := telemetry.current_traceparent():
            event["trace_id"], event["span_id"] = traceparent[3:35], traceparent[36:52]
        return event

    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        add_context,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_dump),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _dump(event: Any, **options: Any) -> str:
    return orjson.dumps(event, default=options.get("default", str)).decode()


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for a module: ``log = get_logger(__name__)``; events are sentences, values are keywords."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
