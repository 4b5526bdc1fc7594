"""Finding, composing and resolving the configuration, and explaining its errors."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

import prunelab
from prunelab.cli.deployment import stored_precision
from prunelab.cli.former_names import present_words, with_former_names, without_former_names
from prunelab.cli.naming import run_names
from prunelab.errors import UserError, nearest
from prunelab.records.known_keys import check_keys

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
PACKAGED_CONF = "prunelab.conf"
PREFER = "prefer"
"""``${prefer:${a.b},other}`` in conf/ is the value of ``a.b``, or ``other`` where that is null."""
REFERENCE = re.compile(rf"\$\{{([\w.]+)\}}|\$\{{{PREFER}:\$\{{([\w.]+)\}},\w+\}}")

ARGUMENTS = "model.arguments"
"""The group to which every argument of a network can be added."""

NEEDED = ("method", "budget", "model", "data", "recipe")
"""The groups without which there is no run."""

WITH_LATENCY = "with_latency"
"""``${with_latency:${a.b},${c}}`` in conf/ is ``c``, or null where ``a.b`` is null."""

OmegaConf.register_new_resolver(
    WITH_LATENCY, lambda latency, target: None if latency is None else target, replace=True
)
EXPORTED = "exported"
"""``${exported:${precision.name},onnx}`` in conf/ is the number format in which a file for another runtime holds this
precision."""

OmegaConf.register_new_resolver(EXPORTED, stored_precision, replace=True)
OmegaConf.register_new_resolver(PREFER, lambda value, other: other if value is None else value, replace=True)


def conf_location() -> str:
    """Hydra's ``config_path``: the configuration inside an installed wheel, else the checkout's conf/."""
    if importlib.util.find_spec(PACKAGED_CONF) is not None:
        return f"pkg://{PACKAGED_CONF}"
    return str(Path(prunelab.__file__).resolve().parents[2] / "conf")


def conf_folder() -> Traversable:
    """The folder of the configuration's files, wherever they are."""
    location = conf_location()
    packaged = location.startswith("pkg://")
    return files(location.removeprefix("pkg://")) if packaged else Path(location)


def configure(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved configuration of ``prunelab`` with the same words on the command line.

    Raises:
        UserError: an unknown choice or key, a missing or impossible value.
    """
    config = _explained(overrides)
    own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    return resolve(own, config.hydra.runtime)


def configure_part(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """One group of the resolved configuration, such as ``model``; the others may miss values."""
    return dict(configure_parts((name,), overrides)[0])


def configure_parts(names: Sequence[str], overrides: Sequence[str] = ()) -> list[Any]:
    """Several groups or keys of the resolved configuration."""
    config = _explained(overrides)
    parts = [config[name] for name in names]
    return [_plain(part) if isinstance(part, DictConfig) else part for part in parts]


def references(overrides: Sequence[str]) -> dict[str, str]:
    """The settings that refer to another one, such as method.seed, by their dotted names, and the name of the other.

    Raises:
        UserError: an unknown choice or key.
    """
    plain = OmegaConf.to_container(_explained(overrides), resolve=False)
    assert isinstance(plain, dict)
    found = {}
    for name in dotted({key: value for key, value in plain.items() if key != "hydra"}):
        *parents, last = name.split(".")
        value: Any = plain
        for part in (*parents, last):
            value = value[part]
        if isinstance(value, str) and (whole := REFERENCE.fullmatch(value)):
            found[name] = whole[1] or whole[2]
    return found


def resolve(config: DictConfig, runtime: Any) -> dict[str, Any]:
    """``config`` as plain data; its ``names`` are those of the method, model, data and recipe in records.

    Args:
        runtime: ``hydra.runtime`` of the configuration, which holds the choices and their folders.

    Raises:
        UserError: a value is missing, or a key does not exist.
    """
    if missing := [group for group in NEEDED if group not in config]:
        raise UserError(_needed(missing[0]))
    if lists := [group for group in NEEDED if not isinstance(runtime.choices.get(group), str)]:
        raise UserError(_choose(f"{lists[0]}=[...]", lists[0]))
    values = without_former_names(_plain(with_former_names(config)))
    check_keys(values)
    # A folder may be called 2024, which YAML reads as a number.
    folders = {key: str(values[key]) for key in ("study", "outputs") if type(values.get(key)) is int}
    if not isinstance(outputs := folders.get("outputs", values["outputs"]), str):
        raise UserError(f"outputs={outputs} is not a folder. Write outputs=FOLDER.")
    return {"names": run_names(values, runtime), **values, **folders}


def explain(error: HydraException | ValueError, overrides: Sequence[str]) -> str:
    """One message about the error in the command line, with the nearest names."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if group == "model" and _is_of_timm(choice):
            return f"conf/model has no file for {choice!r}, but it is a network of timm: model=timm model.name={choice}"
        return f"There is no {group} called {choice!r}. {nearest(choice, error.options)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return _choose(f"{group}=[...]", group)
    if isinstance(error, OverrideParseException):
        return _not_understood(error.override)
    if "Config group override must be" in str(error):
        word = next(
            (word for word in overrides if re.fullmatch(r"[\w/]*=(null|true|false|[^a-zA-Z]+)", word)), ""
        )
        group = word.partition("=")[0]
        return _choose(word, group) if group else _not_understood(word)
    if isinstance(error, ConfigCompositionException):
        text = str(error)
        if unknown := re.search(r"Could not override '([^']+)'", text):
            group = unknown[1].partition(".")[0]
            return _needed(group) if f"~{group}" in overrides else _unknown_key(unknown[1], overrides)
        if "Could not delete from config" in text:
            word = next((word for word in overrides if word.startswith("~")), "~")
            return f"{word!r}: a key cannot be removed. To set it to nothing write {word[1:].partition('=')[0]}=null."
        if "requires --multirun" in text or "To sweep over it, add --multirun" in text:
            several = next((word for word in overrides if "," in word), "")
            return f"{several!r} gives several values. To run them all: prunelab -m {' '.join(overrides)}"
    return " ".join([_first_line(error), *([_first_line(error.__cause__)] if error.__cause__ else [])])


def _needed(group: str) -> str:
    """The message for a group that was removed with ``~group``."""
    how = (
        "set what to keep, such as budget.flops=0.5" if group == "budget" else f"choose one with {group}=NAME"
    )
    return f"A run has a {group}: {how}, and leave '~{group}' out."


def _choose(word: str, group: str) -> str:
    """The message for a group of the configuration whose choice is not the name of a file."""
    names = sorted(
        entry.name.removesuffix(".yaml")
        for entry in (conf_folder() / group).iterdir()
        if entry.name.endswith(".yaml")
    )
    return (
        f"{word!r}: choose one file of {group} by its name ({', '.join(names)}). "
        f"To set a key in it write {group.replace('/', '.')}.KEY=VALUE."
    )


def _is_of_timm(name: str) -> bool:
    from timm.models import is_model  # takes seconds to import

    return is_model(name)


def _not_understood(word: str) -> str:
    key, equals, value = word.partition("=")
    if not key or not equals or '"' in value:
        return f"{word!r} is not understood. Write key=value, as in budget.flops=0.5."
    quoted = f'{key}="{value}"'
    return (
        f"{word!r} is not understood: its value needs quotes around it, and more for the shell: '{quoted}'."
    )


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or _first_line(error).rpartition(" ")[2]
        raise UserError(f"{key} is not given. Add {key}=... to the command line.") from error
    except InterpolationKeyError as error:
        missing = re.search(r"Interpolation key '([^']+)' not found", str(error))
        if missing is None:
            raise UserError(f"The configuration refers to an unknown key: {_first_line(error)}") from error
        key = missing[1]
        raise UserError(
            f"The configuration refers to an unknown key: {key}. If '~{key}' on the command line removed it, leave "
            f"that word out; to change the key write {key}=VALUE."
        ) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """The message for an unknown key; known ones are those of the configuration by the other words."""
    if key == ARGUMENTS or key.startswith(f"{ARGUMENTS}."):
        name = key.removeprefix(ARGUMENTS).removeprefix(".") or "NAME"
        return f"To add an argument of the network write '+' before the key: +{ARGUMENTS}.{name}=VALUE."
    choices = [
        word for word in overrides if re.fullmatch(r"[\w/]+=\w+", word) and not word.startswith(f"{key}=")
    ]
    try:
        config = _composed(choices)
    except HydraException:
        config = _composed(())
    return f"There is no key {key!r}. {nearest(key, _keys(config))} All keys: prunelab --cfg job"


def _explained(overrides: Sequence[str]) -> DictConfig:
    """The result of ``_composed``. Raises UserError if an override is wrong."""
    overrides = present_words(overrides)
    try:
        return _composed(overrides)
    except (HydraException, ValueError) as error:
        raise UserError(explain(error, overrides)) from error


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration and Hydra's own. Raises HydraException."""
    location = conf_location()
    packaged = location.startswith("pkg://")
    initialize = initialize_config_module if packaged else initialize_config_dir
    with initialize(location.removeprefix("pkg://"), version_base=VERSION_BASE):
        return compose(CONFIG_NAME, overrides=list(overrides), return_hydra_config=True)


def _keys(config: DictConfig) -> Iterator[str]:
    """The dotted names of all keys that can be set; of Hydra's own keys only those of launcher and sweeper."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    ours = {name: value for name, value in plain.items() if name != "hydra"}
    return dotted({**ours, "hydra": {part: plain["hydra"][part] for part in ("launcher", "sweeper")}})


def dotted(values: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The names of all keys of a configuration, nested ones with a dot: method, method.criterion, ..."""
    for name, value in values.items():
        if name != "_target_":
            yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
