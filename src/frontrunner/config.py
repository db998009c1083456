"""Hydra at arm's length: composing, hashing and building, with errors that name the key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frontrunner.errors import ConfigError, FrontrunnerError, first_line, nearest

# What does not change a run's result does not change its identity either.
NOT_IDENTITY = (
    "output",
    "fresh",
    "logger",
    "launcher",
    "label",
    "runner.progress",
    "runner.profiler",
)


def _level(pattern: Any, sparsity: Any) -> str:
    """How sparse, for labels: ``0.7``, or ``2of4`` for 2:4, which is no name for a folder."""
    return str(pattern).replace(":", "of") if ":" in str(pattern) else str(sparsity)


OmegaConf.register_new_resolver("level", _level, replace=True)


def conf_dir() -> Path:
    """The configuration tree: inside the installed package, or beside ``src/`` in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise ConfigError("the configuration folder 'conf' is missing from this installation")


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose one configuration with Hydra and resolve it.

    Folders ``conf/`` and ``slurm/`` in the working directory are searched after the package's own,
    so that a user's methods, tasks and launchers are found without being installed.

    Raises:
        ConfigError: an unknown key, group or option (the nearest valid ones are suggested), a
            malformed override, or a value still missing.
    """
    return resolved(unresolved(overrides))


@cache
def _root_keys() -> tuple[str, ...]:
    return tuple(map(str, OmegaConf.load(conf_dir() / "config.yaml")))


def resolved(config: DictConfig) -> DictConfig:
    """What `unresolved` composed, in place without references, complete and without unknown keys.

    Raises:
        ConfigError: as `compose`.
    """
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ConfigError(_without(config, first_line(error))) from None
    missing = OmegaConf.missing_keys(config)
    if missing:
        # The shortest is where the value belongs: the others are references to it.
        key = min(missing, key=lambda name: (len(name), name))
        raise ConfigError(f"no value for {key}; add {key}=… to the command")
    known = {*_root_keys(), *groups()}
    unknown = sorted(set(map(str, config)) - known)
    if unknown:
        raise ConfigError(f"unknown key '{unknown[0]}'{nearest(unknown[0], known)}")
    return config


def search_path() -> list[str]:
    """Hydra overrides that add the working directory's ``conf/``, if it is not the package's, and
    its ``slurm/``."""
    # Quoted, since a path may hold spaces, commas and brackets.
    quoted = (f"file://{p}".replace("\\", "\\\\").replace("'", "\\'") for p in _local())
    paths = ",".join(f"'{path}'" for path in quoted)
    return [f"hydra.searchpath=[{paths}]"] if paths else []


def _local() -> list[Path]:
    """Folders of the user's own configurations: ``conf``, and ``slurm``, which has launchers."""
    found = [Path.cwd() / "conf", Path.cwd() / "slurm"]
    return [p for p in found if p.is_dir() and p.resolve() != conf_dir().resolve()]


def unresolved(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, with references in it and perhaps values missing.

    Raises:
        ConfigError: as `compose`.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, MissingConfigException

    # Inside a multirun Hydra is initialised already, and its state must be left as it was.
    state = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra_compose("config", overrides=[*search_path(), *overrides])
    except MissingConfigException as error:
        group, _, _ = (error.missing_cfg_file or "").partition("/")
        wanted = (error.missing_cfg_file or "").removeprefix(f"{group}/")
        valid = options(group)
        same = [option for option in valid if option.rpartition("/")[2] == wanted]
        raise ConfigError(
            f"{group}={wanted} does not exist{nearest(wanted, valid) if not same else ''}"
            + (f"; did you mean '{same[0]}'?" if same else "")
        ) from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from None
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = state


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for a Hydra error, with the nearest valid keys where a key is unknown."""
    text = first_line(error)
    found = re.search(r"Could not override '([^']+)'", text)
    if not found:
        return text
    key = found.group(1).split("@")[0]
    if key in groups():
        return f"'{key}' is a group: choose one of {', '.join(options(key))}"
    valid = _keys_beside(key, overrides)
    return f"unknown key '{key}'{nearest(key, valid)}"


def _without(config: DictConfig, text: str) -> str:
    """What to say of a reference into a group that the configuration is composed without."""
    found = re.search(r"Interpolation key '(\w+)[^']*' not found", text)
    if not found or found[1] in config or found[1] not in groups():
        return text
    group = found[1]
    return (
        f"task '{config.task.name}' goes without {group}, which the chosen method needs: choose "
        f"another method, or add {group}=…"
    )


def _keys_beside(key: str, overrides: Sequence[str]) -> list[str]:
    """Every dotted key of the configuration that the other overrides compose."""
    others = [o for o in overrides if o.lstrip("+~").split("=")[0] != key]
    chosen = [o for o in others if o.split("=")[0] in groups()]
    try:
        config = unresolved(chosen)
    except ConfigError:
        return groups()
    return [*dotted(config), *groups()]


def dotted(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, in dotted form."""
    for key in map(str, config):
        name = f"{prefix}{key}"
        yield name
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        value = config[key]
        if isinstance(value, DictConfig):
            yield from dotted(value, f"{name}.")


def without_globs(overrides: Sequence[str]) -> list[str]:
    """Overrides with each ``glob(…)`` replaced by the options it matches, such as
    ``method=glob(merging/*,exclude=merging/slerp)``. Hydra's own does not look into subfolders.

    Raises:
        ConfigError: a malformed override, or a pattern that matches no option.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob
    from hydra.errors import HydraException

    words = []
    for word in overrides:
        if "=glob(" not in word:
            words.append(word)
            continue
        try:
            (parsed,) = OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            raise ConfigError(f"{word}: {first_line(error)}") from None
        pattern = parsed.value()
        if isinstance(pattern, Glob):
            found = pattern.filter(options(parsed.key_or_group))
            if not found:
                raise ConfigError(f"{word} matches none of '{parsed.key_or_group}'")
            word = f"{parsed.get_key_element()}={','.join(found)}"
        words.append(word)
    return words


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The cells of a sweep, as Hydra's basic sweeper makes them: a list of overrides each.

    Raises:
        ConfigError: a malformed override.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(without_globs(overrides))
        batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        where = getattr(error, "override", None)
        raise ConfigError(f"{where}: {first_line(error)}" if where else first_line(error)) from None
    return [list(cell) for cell in batches[0]]


def with_choices(overrides: Sequence[str]) -> list[str]:
    """Overrides for Hydra's own main: a key of a group that is swept over becomes a choice of one.

    Hydra composes a sweep once without what is swept over, where a key that only the swept options
    have (``method=pruning/wanda,pruning/alps method.sparsity=0.7``) does not exist.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = {o.key_or_group for o in parsed if o.is_sweep_override()}
    words = []
    for word, override in zip(overrides, parsed, strict=True):
        group, dot, _ = override.key_or_group.partition(".")
        plain_value = not (override.is_sweep_override() or override.is_delete())
        if dot and group in swept and plain_value:
            key, _, value = word.partition("=")
            word = f"{key}=choice({value})"
        words.append(word)
    return words


def groups() -> list[str]:
    """The configuration groups, in the order of ``config.yaml``."""
    found = sorted(p.name for p in conf_dir().iterdir() if p.is_dir())
    local = Path.cwd() / "conf"
    if local.is_dir():
        found += sorted(p.name for p in local.iterdir() if p.is_dir() and p.name not in found)
    return found


def options(group: str) -> list[str]:
    """The options of a group, e.g. ``learning/cosmos`` for ``method``."""
    return sorted(_option_files(group))


def _option_files(group: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in (conf_dir(), *_local()):
        for path in (root / group).rglob("*.yaml"):
            found.setdefault(path.relative_to(root / group).with_suffix("").as_posix(), path)
    return found


def describe(group: str) -> dict[str, str]:
    """Each option of a group with its first line of comment.

    Raises:
        ConfigError: no such group.
    """
    name = {g + "s": g for g in groups()}.get(group, group)
    if name not in groups():
        raise ConfigError(f"no group '{group}'{nearest(group, groups())}")
    described = {}
    for option, path in sorted(_option_files(name).items()):
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [x[1:].strip() for x in lines if x.startswith("#") and "@package" not in x]
        described[option] = comments[0] if comments else ""
    return described


def build(node: Any, **arguments: Any) -> Any:
    """Instantiate a node's ``_target_``; the package's own errors come through as they are.

    Raises:
        ConfigError: an argument the target does not take, or a target that does not exist.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, **arguments)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, FrontrunnerError):
                raise cause from None
            cause = cause.__cause__
        origin = error.__cause__ or error
        found = re.search(r"unexpected keyword argument '([^']+)'", str(origin))
        target = str(node.get("_target_", "?")).rpartition(".")[2]
        where = re.search(r"full_key: (\S+)", str(error))
        key = where.group(1) if where else ""
        if found:
            name = f"{key}.{found.group(1)}" if key else found.group(1)
            raise ConfigError(f"unknown key '{name}': {target} does not take it") from None
        raise ConfigError(f"{key or target}: {first_line(origin)}") from origin


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain data."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def load(path: str | os.PathLike[str]) -> DictConfig:
    """Read a run's ``config.yaml``.

    Raises:
        ConfigError: missing or not YAML.
    """
    from yaml import YAMLError

    try:
        config = OmegaConf.load(Path(path))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable: {first_line(error)}") from None
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path} is not a run's configuration")
    return config
