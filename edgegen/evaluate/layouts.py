"""Pictures in the folders that the official scorers of GenEval and DPG-Bench read.

GenEval (djghosh13/geneval, README and evaluation/evaluate_images.py): `<out>/00000/metadata.jsonl` holds the prompt's
own line, `<out>/00000/samples/0000.png` and on its pictures, four a prompt; names must be digits.

DPG-Bench (TencentQQGYLab/ELLA, dpg_bench/compute_dpg_bench.py): `<out>/<id>.png` is one grid of 2 x 2 pictures a
prompt, in reading order, each `--resolution` pixels wide; `<id>` is the item_id of dpg_bench.csv and the name of the
prompt's file, up to its first dot. Every file of the folder is taken for a grid, so nothing else is left in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.callbacks import Advance
from edgegen.errors import InputError
from edgegen.evaluate.drawing import Draw, batches
from edgegen.files import PARTIAL, disk_errors, whole_file
from edgegen.pictures import save_picture
from edgegen.strict_json import parse_json, read_text

SAMPLES = 4  # pictures a prompt, as both benchmarks draw
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
GENEVAL_FORM = 'Each line is {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "two dogs"}.'
DPG_FORM = 'Give a folder of <id>.txt files, or lines of {"item_id": "0", "text": "a dog"}.'


@dataclass(frozen=True)
class Item:
    """A prompt of DPG-Bench and the name of its picture."""

    id: str
    prompt: str


def read_geneval(path: Path) -> list[dict[str, Any]]:
    """The lines of a GenEval metadata file; the first that is not of its form is an error with its number."""
    rows = read_lines(path, GENEVAL_FORM)
    for number, row in rows:
        if row.get("tag") not in TAGS:
            raise InputError(f"{path}:{number}: tag {row.get('tag')!r} is none of {', '.join(TAGS)}.", GENEVAL_FORM)
        included = row.get("include")
        if not isinstance(included, list) or not included or not all(is_requirement(one) for one in included):
            raise InputError(f"{path}:{number}: include must list classes with counts.", GENEVAL_FORM)
        check_prompt(path, number, row.get("prompt"), GENEVAL_FORM)
    return [row for _, row in rows]


def is_requirement(value: Any) -> bool:
    """Whether a value says which thing must be there, and how often."""
    return isinstance(value, dict) and isinstance(value.get("class"), str) and isinstance(value.get("count"), int)


def read_dpg(path: Path) -> list[Item]:
    """The prompts of DPG-Bench: a folder of `<id>.txt`, or a file of JSON lines with item_id and text (or prompt)."""
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise InputError(f"{path} has no .txt files.", DPG_FORM)
        items = [(file.stem, read_text(file, DPG_FORM).strip(), str(file)) for file in files]
    else:
        items = [
            (str(row.get("item_id", "")), row.get("text", row.get("prompt")), f"{path}:{number}")
            for number, row in read_lines(path, DPG_FORM)
        ]
    for name, prompt, where in items:
        if not name or set(name) & set("./\\"):
            raise InputError(f"{where}: item_id {name!r} is no file name without a dot.", DPG_FORM)
        check_prompt(Path(where), None, prompt, DPG_FORM)
    names = [name for name, _, _ in items]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) != len(names) else []
    if twice:
        raise InputError(f"{path} has item_id {twice[0]!r} twice.", "Give each prompt one of its own.")
    return [Item(name, prompt) for name, prompt, _ in items]


def read_lines(path: Path, form: str) -> list[tuple[int, dict[str, Any]]]:
    """Number, from 1, and object of every line that is not empty."""
    rows = []
    for number, line in enumerate(read_text(path, form).splitlines(), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}:{number}", form)
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number} is no JSON object.", form)
        rows.append((number, row))
    if not rows:
        raise InputError(f"{path} has no prompts.", form)
    return rows


def check_prompt(path: Path, number: int | None, prompt: Any, form: str) -> None:
    """Refuses what is not a prompt."""
    if not isinstance(prompt, str) or not prompt.strip():
        where = str(path) if number is None else f"{path}:{number}"
        raise InputError(f"{where}: the prompt is {prompt!r}.", form)


def write_geneval(
    out: Path,
    rows: list[dict[str, Any]],
    draw: Draw,
    samples: int = SAMPLES,
    batch: int = 16,
    advance: Advance = lambda done, of: None,
) -> None:
    """Draws `samples` pictures a prompt, picture i of prompt i // samples; those that are there are kept."""
    check_sources(
        out,
        [row["prompt"] for row in rows],
        lambda index: out / f"{index:05}" / "metadata.jsonl",
        lambda path: read_lines(path, GENEVAL_FORM)[0][1].get("prompt"),
    )
    remove_partial_(out)
    with disk_errors(out.absolute()):
        for index, row in enumerate(rows):
            folder = out / f"{index:05}"
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            write_text(folder / "metadata.jsonl", json.dumps(row) + "\n")
    places = [out / f"{i // samples:05}" / "samples" / f"{i % samples:04}.png" for i in range(len(rows) * samples)]
    missing = [index for index, place in enumerate(places) if not place.is_file()]
    done = len(places) - len(missing)
    for indices in batches(missing, batch):
        for index, picture in zip(indices, draw(indices), strict=True):
            save_picture(picture, places[index])
        done += len(indices)
        advance(done, len(places))


def write_text(path: Path, text: str) -> None:
    """A text file that appears whole."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partial_(folder: Path) -> None:
    """Removes what a run that was killed was writing, since scorers read every file."""
    for left in folder.rglob(f"{PARTIAL}*"):
        left.unlink()


def check_sources(out: Path, prompts: list[str], place: Callable[[int], Path], read: Callable[[Path], Any]) -> None:
    """Refuses a folder with pictures of other prompts."""
    if out.is_file():
        raise InputError(f"{out} is a file.", "Choose another folder with --out.")
    for index, prompt in enumerate(prompts):
        path = place(index)
        if path.is_file() and read(path) != prompt:
            raise InputError(f"{path} is of another prompt than {prompt!r}.", "Choose another folder with --out.")
    if place(len(prompts)).is_file():
        raise InputError(
            f"{out} has pictures of more than these {len(prompts)} prompts.", "Choose another folder with --out."
        )


def write_dpg(
    out: Path, items: list[Item], draw: Draw, batch: int = 16, advance: Advance = lambda done, of: None
) -> None:
    """Draws a grid of 2 x 2 pictures a prompt, pictures 4 i to 4 i + 3; grids that are there are kept."""
    if out.is_file():
        raise InputError(f"{out} is a file.", "Choose another folder with --out.")
    names = {f"{item.id}.png" for item in items}
    remove_partial_(out)
    strange = sorted(path.name for path in out.iterdir() if path.name not in names) if out.is_dir() else []
    if strange:
        raise InputError(
            f"{out} holds {strange[0]}, which is none of these prompts.",
            "Choose another folder with --out: the scorer reads every file in it.",
        )
    with disk_errors(out.absolute()):
        out.mkdir(parents=True, exist_ok=True)
    missing = [index for index, item in enumerate(items) if not (out / f"{item.id}.png").is_file()]
    done = len(items) - len(missing)
    for chunk in batches(missing, max(1, batch // SAMPLES)):
        pictures = draw([SAMPLES * index + k for index in chunk for k in range(SAMPLES)])
        for row, index in enumerate(chunk):
            save_picture(grid(pictures[SAMPLES * row : SAMPLES * (row + 1)]), out / f"{items[index].id}.png")
        done += len(chunk)
        advance(done, len(items))


def grid(pictures: np.ndarray) -> np.ndarray:
    """Four pictures (4,H,W,3) as one (2H,2W,3), in reading order."""
    return np.concatenate([np.concatenate(list(pictures[row : row + 2]), 1) for row in (0, 2)], 0)
