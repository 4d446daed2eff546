"""Where a model goes: tiers (width, back ends, forms, floors) and devices, read from the files of targets/.

A target file is TOML and is checked key by key: a wrong key or type is an error that names the file and the key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from edgegen.backends.registry import backend_names, find_backend
from edgegen.errors import InputError, unknown

OPERATION_FORMS = ("composed", "fused", "joined", "grouped")
INT8_FLOOR_DB = 38.0  # where a tier says nothing else of activations in int8
UNITS = ("npu", "gpu", "cpu")
RATE_PRECISIONS = ("int8", "float16", "float32")
UNCHECKED = "not checked against its page: "  # how a source starts that nobody has opened
REQUIRED = object()


@dataclass(frozen=True)
class BackendTarget:
    """How one back end gets the network: the form of its attention, its precision, and the floor it must reach."""

    name: str
    attention: str  # "split" or "batched", see rewrite/component.py
    query_chunk: int  # split: the most queries one einsum takes
    operations: str  # "composed"; "fused": a norm, rotation or attention is one; "joined", "grouped": split, with fewer
    precision: str  # of activations, and of weights that are not quantized: "float16" or "float32"
    floor_db: float  # the least PSNR of a component against fp32 PyTorch
    deployment_target: str | None = None  # Core ML and Core AI: the oldest system, such as "iOS17"
    activations: str = "float32"  # of layers with quantized weights; "int8": rounded as the layer runs
    quantized_floor_db: float | None = None  # of a component with quantized weights; None: floor_db
    default: bool = True  # whether commands take it where --backend names none
    chunk_mib: int | None = None  # the most MiB of weights of one program of the transformer; None: one program

    @property
    def floor_of_quantized_db(self) -> float:
        """The least PSNR of a component with quantized weights, against PyTorch with the same weights."""
        if self.quantized_floor_db is not None:
            return self.quantized_floor_db
        return INT8_FLOOR_DB if self.activations == "int8" else self.floor_db


@dataclass(frozen=True)
class Tier:
    """A class of devices: the width sliced for it and what each back end is given."""

    name: str
    summary: str
    width: float
    picture_floor_db: float  # the least PSNR of a picture after a whole trajectory
    backends: dict[str, BackendTarget]
    resolution: tuple[int, int] | None = None  # pixels, width and height; None: the checkpoint's own

    @property
    def default_backends(self) -> tuple[str, ...]:
        """The back ends that commands take where none is named."""
        return tuple(name for name, target in self.backends.items() if target.default)

    def backend(self, name: str) -> BackendTarget:
        """The target of one back end; an unknown name, or one this tier lacks, is an error that suggests another."""
        find_backend(name)
        if name not in self.backends:
            raise InputError(f"tier {self.name} has no back end {name}.", f"It has: {', '.join(self.backends)}.")
        return self.backends[name]


@dataclass(frozen=True)
class Figure:
    """A value of a device, and where it was read."""

    value: Any
    source: str

    @property
    def checked(self) -> bool:
        """Whether the source was opened and says so."""
        return not self.source.startswith(UNCHECKED)


@dataclass(frozen=True)
class Cluster:
    """Equal CPU cores and the most they are clocked at."""

    core: str
    count: int
    ghz: float


@dataclass(frozen=True)
class Unit:
    """A unit that computes: the rate its maker gives, or for a CPU the cores that it follows from.

    `tops` are 10^12 operations a second at `precision`; a multiply-add is two. `family` names the design that shares
    an efficiency, such as "Neural Engine".
    """

    kind: str  # "npu", "gpu" or "cpu"
    family: str
    source: str
    tops: float | None = None
    precision: str | None = None
    clusters: tuple[Cluster, ...] = ()

    @property
    def checked(self) -> bool:
        """Whether the source was opened and says so."""
        return not self.source.startswith(UNCHECKED)


@dataclass(frozen=True)
class Device:
    """A phone or tablet; what is not known stays None."""

    name: str
    title: str
    tier: str  # the tier that suits it
    chip: Figure
    year: Figure
    memory_gb: Figure | None = None
    app_memory_gb: Figure | None = None  # what one app may use of it; on iPhones without an entitlement for more
    bandwidth_gbs: Figure | None = None  # of the memory, 10^9 bytes a second at the most
    units: dict[str, Unit] = field(default_factory=dict)  # those whose rate is known

    @property
    def figures(self) -> dict[str, Figure | Unit]:
        """Everything with a source, by its table in the file, such as "memory_gb" or "units.npu"."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain: dict[str, Figure | Unit] = {name: value for name, value in values.items() if isinstance(value, Figure)}
        return plain | {f"units.{kind}": unit for kind, unit in self.units.items()}


def targets_folder() -> Path:
    """targets/ inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "targets", package.parent / "targets"):
        if (folder / "tiers").is_dir():
            return folder
    raise InputError(f"no targets/ in {package} or beside it.", "Reinstall edgegen.")


def list_tiers() -> list[Tier]:
    """Every tier that ships, narrowest first."""
    tiers = [read_tier(path) for path in (targets_folder() / "tiers").glob("*.toml")]
    return sorted(tiers, key=lambda tier: (tier.width, tier.name))


def list_devices() -> list[Device]:
    """Every device that ships, by name."""
    return [read_device(path) for path in sorted((targets_folder() / "devices").glob("*.toml"))]


def load_tier(name: str) -> Tier:
    """A tier by name, or by the path of a .toml file."""
    if name.endswith(".toml"):
        return read_tier(Path(name))
    return read_tier(find("tier", name))


def load_device(name: str) -> Device:
    """A device by name, or by the path of a .toml file."""
    if name.endswith(".toml"):
        return read_device(Path(name))
    return read_device(find("device", name))


def find(kind: str, name: str) -> Path:
    """The file of a shipped tier or device; an unknown name is an error that suggests the closest."""
    files = {path.stem: path for path in sorted((targets_folder() / f"{kind}s").glob("*.toml"))}
    if name not in files:
        raise unknown(kind, name, files)
    return files[name]


def read_tier(path: Path) -> Tier:
    """Parses and checks a tier file."""
    table = Table.read(path)
    backends = table.table("backends")
    resolution = table.numbers("resolution", 2)
    tier = Tier(
        name=table.folder_name("name"),
        summary=table.text("summary"),
        width=table.number("width", 0, 1),
        picture_floor_db=table.number("picture_floor_db", 0, 200),
        backends={name: read_backend(name, backends.table(name)) for name in backends.names_of(backend_names())},
        resolution=None if resolution is None else (resolution[0], resolution[1]),
    )
    table.refuse_others()
    if not tier.default_backends:
        raise backends.error("", "at least one back end that is a default", "none")
    return tier


def read_backend(name: str, table: Table) -> BackendTarget:
    """One `[backends.NAME]` table of a tier file."""
    backend = find_backend(name)
    target = BackendTarget(
        name=name,
        attention=table.choice("attention", backend.forms),
        query_chunk=table.integer("query_chunk", 1, 2**20, default=512),
        operations=table.choice("operations", OPERATION_FORMS, default="composed"),
        precision=table.choice("precision", backend.precisions),
        floor_db=table.number("floor_db", 0, 200),
        deployment_target=table.choice("deployment_target", backend.releases) if backend.releases else None,
        activations=table.choice("activations", backend.activations, default=backend.activations[0]),
        quantized_floor_db=table.number("quantized_floor_db", 0, 200, default=None),
        default=table.flag("default", default=True),
        chunk_mib=table.integer("chunk_mib", 1, 2**20, default=None) if backend.write_chunks else None,
    )
    table.refuse_others()
    return target


def read_device(path: Path) -> Device:
    """Parses and checks a device file."""
    table = Table.read(path)
    units = table.table("units") if table.get("units", "a table", None) is not None else None
    device = Device(
        name=table.folder_name("name"),
        title=table.text("title"),
        tier=table.text("tier"),
        chip=table.figure("chip", str),
        year=table.figure("year", int),
        memory_gb=table.optional_figure("memory_gb", float),
        app_memory_gb=table.optional_figure("app_memory_gb", float),
        bandwidth_gbs=table.optional_figure("bandwidth_gbs", float),
        units={kind: read_unit(kind, units.table(kind)) for kind in units.names_of(UNITS)} if units else {},
    )
    table.refuse_others()
    return device


def read_unit(kind: str, table: Table) -> Unit:
    """One `[units.KIND]` table of a device file."""
    if kind == "cpu":
        clusters = tuple(read_cluster(entry) for entry in table.tables("clusters"))
        unit = Unit(kind, table.text("family"), table.text("source"), clusters=clusters)
    else:
        unit = Unit(
            kind,
            table.text("family"),
            table.text("source"),
            table.number("tops", 0, 10_000),
            table.choice("precision", RATE_PRECISIONS),
        )
    table.refuse_others()
    return unit


def read_cluster(table: Table) -> Cluster:
    """One entry of `clusters`; its core must be in targets/cores.toml."""
    cluster = Cluster(table.choice("core", core_widths()), table.integer("count", 1, 64), table.number("ghz", 0, 10))
    table.refuse_others()
    return cluster


@cache
def core_widths() -> dict[str, int]:
    """fp32 multiply-adds a cycle of every CPU core in targets/cores.toml."""
    table = Table.read(targets_folder() / "cores.toml")
    widths: dict[str, int] = {}
    for entry in table.tables("cores"):
        width = entry.integer("macs_per_cycle", 1, 1024)
        entry.text("source")
        widths |= dict.fromkeys(entry.strings("names"), width)
        entry.refuse_others()
    table.refuse_others()
    return widths


class Table:
    """A TOML table that is read key by key; what is missing, of a wrong type or left over is an error."""

    def __init__(self, path: Path, values: dict[str, Any], prefix: str = ""):
        self.path, self.values, self.prefix = path, values, prefix
        self.read_keys: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> Table:
        try:
            return cls(path, tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"cannot read {path}: {reason}.", "Give an existing .toml file.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not TOML: {error}.", "Correct the file.") from None

    def error(self, key: str, expected: str, found: Any) -> InputError:
        return InputError(f"{self.path}: {self.prefix}{key} must be {expected}, found {found}.", "Correct the file.")

    def get(self, key: str, expected: str, default: Any = REQUIRED) -> Any:
        self.read_keys.add(key)
        if key in self.values:
            return self.values[key]
        if default is REQUIRED:
            raise self.error(key, expected, "nothing")
        return default

    def text(self, key: str) -> str:
        value = self.get(key, "a string")
        if not isinstance(value, str) or not value:
            raise self.error(key, "a string", repr(value))
        return value

    def folder_name(self, key: str) -> str:
        value = self.text(key)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
            raise self.error(key, "letters, digits, '.', '_' and '-'", repr(value))
        return value

    def choice(self, key: str, known: Iterable[str], default: Any = REQUIRED) -> str:
        expected = f"one of {', '.join(known)}"
        value = self.get(key, expected, default)
        if value not in known:
            raise self.error(key, expected, repr(value))
        return value

    def number(self, key: str, above: float, upto: float, default: Any = REQUIRED) -> Any:
        expected = f"a number above {above:g} and up to {upto:g}"
        value = self.get(key, expected, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= upto:
            raise self.error(key, expected, repr(value))
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, "true or false", default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false", repr(value))
        return value

    def integer(self, key: str, least: int, most: int, default: Any = REQUIRED) -> Any:
        expected = f"an integer from {least} to {most}" if least < most else str(least)
        value = self.get(key, expected, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(key, expected, repr(value))
        return value

    def numbers(self, key: str, count: int) -> list[int] | None:
        expected = f"{count} positive integers"
        value = self.get(key, expected, None)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or any(type(v) is not int or v < 1 for v in value):
            raise self.error(key, expected, repr(value))
        return value

    def strings(self, key: str) -> list[str]:
        value = self.get(key, "a list of strings")
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, "a list of strings", repr(value))
        return value

    def tables(self, key: str) -> list[Table]:
        value = self.get(key, "a list of tables")
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "a list of tables", repr(value))
        return [Table(self.path, item, f"{self.prefix}{key}[{i}].") for i, item in enumerate(value)]

    def table(self, key: str) -> Table:
        value = self.get(key, "a table")
        if not isinstance(value, dict):
            raise self.error(key, "a table", repr(value))
        return Table(self.path, value, f"{self.prefix}{key}.")

    def names_of(self, known: Iterable[str]) -> list[str]:
        """The keys of this table, in the order of `known`; another key is an error."""
        self.read_keys |= set(known)
        self.refuse_others()
        return [name for name in known if name in self.values]

    def figure(self, key: str, kind: type) -> Figure:
        table = self.table(key)
        value = table.get("value", f"a {kind.__name__}")
        accepted = (int, float) if kind is float else (kind,)
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise table.error("value", f"a {kind.__name__}", repr(value))
        if isinstance(value, int | float) and not 0 < value < 1e6:
            raise table.error("value", "above 0", repr(value))
        figure = Figure(kind(value), table.text("source"))
        table.refuse_others()
        return figure

    def optional_figure(self, key: str, kind: type) -> Figure | None:
        self.read_keys.add(key)
        return self.figure(key, kind) if key in self.values else None

    def refuse_others(self) -> None:
        """An error for the first key that nobody read, with the closest known one."""
        for key in self.values:
            if key not in self.read_keys:
                close = difflib.get_close_matches(key, self.read_keys, 1, cutoff=0.4)
                hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(sorted(self.read_keys))}."
                raise InputError(f"{self.path}: unknown key {self.prefix}{key}.", hint)
