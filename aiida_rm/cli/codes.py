"""Which codes there are, for those who named one that is not."""

from __future__ import annotations

from aiida import orm

#: Not `AbstractCode`, for which the QueryBuilder finds all data.
_KINDS = (orm.InstalledCode, orm.PortableCode, orm.ContainerizedCode)


def known_codes(most: int = 10) -> list[str]:
    """Full labels of the codes of this profile, the first few by name."""
    codes = orm.QueryBuilder().append(_KINDS).all(flat=True)
    return sorted(str(code.full_label) for code in codes)[:most]
