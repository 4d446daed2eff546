"""Recipes: TOML files that say what a stage trains and how, checked key by key and changed by `key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgegen.errors import InputError, unknown
from edgegen.model.checkpoint_config import PROMPTS
from edgegen.model.config import PRESETS, DiTConfig
from edgegen.model.sampler import SamplerConfig
from edgegen.schema import from_values
from edgegen.train.data.dataset import DataConfig
from edgegen.train.run.registry import STAGES, find_stage


@dataclass(frozen=True)
class Recipe:
    """One stage: the network's configuration and the training's, of the kinds its stage names, and the user's data."""

    stage: str
    model: Any
    training: Any
    data: DataConfig = field(default_factory=DataConfig)

    def to_dict(self) -> dict[str, Any]:
        values = {"stage": self.stage, "model": asdict(self.model), "training": asdict(self.training)}
        return values | {"data": asdict(self.data)} if STAGES[self.stage].takes_data else values


@dataclass(frozen=True)
class Assembly:
    """What a checkpoint says beside its weights; `prompts` verify it and draw its samples."""

    name: str = "emoji"
    prompts: tuple[str, ...] = PROMPTS
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    limit_mb: float = 40.0  # all weights together, in fp16
    note: str = ""  # what else the model card should say of how the weights came about

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A stage's recipe by name or from a .toml file, with `overrides` of the form `key=value` or `model.key=value`."""
    path, values = read_toml(source, tuple(STAGES))
    find_stage(str(values.get("stage")), path)
    return make_recipe(path, override(values, overrides, "training"))


def stage_of(path: str) -> str:
    """The stage that a recipe file is for."""
    return find_stage(str(read_toml(path, ())[1].get("stage")), path).name


def load_assembly(source: str | Path = "assemble", overrides: Sequence[str] = ()) -> Assembly:
    """The settings of `edgegen train assemble`, bundled or from a .toml file."""
    path, values = read_toml(source, ("assemble",))
    values = override(values, overrides, "sampler", top=[f.name for f in fields(Assembly)])
    sampler = read_settings(path, SamplerConfig, values.get("sampler", {}), "sampler")
    return read_settings(path, Assembly, values | {"sampler": sampler}, "")


def make_recipe(path: str, values: dict[str, Any]) -> Recipe:
    """Checks every key and type of a parsed recipe; `preset` in an elastic model is a start for the rest."""
    stage = STAGES[values["stage"]]
    tables = ("stage", "model", "training", "data")[: 4 if stage.takes_data else 3]
    for key in values:
        if key not in tables:
            raise unknown(f"key in {path}", key, tables)
    config, training = stage.settings()
    model = with_preset(path, values.get("model", {})) if config is DiTConfig else values.get("model", {})
    return Recipe(
        stage.name,
        read_settings(path, config, model, "model"),
        read_settings(path, training, values.get("training", {}), "training"),
        read_settings(path, DataConfig, values.get("data", {}), "data"),
    )


def with_preset(path: str, model: dict[str, Any]) -> dict[str, Any]:
    """The model settings of a preset, changed by the others given."""
    if not isinstance(model, dict) or "preset" not in model:
        return model  # what is no table is refused where settings are read
    name = str(model["preset"])
    if name not in PRESETS:
        raise unknown(f"preset in {path}", name, PRESETS)
    return PRESETS[name].to_dict() | {key: value for key, value in model.items() if key != "preset"}


def read_settings(path: str, kind: type, values: Any, where: str) -> Any:
    """A configuration from parsed values; errors name the file."""
    try:
        return from_values(kind, values, where)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.remedy or "Correct the recipe.") from None


def read_toml(source: str | Path, known: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The name for messages and the parsed table of a bundled recipe or a .toml file."""
    name = str(source)
    if name.endswith(".toml"):
        text = read_file(Path(name))
    elif name in known:
        text = files("edgegen.train").joinpath(f"recipes/{name}.toml").read_text(encoding="utf-8")
    else:
        raise unknown("recipe", name, known)
    try:
        return name, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is not TOML: {error}.", "Correct the file.") from None


def read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}.", "Give an existing .toml file.") from None


def override(values: dict[str, Any], overrides: Sequence[str], table: str, top: Sequence[str] = ()) -> dict[str, Any]:
    """The values with each `key=value` put in; a key without a dot belongs to `table`, unless it is one of `top`."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"cannot read {item!r}.", "Write key=value, such as steps=100.")
        path = key.strip().split(".")
        put_(values, path if len(path) > 1 or path[0] in top else [table, *path], parse_value(text.strip()))
    return values


def put_(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Sets a value in nested tables, made on the way where they are missing."""
    *tables, last = path
    for name in tables:
        inner = values.get(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"{'.'.join(path)} cannot be set: {name} is {inner!r}, not a table.")
        values[name] = dict(inner)
        values = values[name]
    values[last] = value


def parse_value(text: str) -> Any:
    """A TOML value; what is not one is taken as a string, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
