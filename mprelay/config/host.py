"""What the configuration needs to know of the host that the relay runs on. Its caller asks the system."""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias


def _read_nothing(_path: str) -> bytes:
    raise ValueError("cannot be read: the host is not known")


Found: TypeAlias = Sequence[str] | str
"""Addresses of one family, or a word that tells why there is none (:data:`mprelay.system.names.Found`)."""


def _cannot_seal() -> str | None:
    return "needs a host that is known"


def _load_no_key(_path: str) -> Any:  # noqa: ANN401 - nothing here knows what a key is
    raise ValueError("cannot be read: the host is not known")


def _know_no_name(_name: str) -> tuple[Found, Found]:
    return "NXDOMAIN", "NXDOMAIN"


class Host(NamedTuple):
    """One host, as far as its system can tell."""

    cpus: int = 1
    """CPUs that this process may use."""
    sessions_per_worker: int | None = None
    """Sessions that one worker process can hold; None: as many as there are."""
    is_broadcast: Callable[[str], bool] = lambda _ip: False
    """Tells whether an IPv4 address is a broadcast address of a network that the host is in."""
    can_send_from: Callable[[str], bool] = lambda _ip: True
    """Tells whether a connection can have this address of the host."""
    directory: str = "/"
    """The working directory, from which files are named."""
    read_file: Callable[[str], bytes] = _read_nothing
    """Reads a file that a person wrote for the relay. Raises OSError, or ValueError: what is wrong with it."""
    quotes_files: bool = True
    """Whether a record may quote from such a file. Not for a person who could not read it without the relay."""
    control_path_limit: int = 107
    """Bytes of the path of a control socket; 0: there can be none."""
    own_addresses: Callable[[], Collection[str]] = tuple
    """Lists the addresses of the host's interfaces. Called only where it matters, because it may take a while."""
    look_up: Callable[[str], tuple[Found, Found]] = _know_no_name
    """Returns the IPv4 addresses of a name, and its IPv6 addresses."""
    has_route: Callable[[str], bool] = lambda _ip: True
    """Tells whether there is a route to an address."""
    tells_paths: bool = True
    """Whether the system tells what TCP has measured on a connection."""
    serves_metrics: Callable[[], bool] = lambda: True
    """Tells whether the library for metrics is installed. Called only where it matters."""
    cannot_seal: Callable[[], str | None] = _cannot_seal
    """Tells why nothing can be sealed here; None: it can."""
    load_key: Callable[[str], Any] = _load_no_key
    """Takes a private key out of a file. Raises OSError, or ValueError: what is wrong with the file."""
    environment: Mapping[str, str] = MappingProxyType({})
    """The variables of the process."""


UNKNOWN_HOST: Final = Host()
"""A host with one CPU and no network."""
