"""config.toml -> one validated, frozen Config; the only place that decides what a key means; opens nothing.

Relative paths are relative to the folder of the configuration file.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from triage.errors import ConfigError

AeTitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[^\\\x00-\x1f]+$")
]
"""PS3.5 6.2, VR AE: at most 16 characters, no backslash, no control character."""

Port = Annotated[int, Field(ge=0, le=65535)]
"""0 lets the operating system choose (tests)."""

Seconds = Annotated[float, Field(gt=0)]

Uri = Annotated[str, StringConstraints(pattern=r"^([A-Za-z][A-Za-z0-9+.-]*:\S+)?$")]
"""An absolute URI, or empty."""

MailAddress = Annotated[str, StringConstraints(pattern=r'^[^@\s<>()",:;\\]+@[^@\s<>()",;\\]+$')]
"""One address alone, without the characters that mean something in a list of them (RFC 5322 3.4)."""

MESSAGE_SECTIONS = ("hl7", "fhir", "webhooks", "mail")
"""Sections of outputs that are no DICOM peers."""

SECRETIVE = ".url"
"""End of the keys whose values may hold a password or a key, and so are not quoted."""


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Node(Section):
    """Who this node is."""

    ae_title: AeTitle = "ICHTRIAGE"
    host: str = "127.0.0.1"
    port: Port = 11112
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "node-01"
    """Device serial number in every result."""
    data_dir: Path = Field(default=Path("data"), strict=False)
    """Spool, received images, results and the default database."""


class Reception(Section):
    """What is accepted over the network, from whom, and within which limits."""

    calling_aets: tuple[AeTitle, ...] = Field(default=(), strict=False)
    """AE titles that may call; empty means anyone."""
    called_aets: tuple[AeTitle, ...] = Field(default=(), strict=False)
    """AE titles this node answers to; empty means its own only."""
    max_associations: Annotated[int, Field(ge=1, le=256)] = 16
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 131072
    acse_timeout_s: Seconds = 30.0
    dimse_timeout_s: Seconds = 30.0
    network_timeout_s: Seconds = 60.0
    disk_reserve_mb: Annotated[int, Field(ge=0)] = 2048
    """Below this much free space an instance is refused with A700 and the sender tries again later."""


class Completion(Section):
    """When a series is taken as complete."""

    quiet_s: Seconds = 3.0
    max_wait_s: Seconds = 60.0

    @model_validator(mode="after")
    def _order(self) -> "Completion":
        if self.max_wait_s < self.quiet_s:
            raise ValueError("max_wait_s must not be shorter than quiet_s")
        return self


BUNDLED_PACK = Path("models/ich-demo-0.3")
"""The pack that comes with the project, from its top folder."""


class Model(Section):
    """Which model pack judges, and where."""

    pack: Path = Field(default=BUNDLED_PACK, strict=False)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 or fp16 on CUDA, fp32 on a CPU."""


class Analysis(Section):
    """Limits of one analysis."""

    decode_timeout_s: Seconds = 20.0
    """Time limit for one compressed image in the decoding child process."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts after an unexpected fault, then the study ends as not analysed."""


class DatabaseSection(Section):
    """Where state lives."""

    url: str = ""
    """Any SQLAlchemy URL; empty means SQLite in data_dir."""


class Results(Section):
    """What is sent back."""

    sop_class: Literal["comprehensive3d", "comprehensive", "enhanced"] = "comprehensive3d"
    regions: bool = False
    """A second Structured Report with a region for each finding."""
    captures: bool = True
    """Secondary Captures for positive studies."""
    capture_mode: Literal["single", "multiframe"] = "single"
    max_key_slices: Annotated[int, Field(ge=1, le=5)] = 5
    key_object: bool = True
    """A Key Object Selection of the key slices, for positive studies."""
    presentation_state: bool = False
    activation_map: bool = False
    superseded: Literal["reject", "nothing"] = "reject"
    """What a new analysis does about the objects, other than reports, of the one it supersedes."""


DicomKind = Literal["report", "regions", "capture", "key_object", "presentation", "activation_map", "rejection"]


class Output(Section):
    """Base of everything that results are sent to."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
    """Unique among all outputs of every kind."""
    only_positive: bool = False
    """Gets nothing of studies that are negative or not analysed."""
    connect_timeout_s: Seconds = 10.0
    response_timeout_s: Seconds = 60.0


class Destination(Output):
    """One DICOM peer."""

    ae_title: AeTitle
    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    objects: tuple[DicomKind, ...] = Field(default=get_args(DicomKind), strict=False)
    """Kinds of objects that it gets, of those that are made."""
    storage_commitment: Literal["auto", "required", "off"] = "auto"
    """auto: asked for, and where the peer has none its acceptance counts; required: that is a failure to be mended."""
    commitment_timeout_s: Seconds = 600.0
    """After it an unanswered request for commitment is repeated."""

    @field_validator("host")
    @classmethod
    def _can_be_looked_up(cls, host: str) -> str:
        try:
            host.encode("idna")  # what the socket library does before it asks the name server
        except UnicodeError:
            raise ValueError("no host name") from None
        return host


class Hl7Output(Output):
    """A RIS or broker that takes HL7 v2.5.1 ORU^R01 over MLLP."""

    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    receiving_application: Annotated[str, StringConstraints(pattern=r"^[^|^~\\&\r\n]{0,180}$")] = ""
    receiving_facility: Annotated[str, StringConstraints(pattern=r"^[^|^~\\&\r\n]{0,180}$")] = ""
    sending_facility: Annotated[str, StringConstraints(pattern=r"^[^|^~\\&\r\n]{0,180}$")] = ""
    tls: bool = False
    ca_file: Path | None = Field(default=None, strict=False)
    """Certificates to trust in place of the system's."""


class HttpOutput(Output):
    """Base of outputs by HTTP POST."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
    token_file: Path | None = Field(default=None, strict=False)
    """Holds a bearer token; read at each attempt, so that it may be renewed."""
    ca_file: Path | None = Field(default=None, strict=False)

    @field_validator("url")
    @classmethod
    def _is_whole(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_whole = bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError("no host, or no port from 1 to 65535; correct it")
        return url

    @model_validator(mode="after")
    def _one_login(self) -> "HttpOutput":
        if self.token_file is not None and "@" in urlsplit(self.url).netloc:
            raise ValueError("url holds a login, and token_file another, which would not be sent; keep one of them")
        return self


class FhirOutput(HttpOutput):
    """A FHIR R4 server that takes a transaction bundle."""

    patient_system: Uri = ""
    """Identifier.system by which it knows patient IDs; empty: references have none."""
    order_system: Uri = ""
    """The same of accession numbers."""


class WebhookOutput(HttpOutput):
    """Anything that takes JSON."""

    only_positive: bool = True
    identifiers: bool = False
    """Also accession number, patient ID and UID, and why a study was not analysed, which may quote a description."""


class MailOutput(Output):
    """People who get an e-mail."""

    only_positive: bool = True
    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 25
    security: Literal["none", "starttls", "tls"] = "none"
    ca_file: Path | None = Field(default=None, strict=False)
    user: str = ""
    password_file: Path | None = Field(default=None, strict=False)
    sender: MailAddress
    recipients: tuple[MailAddress, ...] = Field(min_length=1, strict=False)
    identifiers: bool = False
    """Also the accession number."""

    @model_validator(mode="after")
    def _login(self) -> "MailOutput":
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file go together; set both or neither")
        if self.user and self.security == "none":
            raise ValueError('a password is not sent over an open line; set security to "starttls" or "tls"')
        return self


MessageOutput = Hl7Output | FhirOutput | WebhookOutput | MailOutput


class DeliverySection(Section):
    """How often a delivery is tried again."""

    first_retry_s: Seconds = 5.0
    max_retry_s: Seconds = 300.0
    give_up_h: Seconds = 72.0


class Retention(Section):
    """How long received images are kept."""

    days: Annotated[float, Field(ge=0)] = 14.0
    """Received images are deleted so long after the study's last arrival, never before its deliveries ended.

    0 keeps all.
    """


class Log(Section):
    """What is logged."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(Section):
    """The whole configuration, checked before anything starts."""

    node: Node = Node()
    reception: Reception = Reception()
    completion: Completion = Completion()
    model: Model = Model()
    analysis: Analysis = Analysis()
    database: DatabaseSection = DatabaseSection()
    results: Results = Results()
    delivery: DeliverySection = DeliverySection()
    retention: Retention = Retention()
    log: Log = Log()
    destinations: tuple[Destination, ...] = Field(default=(), strict=False)
    hl7: tuple[Hl7Output, ...] = Field(default=(), strict=False)
    fhir: tuple[FhirOutput, ...] = Field(default=(), strict=False)
    webhooks: tuple[WebhookOutput, ...] = Field(default=(), strict=False)
    mail: tuple[MailOutput, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _unique_names(self) -> "Config":
        names = [o.name for o in self.outputs]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"destinations: the name {twice[0]!r} is used twice; give each destination its own")
        return self

    @property
    def messages(self) -> tuple[MessageOutput, ...]:
        """Every output that is no DICOM peer."""
        return (*self.hl7, *self.fhir, *self.webhooks, *self.mail)

    @property
    def outputs(self) -> tuple[Destination | MessageOutput, ...]:
        """Everything that results are sent to."""
        return (*self.destinations, *self.messages)

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database.url or f"sqlite:///{self.node.data_dir / 'triage.db'}"


def load_config(path: Path) -> Config:
    """Read and validate a configuration file.

    Args:
        path: config.toml.

    Returns:
        The frozen configuration, its paths absolute.

    Raises:
        ConfigError: The file is missing, is no TOML, or a key is unknown or has a wrong value; one line that names it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; copy config.toml from the project or name one with --config"
        ) from None
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror}); check its permissions") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not valid TOML: {e}") from e
    return parse_config(values, base=path.resolve().parent)


def parse_config(values: dict[str, Any], base: Path) -> Config:
    """Validate configuration values and make their paths absolute.

    Args:
        values: As read from TOML.
        base: Folder that relative paths are relative to.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: A key is unknown or has a wrong value; one line that names the first such key and how many follow.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as e:
        raise ConfigError(_one_line(e)) from e
    node = config.node.model_copy(update={"data_dir": base / config.node.data_dir})
    model = config.model.model_copy(update={"pack": base / config.model.pack})
    outputs = {kind: tuple(_absolute(o, base) for o in getattr(config, kind)) for kind in MESSAGE_SECTIONS}
    return config.model_copy(update={"node": node, "model": model, **outputs})


def _absolute(output: MessageOutput, base: Path) -> MessageOutput:
    """An output with the paths of its files made absolute."""
    files = {key: base / value for key, value in output if isinstance(value, Path)}
    return output.model_copy(update=files)


def _one_line(error: ValidationError) -> str:
    first, *rest = error.errors()
    key = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        text = f"{key}: unknown key; remove it or correct its spelling"
    elif first["type"] == "missing":
        text = f"{key}: missing; add it"
    elif not key:
        text = first["msg"].removeprefix("Value error, ")
    else:
        is_quotable = not (isinstance(first["input"], dict) or key.endswith(SECRETIVE))
        got = f" (got {first['input']!r}); correct it" if is_quotable else ""
        text = f"{key}: {first['msg'].removeprefix('Value error, ')}{got}"
    return text + (f" ({len(rest)} more)" if rest else "")
