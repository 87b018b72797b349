"""Arrow data from other writers in the plain types that every kernel of pyarrow knows.

polars writes `string_view`, pandas `large_string` and dictionaries. pyarrow reads them so from
Parquet, but cannot take, filter or look up views, so they are made plain before anything else.
"""

from typing import Any, TypeVar

import pyarrow as pa

_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)


def plain(rows: _Rows) -> _Rows:
    """`rows` (a table or batch) with strings, bytes and lists of the one plain type each.

    Bytes are not looked at: text that is not UTF-8 stays as it is. Raises pyarrow's errors for
    a column of more than 2 GiB.
    """
    schema = pa.schema([field.with_type(plain_type(field.type)) for field in rows.schema])
    if schema.equals(rows.schema):  # as all of our own files: nothing is copied
        return rows
    # list views first, by hand; the cast does the rest
    columns = [_listed(column) for column in rows.columns]
    return type(rows).from_arrays(columns, names=rows.schema.names).cast(schema)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The plain type that holds the same values as `kind`."""
    if kind in (pa.string_view(), pa.large_string()):
        return pa.string()
    if kind in (pa.binary_view(), pa.large_binary()):
        return pa.binary()
    # a dictionary, or a list of them, holds what its entries are
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    # a map has value_field too, and is no list
    if pa.types.is_map(kind) or not hasattr(kind, "value_field"):
        return kind
    return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))


def _listed(column: Any) -> Any:
    """A column of list views as lists, by way of Python: pyarrow 26's own cast gives other
    values.
    """
    viewed = pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type)
    return pa.array(column.to_pylist(), plain_type(column.type)) if viewed else column
