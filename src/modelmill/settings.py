"""The platform's half of a project: `modelmill.toml` and `MODELMILL_*`, read once at the edge, then passed down.

This is the only place that reads environment variables. A flag beats a variable, a variable beats the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from modelmill.errors import ConnectionUnknown, EnvironmentUnknown, ProjectNotFound, SettingInvalid, did_you_mean
from modelmill.names import parse_model_name

FILE_NAME = "modelmill.toml"
DEV = "dev"
"""The environment that is always there."""
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
LEAST_MEMORY = 256 << 20
"""What a node takes before it has opened anything is about half of it."""
FLOORS = ("clean commit", "law", "gate", "load", "approval", "canary")
"""What an environment may require of a release."""


def parse_memory(text: str) -> int:
    """Return ``1GiB`` or ``800 MB`` as bytes; raises `SettingInvalid` for what is none, or too little for a node."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise SettingInvalid(f"`{text[:40]}` is no amount of memory", expected="a number with MiB or GiB, such as 1GiB")
    amount = int(float(found[1]) * unit)
    if amount < LEAST_MEMORY:
        raise SettingInvalid(f"`{text[:40]}` is too little for a node", expected=f"at least {LEAST_MEMORY >> 20}MiB")
    return amount


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How much a build may use."""

    workers: int = 0
    """Worker processes; 0 means one a core."""
    segment_timeout_s: float = 60.0
    """A segment is stopped, and counted as failed, when one of its steps (fit, predict, judge, save) takes longer."""
    worker_memory_mb: int = 4096
    """A worker that grows beyond this is stopped; its segment is counted as failed. At least 512: libraries need some."""

    @property
    def processes(self) -> int:
        """Return how many worker processes that is here."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a serving node listens."""

    host: str = "127.0.0.1"
    """The address; with anything but this machine's own, requests must carry the token in `keys/node.token` of the store."""
    port: int = 8700
    """The port; 0 takes any free one."""
    grpc_port: int = -1
    """The port of inference over gRPC, with `pip install 'modelmill[grpc]'`; 0 takes any free one. Left out, there is none."""
    workers: int = 1
    """Processes that answer."""
    child_memory_mb: int = 2048
    """What the process of a model that Python answers may have of its own; one that leaks is started again when it has it."""
    name: str = ""
    """A name with a dot under which requests may come to a node without a token, such as a proxy's; others are refused."""
    memory: str = ""
    """What the node's processes may take together, such as `1GiB`; graphs are closed to stay within. Left out, half of the
    machine's memory. Child processes that run Python are not counted."""

    @property
    def memory_bytes(self) -> int:
        """Return that as bytes, 0 where it is left out."""
        return parse_memory(self.memory) if self.memory else 0


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """What a serving node logs of its answers."""

    level: str = "memory"
    """How far a record has come when its answer leaves: `memory` (a killed worker loses a quarter of a second), `os` (it
    loses nothing), `fsync` (a power cut loses nothing, and each answer waits for the disk), or `off`."""
    sample: float = 1.0
    """The share of the requests that is logged."""
    models: Mapping[str, float] = field(default_factory=dict)
    """Another share for some models: name -> share."""
    keep_mb: int = 1024
    """What the node may write before it was turned into a dataset; beyond it records are dropped, and counted."""
    keep_days: int = 30
    """After how many days logged predictions are removed."""


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """A place that models are released to, with its own releases, its own node and its own floors."""

    requires: tuple[str, ...] = ()
    """What a release needs here beyond what its model asks for: `clean commit`, `law`, `gate`, `load`, `approval`, `canary`."""
    host: str = ""
    """The address of its node; that of `[serve]` where it is left out."""
    port: int = -1
    """The port of its node; left out, that of `[serve]` for the first environment, and one more for each that follows."""
    grpc_port: int = -1
    """Its port of gRPC; left out, that of `[serve]` in the same way."""
    workers: int = 0
    """Processes that answer; 0 means as many as `[serve]` says."""
    most_refused: float = 1.0
    """A release in which laws or the gate refused more than this share of the segments is refused as a whole."""
    slo: str = ""
    """What its models have to bear, such as `p99=20ms,qps=2000`: the floor `load` asks for it, and so does `loadtest`."""
    nodes: tuple[str, ...] = ()
    """The machines on which a node of it should run, by their host names; a plan names those that are not seen."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `modelmill.toml` and the environment say."""

    root: Path
    """The project's folder: where `modelmill.toml` lies."""
    model: str = ""
    """The model file that commands use when none is named, relative to the project."""
    store: str = ".modelmill"
    """A folder, relative to the project, that holds the database, the blobs and the keys."""
    shared: bool = False
    """Whether the group of the store's folder may use it, too: all but its keys. Decided when the store is made."""
    database: str = ""
    """An SQLAlchemy URL; empty means SQLite inside the store."""
    connections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Where rows come from: name -> environment -> address."""
    environments: Mapping[str, EnvironmentSettings] = field(default_factory=dict)
    """The places that models are released to; `dev` is always one, and what `modelmill up` releases to."""
    build: BuildSettings = BuildSettings()
    serve: ServeSettings = ServeSettings()
    predictions: PredictionSettings = PredictionSettings()

    @property
    def store_folder(self) -> Path:
        """Return the store as an absolute path."""
        return (self.root / self.store).resolve()

    @property
    def database_url(self) -> str:
        """Return the database as an SQLAlchemy URL."""
        return self.database or f"sqlite:///{self.store_folder / 'mill.db'}"

    @property
    def places(self) -> tuple[str, ...]:
        """Return the names of all environments, as declared; `dev` comes first where it is not."""
        return tuple(self.environments) if DEV in self.environments else (DEV, *self.environments)

    def environment(self, name: str) -> EnvironmentSettings:
        """Return what is declared of an environment."""
        if name not in self.places:
            raise EnvironmentUnknown(
                f"environment `{name}` is not declared",
                where=str(self.root / FILE_NAME),
                likely=did_you_mean(name, self.places),
                next=f"add:  [environments.{name}]",
            )
        return self.environments.get(name, EnvironmentSettings())

    def serving(self, name: str) -> ServeSettings:
        """Return how the node of an environment listens."""
        declared, common = self.environment(name), self.serve
        port, grpc_port = (p + self.places.index(name) if p > 0 else p for p in (common.port, common.grpc_port))
        return replace(
            common,
            host=declared.host or common.host,
            port=declared.port if declared.port >= 0 else port,
            grpc_port=declared.grpc_port if declared.grpc_port >= 0 else grpc_port,
            workers=declared.workers or common.workers,
        )

    def address(self, connection: str, environment: str) -> str:
        """Return where a connection points to in an environment."""
        if connection not in self.connections:
            raise ConnectionUnknown(
                f"connection `{connection}` is not declared",
                where=str(self.root / FILE_NAME),
                likely=did_you_mean(connection, self.connections),
                next=f'add:  [connections.{connection}]\n{environment} = "path/to/rows.parquet"',
            )
        places = self.connections[connection]
        if environment not in places:
            raise ConnectionUnknown(
                f"connection `{connection}` has no address in environment `{environment}`",
                where=str(self.root / FILE_NAME),
                got=f"addresses for: {', '.join(places)}",
            )
        return _with_variables(places[environment], connection)


def _with_variables(address: str, connection: str) -> str:
    """Return an address with ``${NAME}`` replaced by that variable of the environment: where a password belongs."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            raise ConnectionUnknown(
                f"the address of connection `{connection}` needs the variable `{name}`", next=f"export {name}=..."
            )
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, address)


VARIABLES = {
    "MODELMILL_STORE": ("store",),
    "MODELMILL_DATABASE_URL": ("database",),
    "MODELMILL_MODEL": ("model",),
    "MODELMILL_HOST": ("serve", "host"),
    "MODELMILL_PORT": ("serve", "port"),
}
"""Environment variable -> the setting that it wins over."""


def find_project(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds `modelmill.toml`."""
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise ProjectNotFound(
        f"no `{FILE_NAME}` in `{start}` or above it", next="modelmill init      (writes a project that runs)"
    )


def load_settings(root: Path, environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Read the project at `root`; `flags` that are not None win over the environment, it over the file."""
    environ = os.environ if environ is None else environ
    declared = _read_toml(root / FILE_NAME)
    for name, (*tables, key) in VARIABLES.items():
        if text := environ.get(name):
            _table_in(declared, tables)[key] = int(text) if text.isdecimal() else text
    settings: Settings = _build(Settings, {"root": root, **declared}, root / FILE_NAME, "")
    return replace(settings, **{key: value for key, value in flags.items() if value is not None})


def _table_in(declared: dict[str, Any], tables: list[str]) -> dict[str, Any]:
    """Return a table of the file, made where it has none; one that is no table stays, to be refused with its place."""
    for table in tables:
        declared = declared.setdefault(table, {}) if isinstance(declared.get(table, {}), dict) else {}
    return declared


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"`{path.name}` is not valid TOML: {error}", where=str(path)) from error


_NESTED: dict[str, type[Any]] = {"build": BuildSettings, "serve": ServeSettings, "predictions": PredictionSettings}


def _build(kind: type[Any], values: Mapping[str, Any], path: Path, prefix: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise SettingInvalid(
                f"unknown setting `{prefix}{name}`", where=str(path), likely=did_you_mean(name, known.keys() - {"root"})
            )
        _check_type(f"{prefix}{name}", value, str(known[name].type), path)
    nested = {n: _build(_NESTED[n], v, path, f"{n}.") for n, v in values.items() if n in _NESTED}
    if "environments" in values and kind is Settings:
        places = values["environments"].items()
        nested["environments"] = {n: _environment(n, v, path) for n, v in places}
    return kind(**{**values, **nested})


def _environment(name: str, values: Any, path: Path) -> EnvironmentSettings:
    prefix = f"environments.{name}"
    if not isinstance(values, dict):
        raise SettingInvalid(
            f"setting `{prefix}` has the wrong type", where=str(path), expected=f"[{prefix}]", got=repr(values)
        )
    parse_model_name(name)
    requires = values.get("requires", [])
    if not isinstance(requires, list) or not all(floor in FLOORS for floor in requires):
        raise SettingInvalid(
            f"setting `{prefix}.requires` is not a list of floors",
            where=str(path),
            expected=", ".join(f'"{floor}"' for floor in FLOORS),
            got=f"{requires!r}"[:200],
        )
    nodes = values.get("nodes", [])
    if not isinstance(nodes, list) or not all(isinstance(host, str) and host for host in nodes):
        raise SettingInvalid(
            f"setting `{prefix}.nodes` is not a list of host names", where=str(path), got=f"{nodes!r}"[:200]
        )
    others = {key: value for key, value in values.items() if key not in ("requires", "nodes")}
    found: EnvironmentSettings = _build(EnvironmentSettings, others, path, f"{prefix}.")
    return replace(found, requires=tuple(requires), nodes=tuple(nodes))


_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}


_LEAST = {
    "build.worker_memory_mb": 512,
    "serve.child_memory_mb": 512,
    "predictions.keep_mb": 1,
    "predictions.keep_days": 1,
}
_MOST = {"predictions.sample": 1}
_SHARES = (".most_refused",)
_CHOICES = {"predictions.level": ("off", "memory", "os", "fsync")}


def _check_type(name: str, value: Any, declared: str, path: Path) -> None:
    wanted = _TYPES.get(declared, (dict, Path))
    if not isinstance(value, wanted) or (isinstance(value, bool) and declared != "bool"):
        raise SettingInvalid(
            f"setting `{name}` has the wrong type", where=str(path), expected=declared, got=f"{value!r}"
        )
    _check_choice(name, value, path)
    if name == "serve.memory" and value:
        _check_memory(name, str(value), path)
    least = _LEAST.get(name, 0)
    if isinstance(value, int | float) and value < least:
        raise SettingInvalid(
            f"setting `{name}` is too small", where=str(path), expected=f"at least {least}", got=f"{value!r}"
        )
    most: Any = 1 if name.endswith(_SHARES) else _MOST.get(name, value)
    if isinstance(value, int | float) and value > most:
        raise SettingInvalid(
            f"setting `{name}` is too large", where=str(path), expected=f"at most {most}", got=f"{value!r}"
        )


def _check_memory(name: str, value: str, path: Path) -> None:
    try:
        parse_memory(value)
    except SettingInvalid as error:
        raise SettingInvalid(
            f"setting `{name}`: {error.what}", where=str(path), expected=error.parts["expected"]
        ) from None


def _check_choice(name: str, value: Any, path: Path) -> None:
    choices = _CHOICES.get(name)
    if choices and value not in choices:
        raise SettingInvalid(
            f"setting `{name}` is `{value}`",
            where=str(path),
            expected=", ".join(choices),
            likely=did_you_mean(str(value), choices),
        )
    if name == "predictions.models":
        wrong = [f"{model} = {share!r}" for model, share in value.items() if not _is_share(share)]
        if wrong:
            raise SettingInvalid("a share is a number from 0 to 1", where=str(path), got=", ".join(wrong)[:200])


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
