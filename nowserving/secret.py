"""A webhook's secret as Standard Webhooks has it: `whsec_` and 24 to 64 random bytes in base64.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
"""

from __future__ import annotations

import base64
import secrets

PREFIX = "whsec_"
FEWEST_BYTES, MOST_BYTES = 24, 64
RULE = f"a secret is {PREFIX} and {FEWEST_BYTES} to {MOST_BYTES} bytes in base64"


def check_secret(text: str) -> str:
    """The secret itself. Raises ValueError, which does not repeat it."""
    encoded = text.removeprefix(PREFIX)
    try:
        size_bytes = len(base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True))
    except ValueError:
        size_bytes = 0
    if encoded == text or not FEWEST_BYTES <= size_bytes <= MOST_BYTES:
        raise ValueError(RULE)
    return text


def new_secret() -> str:
    """Make one."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
