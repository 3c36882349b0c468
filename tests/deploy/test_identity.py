"""Who is who: kits, rosters, and certificates that are refused before any frame is read."""

import stat
import threading
import time

import grpc
import pytest
import yaml
from cryptography import x509

from huscf.__main__ import main
from huscf.deploy import exchange as patience
from huscf.deploy import kits
from huscf.deploy.grpc_wire import METHOD, GrpcExchange, GrpcServer
from huscf.deploy.kits import Tls, check_roster, read_roster, write_kits
from huscf.errors import HuscfError


class Sessions:
    """Notes whose frames it is given."""

    def __init__(self, *names):
        self.roster = dict.fromkeys(names, (0,))
        self.seen, self.events = [], []

    def check_known(self, name):
        if name not in self.roster:
            raise HuscfError(f"{name}: not in the roster of this server")

    def tell_process(self, name, data):
        return "present"

    def connect(self, name):
        self.events.append(("connect", name))

    def disconnect(self, name):
        self.events.append(("disconnect", name))

    def handle(self, name, data):
        self.seen.append((name, data))
        return b"answer to " + data


@pytest.fixture
def kit(tmp_path):
    write_kits(tmp_path / "kit", {"a": [0], "b": [1]}, "localhost")
    return tmp_path / "kit"


@pytest.fixture
def served(kit, monkeypatch):
    monkeypatch.setattr(patience, "BACKOFF_S", (0.05, 0.1))
    sessions = Sessions("a", "b")
    server = GrpcServer(sessions, Tls.read(kit / "server"), "127.0.0.1:0")
    yield sessions, server
    server.stop(0)


def call(server, tls, patience_s=0.5):
    exchange = GrpcExchange(f"localhost:{server.port}", tls, patience_s)
    try:
        return exchange(b"frame")
    finally:
        exchange.close()


def test_a_site_is_known_by_its_certificate(kit, served):
    sessions, server = served
    assert call(server, Tls.read(kit / "a")) == b"answer to frame"
    assert call(server, Tls.read(kit / "b")) == b"answer to frame"
    assert sessions.seen == [("a", b"frame"), ("b", b"frame")]


def expired(kit):
    """A certificate of the right authority, of yesterday."""
    authority = kits._Authority(
        kits.serialization.load_pem_private_key((kit / "ca.key").read_bytes(), None),
        kits.x509.load_pem_x509_certificate((kit / "ca.crt").read_bytes()),
    )
    authority.write_party(kit / "old", "site", "a", days=-1)
    return read_as_it_is(kit / "old")


def read_as_it_is(folder):
    return Tls(*((folder / name).read_bytes() for name in ("ca.crt", "site.crt", "site.key")), "a")


def foreign(kit):
    """Another authority's certificate of the same name, which trusts the right server."""
    write_kits(kit.parent / "other", {"a": [0]}, "localhost")
    other = Tls.read(kit.parent / "other" / "a")
    return Tls(Tls.read(kit / "a").ca, other.certificate, other.key, "a")


@pytest.mark.parametrize("make", [expired, foreign])
def test_expired_and_foreign_certificates_are_refused_before_any_frame(kit, served, make):
    sessions, server = served
    with pytest.raises(HuscfError, match=r"server localhost:\d+: cannot be reached"):
        call(server, make(kit))
    assert sessions.seen == [] and sessions.events == []


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("old", expired, r"old/site\.crt: is valid from .* to .* UTC: set this machine's clock"),
        ("a", foreign, r"a/site\.crt: was not issued by ca\.crt beside it: give all files"),
    ],
)
def test_a_party_hears_at_once_that_its_own_certificate_is_of_no_use(
    kit, name, make, message, capsys
):
    tls = make(kit)
    (kit / name / "site.crt").write_bytes(tls.certificate)
    with pytest.raises(HuscfError, match=message):
        Tls.read(kit / name)
    assert main(["join", "--tls", str(kit / name), "--config", "none.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (kit / name / "ca.crt").write_text("nothing")
    with pytest.raises(HuscfError, match=r"is valid|ca\.crt: is no certificate"):
        Tls.read(kit / name)


def test_certificates_between_a_party_and_its_authority_may_lie_in_its_own_file(kit):
    """As of an authority that others run, which signs by one of the day."""
    write_kits(kit.parent / "other", {"a": [0]}, "localhost")
    own, other = kit / "a", kit.parent / "other"
    chain = (other / "a" / "site.crt").read_bytes() + (other / "ca.crt").read_bytes()
    (own / "site.crt").write_bytes(chain)
    assert Tls.read(own).certificate == chain


def test_without_a_certificate_nobody_comes_in(kit, served):
    sessions, server = served
    authority = grpc.ssl_channel_credentials((kit / "ca.crt").read_bytes())
    for channel in (
        grpc.secure_channel(f"localhost:{server.port}", authority),
        grpc.insecure_channel(f"localhost:{server.port}"),
    ):
        with channel, pytest.raises(grpc.RpcError):
            next(channel.stream_stream(METHOD)(iter([b"frame"]), timeout=2))
    assert sessions.seen == [] and sessions.events == []


def test_a_site_does_not_talk_to_a_foreign_server(kit, served):
    sessions, server = served
    write_kits(kit.parent / "other", {"a": [0]}, "localhost")
    started = time.monotonic()
    with pytest.raises(HuscfError, match="not of the authority of this site's kit"):
        call(server, Tls.read(kit.parent / "other" / "a"), patience_s=600.0)
    assert time.monotonic() - started < 60  # time does not mend it
    assert sessions.seen == []


def test_a_site_does_not_join_with_the_servers_kit(kit, capsys):
    assert main(["join", "--tls", str(kit / "server")]) == 2
    error = capsys.readouterr().err
    assert "that is the server's kit; give the site's own" in error and error.count("\n") == 1


def test_who_was_struck_off_the_roster_is_told_so(kit, served):
    sessions, server = served
    del sessions.roster["b"]
    with pytest.raises(HuscfError, match="b: not in the roster of this server"):
        call(server, Tls.read(kit / "b"))
    assert sessions.seen == []


def test_a_second_stream_of_a_name_ends_the_first_and_a_broken_one_is_dialled_again(kit, served):
    sessions, server = served
    first = GrpcExchange(f"localhost:{server.port}", Tls.read(kit / "a"), 5.0)
    second = GrpcExchange(f"localhost:{server.port}", Tls.read(kit / "a"), 5.0)
    assert (first(b"1"), second(b"2")) == (b"answer to 1", b"answer to 2")
    assert ("disconnect", "a") not in sessions.events  # the newer stream is there
    second.close()
    assert wait_for(lambda: ("disconnect", "a") in sessions.events)
    assert first(b"3") == b"answer to 3"
    assert sessions.events.count(("connect", "a")) == 3
    first.close()


def test_a_site_waits_for_a_server_that_starts_later(kit, monkeypatch):
    monkeypatch.setattr(patience, "BACKOFF_S", (0.05, 0.1))
    sessions, lines, answers = Sessions("a"), [], []
    tls = Tls.read(kit / "server")
    server = GrpcServer(sessions, tls, "127.0.0.1:0")
    port = server.port
    server.stop(0)
    exchange = GrpcExchange(f"localhost:{port}", Tls.read(kit / "a"), 20.0, lines.append)
    thread = threading.Thread(target=lambda: answers.append(exchange(b"early")))
    thread.start()
    assert wait_for(lambda: lines)
    server = GrpcServer(sessions, tls, f"127.0.0.1:{port}")
    thread.join(60)
    assert answers == [b"answer to early"] and sessions.seen == [("a", b"early")]
    assert lines[0].startswith("no connection (")
    exchange.close()
    server.stop(0)


def test_nvflares_kits_let_sites_in_by_the_roster(tmp_path, kit):
    """They have the same files under other names, and no secret."""
    ours = {"server": ("server", "server"), "a": ("site", "client"), "b": ("site", "client")}
    for party, (stem, theirs) in ours.items():
        for name in ("key", "crt"):
            (kit / party / f"{stem}.{name}").rename(kit / party / f"{theirs}.{name}")
        (kit / party / "ca.crt").rename(kit / party / "rootCA.pem")
        (kit / party / "secret").unlink(missing_ok=True)
    sessions = Sessions("a")
    server = GrpcServer(sessions, Tls.read(kit / "server"), "127.0.0.1:0")
    try:
        site = Tls.read(kit / "a")
        assert site.name == "a" and site.secret is None
        assert call(server, site) == b"answer to frame"
        # As of an administrator, whose certificate has the same authority.
        with pytest.raises(HuscfError, match="b: not in the roster"):
            call(server, Tls.read(kit / "b"))
    finally:
        server.stop(0)
    assert sessions.seen == [("a", b"frame")]
    (kit / "a" / "client.key").unlink()
    with pytest.raises(HuscfError, match=r"client\.key: No such file.*startup of NVFlare's kit"):
        Tls.read(kit / "a")


def wait_for(is_so, timeout_s=60.0):
    end = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()


def test_kits_have_private_keys_and_secrets_of_their_own(kit):
    assert read_roster(kit / "server") == {"a": (0,), "b": (1,)}
    private = ["ca.key", "server/server.key", "a/site.key", "a/secret", "b/site.key", "b/secret"]
    for name in private:
        assert stat.S_IMODE((kit / name).stat().st_mode) == 0o600
    assert len({(kit / name).read_bytes() for name in private}) == len(private)
    assert not list(kit.glob("*/ca.key"))  # no party can make others
    assert Tls.read(kit / "b").name == "b" and len(Tls.read(kit / "b").secret) == 64
    site = yaml.safe_load((kit / "a" / "site.yaml").read_text())
    assert site["address"] == "localhost:8443"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["../up"], "letters, digits"),
        (["server"], "not server"),
        ([".x"], "begin with a dot"),
        (["a", "ca.key"], "kits have a file of that name; take another"),
        (["address", "CA.crt"], "kits have a file of that name"),
        (["\u00f6" * 40], "over 60 bytes"),
    ],
)
def test_a_name_is_one_folder(tmp_path, names, reason):
    with pytest.raises(HuscfError, match=reason):
        write_kits(tmp_path / "kit", {n: [k] for k, n in enumerate(names)}, "localhost")
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host", "krankenhaus-k\u00f6ln.de"], "in ASCII (xn--...)"),
        (["--host", "https://fl.example.org"], "without https:// and port (--port)"),
        (["--host", "fl.example.org:8443"], "without https:// and port (--port)"),
        (["--host", "fl..org"], "must be a name such as fl.example.org or an address"),
        (["--host", ""], "must be a name such as fl.example.org or an address"),
        (["--host", "h", "--port", "99999"], "--port is 99999, must be >= 1 and <= 65535"),
        (["--host", "h", "--port", "0"], "--port is 0, must be >= 1 and <= 65535"),
    ],
)
def test_a_host_or_port_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path, capsys, options, reason
):
    output = tmp_path / "kit"
    assert main(["provision", "--sites", "a", *options, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("10.0.0.7", "10.0.0.7:8443"),
        ("::1", "[::1]:8443"),
        ("xn--krankenhaus-kln-lwb.de", "xn--krankenhaus-kln-lwb.de:8443"),
        (f"{'a' * 60}.{'b' * 60}.example.org", f"{'a' * 60}.{'b' * 60}.example.org:8443"),
    ],
)
def test_hosts_that_can_be_are_in_certificate_and_address(tmp_path, host, address):
    write_kits(tmp_path / "kit", {"a": [0]}, host)
    site = yaml.safe_load((tmp_path / "kit" / "a" / "site.yaml").read_text())
    assert site["address"] == address
    certificate = x509.load_pem_x509_certificate(Tls.read(tmp_path / "kit" / "server").certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in {str(name.value) for name in names}


def test_a_kit_that_cannot_be_finished_leaves_nothing_behind(kit, tmp_path, monkeypatch):
    write_private = kits._write_private

    def fail(path, content):
        if path.name == "secret" and path.parent.name in ("y", "late"):
            raise OSError(28, "No space left on device", str(path))
        write_private(path, content)

    monkeypatch.setattr(kits, "_write_private", fail)
    with pytest.raises(OSError, match="No space"):
        write_kits(tmp_path / "new", {"x": [0], "y": [1]}, "localhost")
    assert not (tmp_path / "new").exists()
    with pytest.raises(OSError, match="No space"):
        kits.add_kits(kit, ["early", "late"])
    assert sorted(path.name for path in kit.iterdir() if path.is_dir()) == ["a", "b", "server"]
    assert read_roster(kit / "server") == {"a": (0,), "b": (1,)}


def test_kits_are_not_overwritten_and_missing_files_are_named(kit, tmp_path):
    with pytest.raises(HuscfError, match="exists already; nothing was written"):
        write_kits(kit, {"c": [0]}, "localhost")
    (kit / "a" / "site.key").unlink()
    with pytest.raises(HuscfError, match=r"site\.key: No such file"):
        Tls.read(kit / "a")
    (kit / "b" / "site.crt").write_text("none")
    with pytest.raises(HuscfError, match=r"site\.crt is no certificate"):
        Tls.read(kit / "b")


def test_kits_are_added_under_the_same_authority(kit, tmp_path, capsys):
    before = {p: p.read_bytes() for p in kit.rglob("*") if p.is_file() and p.name != "roster.yaml"}
    count = sum(map(len, read_roster(kit / "server").values()))
    assert main(["provision", "--add", "late", "later", "--output", str(kit)]) == 0
    assert f"{count + 2} sites now" in capsys.readouterr().out
    roster = read_roster(kit / "server")
    assert (roster["late"], roster["later"]) == ((count,), (count + 1,))
    assert {p: p.read_bytes() for p in before} == before
    new, old = Tls.read(kit / "late"), Tls.read(kit / next(iter(roster)))
    assert (new.ca, new.name) == (old.ca, "late") and new.secret != old.secret
    x509.load_pem_x509_certificate(new.certificate).verify_directly_issued_by(
        x509.load_pem_x509_certificate(new.ca)
    )
    for arguments, reason in (
        (["--add", "late", "--output", str(kit)], "exists already"),
        (["--add", "x", "--output", str(tmp_path / "none")], "roster"),
        (["--sites", "x", "--output", str(tmp_path / "new")], "--host"),
    ):
        assert main(["provision", *arguments]) == 2
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1
    (kit / "ca.key").write_text("no key")
    assert main(["provision", "--add", "last", "--output", str(kit)]) == 2
    assert "without which no kit is added" in capsys.readouterr().err
    assert not (kit / "last").exists() and "last" not in read_roster(kit / "server")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (None, "needs a list of client numbers for every site"),
        ({"a": 0}, "a: needs a list of client numbers"),
        ({"a": []}, "a: needs a list"),
        ({"a": [0], "b": [0]}, r"each at one site; got \[0, 0\]"),
        ({"a": [1]}, "numbered from 0 on"),
    ],
)
def test_rosters_that_are_none_are_refused(values, reason):
    with pytest.raises(HuscfError, match=reason):
        check_roster(values, "roster.yaml")
