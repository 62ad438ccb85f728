"""How one job is to be generated. Pure; what came later than the first version is left out where it is not used."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints

LATER = ("min_p", "repetition_penalty", "stop_token_ids", "ignore_eos")
"""Parameters that code of version 1 does not know: it would refuse a record that names them."""


STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
"""What a client sends has no unknown field, no number that is none, and is not converted."""


NewTokens = Annotated[int, Field(ge=1, le=1_000_000)]
Temperature = Annotated[float, Field(ge=0, le=10)]
Stops = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=16), FailFast()
]


class Parameters(BaseModel):
    """How to generate. temperature 0 is greedy; top_p 1, top_k 0 and min_p 0 cut nothing; repetition_penalty 1 changes
    nothing; the same seed gives the same text.
    """

    model_config = STRICT

    max_new_tokens: Annotated[
        NewTokens,
        Field(
            description="Without it 256, or the model's limit if that is lower.",
            # Clients that are made of the schema send what it calls a default.
            json_schema_extra=lambda schema: schema.pop("default", None),
        ),
    ] = 256
    temperature: Temperature = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    min_p: Annotated[
        float, Field(ge=0, le=1, description="Cut tokens less likely than this share of the likeliest's probability.")
    ] = 0.0
    repetition_penalty: Annotated[
        float, Field(ge=0.01, le=10, description="Above 1 tokens of the prompt and the text so far get less likely.")
    ] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stops = []
    stop_token_ids: Annotated[
        list[Annotated[int, Field(ge=0)]],
        Field(max_length=64, description="Tokens that end the text, beside the model's own; they have no text."),
        FailFast(),
    ] = []
    ignore_eos: Annotated[
        bool, Field(description="Go on after the model's own end; stop and stop_token_ids still end the text.")
    ] = False

    @property
    def unused(self) -> frozenset[str]:
        """Those of LATER that say nothing: a record without them is the same."""
        fields = type(self).model_fields
        return frozenset(name for name in LATER if getattr(self, name) == fields[name].default)

    @property
    def version(self) -> int:
        """The oldest version of records that can hold them."""
        return 1 if len(self.unused) == len(LATER) else 2
