"""What the tables are made of: types that mean the same in SQLite and in PostgreSQL."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Dialect, ForeignKey, Integer, MetaData, String, Text
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeDecorator, TypeEngine

METADATA: Final = MetaData()


class _ServerText(TypeDecorator[str]):
    """PostgreSQL's text, which sorts by code points and holds no NUL: it becomes U+FFFD.

    People ask for things by names with anything in them; the answer is that there is no such thing,
    on either database.
    """

    impl = TEXT(collation="C")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\0", "\ufffd") if value is not None and "\0" in value else value


def text_type(max_chars: int | None = None) -> TypeEngine[str]:
    """Return the type of a text, which sorts by code points everywhere.

    SQLite does that and keeps to no length. PostgreSQL would sort by the language of the database,
    and refuse what is too long; lengths are the concern of what parses, so that a store never fails
    at what is already inside.
    """
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(_ServerText(), "postgresql")


INTEGER: Final = Integer().with_variant(BigInteger(), "postgresql")
"""Of 64 bits on both, and on SQLite one that numbers rows by itself."""


def device_key() -> Column[str]:
    return Column(
        "device", text_type(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )
