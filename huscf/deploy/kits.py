"""Who is who: a certificate authority, a kit of files per party, and the server's roster."""

import datetime
import ipaddress
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ..errors import HuscfError, check_count
from ..whole_files import write_text

ROSTER, SECRET, ADDRESS = "roster.yaml", "secret", "address"
#: File of the authority's certificate -> stem of a site's own: huscf's kits, and NVFlare's.
_STEMS = {"ca.crt": "site", "rootCA.pem": "client"}
#: Files beside the folders of kits, which no site can be called.
_FILES = ("ca.key", "ca.crt", ADDRESS)
_HOST = re.compile(r"(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*", re.ASCII)
#: Days for which a certificate is valid.
VALID_DAYS = 365


@dataclass(frozen=True)
class Tls:
    """The files of one party.

    Args:
        ca: The authority's certificate.
        certificate: The party's own.
        key: Its private key.
        name: As its certificate says.
        secret: Seeds a site's noise; None where there is none.
    """

    ca: bytes
    certificate: bytes
    key: bytes
    name: str
    secret: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "Tls":
        """Read a kit, of huscf's or of NVFlare's provisioning.

        Raises:
            HuscfError: Naming the file that is missing, no certificate, out of date or of another
                kit.
        """
        authority = next((ca for ca in _STEMS if (folder / ca).exists()), "ca.crt")
        stem = "server" if (folder / "server.crt").exists() else _STEMS[authority]
        try:
            ca, own, key = (
                (folder / name).read_bytes() for name in (authority, f"{stem}.crt", f"{stem}.key")
            )
        except OSError as error:
            raise HuscfError(
                f"--tls {folder}: {error.filename}: {error.strerror}; give the folder of this "
                "party that huscf provision made, or the folder startup of NVFlare's kit"
            ) from error
        try:
            name = read_name(own)
        except ValueError as error:
            raise HuscfError(f"--tls {folder}: {stem}.crt is no certificate") from error
        _check_certificate(folder / f"{stem}.crt", own, folder / authority, ca)
        secret = folder / SECRET
        return cls(ca, own, key, name, secret.read_text().strip() if secret.exists() else None)


def _check_certificate(path: Path, own: bytes, authority: Path, ca: bytes) -> None:
    """Refuse what no other party would accept, before anybody is called.

    Args:
        path: Of a party's certificate.
        own: What stands there: the certificate, and those between it and the authority.
        authority: Path of the authority's.
        ca: What stands there.

    Raises:
        HuscfError: Naming the file.
    """
    certificate, *between = x509.load_pem_x509_certificates(own)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.datetime.now(datetime.timezone.utc) <= end:
        raise HuscfError(
            f"--tls {path}: is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: set "
            "this machine's clock, or make new kits"
        )
    try:
        known = x509.load_pem_x509_certificates(ca)
    except ValueError as error:
        raise HuscfError(f"--tls {authority}: is no certificate") from error
    if not any(_has_issued(issuer, certificate) for issuer in (*between, *known)):
        raise HuscfError(
            f"--tls {path}: was not issued by {authority.name} beside it: give all files of one kit"
        )


def _has_issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def read_name(certificate: bytes) -> str:
    """Return the name that a certificate in PEM is for."""
    subject = x509.load_pem_x509_certificate(certificate).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def read_roster(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the clients of every site.

    Raises:
        HuscfError: Where the file is missing, or a client has no site or several.
    """
    return read_roster_file(folder / ROSTER)


def read_roster_file(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the clients of every site, as a file has them; see `read_roster`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise HuscfError(
            f"roster {path}: cannot be read: {' '.join(str(error).split())}"
        ) from error
    return check_roster(values, str(path))


def check_roster(values: object, owner: str) -> dict[str, tuple[int, ...]]:
    """Return a roster, once it is one: every client from 0 on has one site."""
    if not isinstance(values, dict) or not values:
        raise HuscfError(f"roster {owner}: needs a list of client numbers for every site's name")
    for name, clients in values.items():
        is_list = isinstance(clients, (list, tuple)) and bool(clients)
        if not isinstance(name, str) or not is_list or not all(type(c) is int for c in clients):
            raise HuscfError(f"roster {owner}: {name}: needs a list of client numbers")
    every = sorted(c for clients in values.values() for c in clients)
    if every != list(range(len(every))):
        raise HuscfError(
            f"roster {owner}: clients are numbered from 0 on, each at one site; got {every}"
        )
    return {name: tuple(clients) for name, clients in values.items()}


def write_kits(
    output: Path, roster: Mapping[str, Sequence[int]], host: str, port: int = 8443
) -> None:
    """Write a kit for the server and one for every site, or nothing.

    Args:
        output: Folder; `output/server` and `output/<site>` are the kits.
        roster: Clients by name of a site.
        host: Name or address by which sites reach the server.
        port: The server's.

    Raises:
        HuscfError: Where a name is no folder's or no host's, or a kit exists.
    """
    _check_names(output, roster)
    check_roster({name: list(clients) for name, clients in roster.items()}, str(output))
    check_host(host)
    check_count("--port", port, 1, 65535)
    try:
        output.mkdir(parents=True)
    except FileExistsError as error:
        raise HuscfError(f"output {output}: exists already; nothing was written") from error
    except OSError as error:
        raise HuscfError(f"output {output}: cannot be made ({error.strerror})") from error
    with _whole(output):
        authority = _Authority.make(output)
        authority.write_party(output / "server", "server", host)
        _write_roster(output, roster)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        (output / ADDRESS).write_text(address, encoding="utf-8")
        for name, clients in roster.items():
            _write_site(authority, output, name, len(clients))


def add_kits(output: Path, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Write kits for sites that come later, under the authority of the others.

    Args:
        output: What `write_kits` wrote, with `ca.key`.
        names: Of the new sites, which get the next free clients, one each.

    Returns:
        The new roster, which is also written into the server's kit.

    Raises:
        HuscfError: Where a name is no folder's or has a kit, or there is no authority.
    """
    _check_names(output, names)
    if len(set(names)) < len(names):
        raise HuscfError("a site is named twice; nothing was written")
    roster = read_roster(output / "server")
    authority = _Authority.read(output)
    first = sum(map(len, roster.values()))
    grown = roster | {name: (first + number,) for number, name in enumerate(names)}
    with _whole(*(output / name for name in names)):
        for name in names:
            _write_site(authority, output, name, len(grown[name]))
        _write_roster(output, grown)
    return grown


@contextmanager
def _whole(*folders: Path) -> Iterator[None]:
    """Remove new folders that could not be written to the end."""
    try:
        yield
    except BaseException:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_names(output: Path, names: Iterable[str]) -> None:
    for name in names:
        check_name(name)
        if (output / name).exists():
            raise HuscfError(f"kit {output / name}: exists already; nothing was written")


def check_name(name: str) -> None:
    """Raise a HuscfError unless a site can be called so."""
    if not name or name == "server" or not all(c.isalnum() or c in "-_." for c in name):
        raise HuscfError(f"site {name!r}: letters, digits, - _ and . make a name; not server")
    if name.startswith(".") or len(name.encode()) > 60:
        raise HuscfError(f"site {name!r}: must not begin with a dot or have over 60 bytes")
    if name.lower() in _FILES:
        raise HuscfError(f"site {name!r}: kits have a file of that name; take another")


def check_host(host: str) -> None:
    """Raise a HuscfError unless text is an address or the name of a host."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not host.isascii():
            raise HuscfError(
                f"--host {host}: give the name as certificates have it, in ASCII (xn--...)"
            ) from None
        if len(host) > 253 or not _HOST.fullmatch(host):
            raise HuscfError(
                f"--host {host}: must be a name such as fl.example.org or an address, without "
                "https:// and port (--port)"
            ) from None


def _write_roster(output: Path, roster: Mapping[str, Sequence[int]]) -> None:
    text = yaml.safe_dump({name: list(clients) for name, clients in roster.items()})
    write_text(output / "server" / ROSTER, text)


def _write_site(authority: "_Authority", output: Path, name: str, num_clients: int) -> None:
    authority.write_party(output / name, "site", name)
    _write_private(output / name / SECRET, secrets.token_hex(32).encode())
    site = {
        "address": (output / ADDRESS).read_text(encoding="utf-8").strip(),
        "data": {
            "class_path": "huscf.datamodules.NameYourOwnHere",
            "init_args": {"clients_per_domain": num_clients},
        },
    }
    text = yaml.safe_dump(site, sort_keys=False)
    (output / name / "site.yaml").write_text(_SITE_HEAD + text, encoding="utf-8")


_SITE_HEAD = """\
# This site's own data, of which no sample or label is sent: docs/datamodules.md. They make as
# many clients as the server's roster.yaml gives this site. Then
#   huscf check-data --config site.yaml
#   huscf join --config site.yaml --tls .
"""


@dataclass
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, output: Path) -> "_Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("huscf authority")
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder(name, name, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        certificate = builder.add_extension(usage, True).sign(key, hashes.SHA256())
        _write_private(output / "ca.key", _encode(key))
        (output / "ca.crt").write_bytes(_pem(certificate))
        return cls(key, certificate)

    @classmethod
    def read(cls, output: Path) -> "_Authority":
        try:
            key = serialization.load_pem_private_key((output / "ca.key").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((output / "ca.crt").read_bytes())
            (output / ADDRESS).read_text(encoding="utf-8")
        except (OSError, ValueError, TypeError) as error:
            raise HuscfError(
                f"{output}: ca.key, ca.crt and address, which huscf provision has written, cannot "
                f"be read, without which no kit is added ({error})"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise HuscfError(f"{output / 'ca.key'}: is no key that huscf provision has made")
        return cls(key, certificate)

    def write_party(self, folder: Path, stem: str, name: str, days: int = VALID_DAYS) -> None:
        """Write key and certificate of one party, and the authority's certificate."""
        folder.mkdir(mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        # A longer name than certificates' common names have stands below, among the hosts.
        builder = _builder(_name(name[:64]), self.certificate.subject, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        use = "SERVER_AUTH" if stem == "server" else "CLIENT_AUTH"
        usage = x509.ExtendedKeyUsage([getattr(x509.ExtendedKeyUsageOID, use)])
        builder = builder.add_extension(usage, False)
        if stem == "server":
            hosts = {name, "localhost", "127.0.0.1"}
            names = x509.SubjectAlternativeName([_as_host(each) for each in sorted(hosts)])
            builder = builder.add_extension(names, False)
        certificate = builder.sign(self.key, hashes.SHA256())
        _write_private(folder / f"{stem}.key", _encode(key))
        (folder / f"{stem}.crt").write_bytes(_pem(certificate))
        (folder / "ca.crt").write_bytes(_pem(self.certificate))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int = VALID_DAYS
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    # Clocks of machines differ by some minutes.
    begin = now - datetime.timedelta(hours=1 if days > 0 else 48)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin)
    return builder.not_valid_after(now + datetime.timedelta(days=days))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _as_host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _encode(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
