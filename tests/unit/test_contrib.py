"""What stands in contrib/: the files for containers, as those who take them read them."""

import re
from pathlib import Path, PurePosixPath

import pytest

from mprelay.config.cli import parse
from mprelay.config.host import Host
from mprelay.config.validation import Config

pytestmark = pytest.mark.posix("the validator, which scripts/test-windows does not install")

ROOT = Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib"


@pytest.fixture(scope="module")
def manifests():
    """The documents of the Kubernetes file, by their kinds."""
    yaml = pytest.importorskip("yaml")
    return {made["kind"]: made for made in yaml.safe_load_all((CONTRIB / "kubernetes/job.yaml").read_text())}


def test_kubernetes_takes_the_manifests(manifests):
    """Each by its schema, with nothing that it does not know."""
    validator = pytest.importorskip("kubernetes_validate")
    for made in manifests.values():
        validator.validate(made, validator.latest_version(), strict=True)


def test_nothing_revives_a_relay_that_has_expired(manifests):
    """A Deployment would. A Pod in the place of another has the same moment of expiry."""
    assert manifests.keys() == {"ConfigMap", "Job", "Service"}
    job = manifests["Job"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2, 69, 71]


def test_the_configuration_in_the_manifests_is_one(manifests):
    """It is read as the relay would read it, and agrees with what stands around it."""
    text = manifests["ConfigMap"]["data"]["relay.toml"]
    host = Host(read_file=lambda path: {PurePosixPath("/f"): text.encode()}[PurePosixPath(path)])
    config = parse(["--config", "/f"], host)
    assert isinstance(config, Config), config
    assert config.expires_at is not None
    pod = manifests["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    lives = container["livenessProbe"]["exec"]["command"]  # by HTTP, neighbours could keep it out
    assert lives == ["mprelayctl", "--control", config.control, "status"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"relay": config.fwd_port, "metrics": config.metrics.port}
    stop = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > config.drain_timeout + int(stop[1])
    assert manifests["Service"]["spec"]["selector"].items() <= manifests["Job"]["metadata"]["labels"].items()


def test_the_image_has_no_root_and_no_shell_in_between():
    """Signals reach the relay as PID 1 only if no shell stands before it."""
    *_, last = re.split(r"^FROM ", (CONTRIB / "container/Containerfile").read_text(), flags=re.MULTILINE)
    (user,) = re.findall(r"^USER (.*)$", last, re.MULTILINE)
    assert all(int(number) > 0 for number in user.split(":"))
    assert re.findall(r"^ENTRYPOINT (.*)$", last, re.MULTILINE) == ['["/opt/mprelay/bin/mprelay"]']
    assert "STOPSIGNAL SIGTERM" in last


def test_the_build_takes_only_what_it_needs():
    """By any builder: all of them read a file of this name. Nothing else of a working copy gets into a layer."""
    first, *others = (ROOT / ".dockerignore").read_text().splitlines()
    assert first == "*"
    assert all((ROOT / other.removeprefix("!")).exists() for other in others)
    assert not (ROOT / ".containerignore").exists()
