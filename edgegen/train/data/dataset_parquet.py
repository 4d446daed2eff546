"""A dataset as Hugging Face parquet files: a column `image` of {bytes, path} or plain bytes, and a column of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgegen.errors import EdgegenError, InputError
from edgegen.train.data.dataset_sample import CAPTION_KEYS, Problems, Sample, clean_captions

PARQUET_SUFFIXES = (".parquet",)
ROWS = 64  # read at once


def arrow() -> Any:
    """pyarrow's parquet reader, which is an extra."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise EdgegenError(
            "reading parquet needs pyarrow, which is not installed.", "pip install 'edgegen[data]'."
        ) from None
    return pyarrow


def read_parquet(
    path: Path, name: str, problems: Problems, image_column: str = "", text_column: str = ""
) -> Iterator[Sample]:
    """The rows of one file; a file without the columns is an InputError, a damaged one a problem."""
    pyarrow = arrow()
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problems.add(name, "damaged parquet file", first_line(error))
        return
    with file:
        image, text = find_columns(pyarrow, file.schema_arrow, path, image_column, text_column)
        row = 0
        try:
            for batch in file.iter_batches(ROWS, columns=[image, text]):
                for picture, caption in zip(*(batch.column(c).to_pylist() for c in (image, text)), strict=True):
                    sample = make_sample(path, f"{name}:{row}", picture, caption, problems)
                    row += 1
                    if sample is not None:
                        yield sample
        except (pyarrow.ArrowException, OSError) as error:
            problems.add(name, "damaged parquet file", f"after {row} rows: {first_line(error)}")


def find_columns(pyarrow: Any, schema: Any, path: Path, image_column: str, text_column: str) -> tuple[str, str]:
    """The names of the two columns; what was looked for and what is there, when one is missing."""
    there = ", ".join(f"{field.name} ({field.type})" for field in schema)
    pictures = [field.name for field in schema if holds_pictures(pyarrow, field.type)]
    texts = [field.name for field in schema if holds_text(pyarrow, field.type)]
    image = image_column or ("image" if "image" in pictures else pictures[0] if len(pictures) == 1 else "")
    text = text_column or next((key for key in CAPTION_KEYS if key in texts), texts[0] if len(texts) == 1 else "")
    if image not in pictures:
        raise InputError(
            f"{path} has no picture column {image or 'image'!r} of {{bytes, path}} or binary; it has {there}.",
            "Name one with --set data.image_column=NAME.",
        )
    if text not in texts:
        wanted = repr(text) if text else f"named {', '.join(CAPTION_KEYS)}"
        raise InputError(
            f"{path} has no text column {wanted}; it has {there}.", "Name one with --set data.text_column=NAME."
        )
    return image, text


def holds_pictures(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    if types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    return types.is_binary(kind) or types.is_large_binary(kind)


def holds_text(pyarrow: Any, kind: Any) -> bool:
    types = pyarrow.types
    kind = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind)


def make_sample(path: Path, key: str, picture: Any, caption: Any, problems: Problems) -> Sample | None:
    """A sample of one row, or a problem."""
    data = picture.get("bytes") if isinstance(picture, dict) else picture
    if not data and isinstance(picture, dict) and picture.get("path"):
        problems.add(key, "picture stored outside the file", f"{picture['path']}; embed its bytes")
        return None
    if not data:
        problems.add(key, "row without a picture")
        return None
    try:
        captions = clean_captions(caption if isinstance(caption, list) else [caption])
    except ValueError as error:
        problems.add(key, "unreadable caption", str(error))
        return None
    if not captions:
        problems.add(key, "empty caption")
        return None
    return Sample(key, captions, data)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
