"""What a job generates from. Pure."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from nowserving.parameters import STRICT


class Message(BaseModel):
    """One message of a chat."""

    model_config = STRICT

    role: Literal["system", "user", "assistant"]
    content: str


class Input(BaseModel):
    """What to generate from: exactly one of `prompt` (taken as it is) and `messages` (through the chat template)."""

    model_config = STRICT

    prompt: Annotated[str, StringConstraints(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self

    @property
    def size_bytes(self) -> int:
        """UTF-8 bytes of all text."""
        texts = [self.prompt] if self.prompt is not None else [m.content for m in self.messages or []]
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
