"""Kind `sentiment_analysis`: how a text feels, by VADER's lexicon and rules (Hutto and Gilbert, 2014). English.

It knows nothing of channels: what else the payload carries is for those who read the task.
"""

import re
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from chassis.clock import Clock
from worker.handler import INVALID_INPUT, Assignment, Reject

_MAX_CHARACTERS = 100_000
_MAX_PART_CHARACTERS = 1000
_SENTENCE_END = re.compile(r"[.!?]+\s|\n")
# The thresholds that VADER's authors give for its compound score, which lies between -1 and 1.
_POSITIVE = 0.05
_NEGATIVE = -0.05


class Sentiment:
    """Takes ``{"text"}``, returns ``{"sentiment", "confidence", "processing_time"}``.

    `sentiment` is positive, neutral or negative. `confidence`, 0 to 1, is for positive and negative texts how far the
    compound score is on its side of the scale, from 0.5 at its threshold to 1 at its end; for neutral ones it is the
    share of the text that carries no feeling.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Reads its lexicon of 7,500 words once; scoring does not change it, so threads may share it.
        self._analyzer = SentimentIntensityAnalyzer()

    def handle(self, assignment: Assignment) -> dict[str, Any]:
        """One attempt. Raises Reject for a text that is none."""
        text = assignment.payload.get("text") if isinstance(assignment.payload, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise Reject(INVALID_INPUT, "text must be a string that is not empty")
        if len(text) > _MAX_CHARACTERS:
            raise Reject(INVALID_INPUT, f"text must have at most {_MAX_CHARACTERS} characters")
        began = self._clock.monotonic()
        sentiment, confidence = judge(*self._score(text))
        seconds = self._clock.monotonic() - began
        return {
            "sentiment": sentiment,
            "confidence": round(confidence, 4),
            "processing_time": f"{seconds:.6f}s",
        }

    def _score(self, text: str) -> tuple[float, float]:
        """Compound score and neutral share; of a long text the means over its parts, weighted by length."""
        parts = split(text)
        scores = [self._analyzer.polarity_scores(part) for part in parts]
        size = sum(map(len, parts))
        compound, neutral = (
            sum(score[name] * len(part) for score, part in zip(scores, parts, strict=True)) / size
            for name in ("compound", "neu")
        )
        return compound, neutral


def split(text: str) -> list[str]:
    """Parts of at most 1,000 characters, cut between sentences where there are any, else between words, else anywhere.

    VADER is made for sentences and paragraphs: its compound score saturates over long texts, and its time grows with
    the square of their length (90,000 characters took 33 s in one piece).
    """
    parts, rest = [], text.strip()
    while len(rest) > _MAX_PART_CHARACTERS:
        head = rest[:_MAX_PART_CHARACTERS]
        ends = [match.end() for match in _SENTENCE_END.finditer(head)]
        cut = ends[-1] if ends else head.rfind(" ") + 1 or _MAX_PART_CHARACTERS
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [part for part in [*parts, rest] if part]


def judge(compound: float, neutral_share: float) -> tuple[str, float]:
    """The sentiment of a compound score, and how sure that is."""
    if compound >= _POSITIVE:
        return "positive", 0.5 + 0.5 * (compound - _POSITIVE) / (1 - _POSITIVE)
    if compound <= _NEGATIVE:
        return "negative", 0.5 + 0.5 * (_NEGATIVE - compound) / (1 + _NEGATIVE)
    return "neutral", neutral_share
