"""Ids that a person typed, in the type that they have in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def typed_id(text: str, kind: pa.DataType, what: str, of: str) -> Any:
    """An id from its text.

    Args:
        text: as typed.
        kind: type of the ids in the log.
        what: for the message, such as "--user".
        of: likewise, "user" or "item".

    Raises:
        ValueError: the text is no id of that type.
    """
    import pyarrow as pa

    try:
        return pa.scalar(text).cast(kind).as_py()
    except pa.ArrowInvalid:
        raise ValueError(f"{what} {text!r}: {of} ids are of type {kind}") from None
