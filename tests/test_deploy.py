"""The files of deploy/ name what there is: flags, paths, the address that is asked."""

import json
import re
import shlex
from pathlib import Path

import pytest

from minillm.cli.main import build_parser
from minillm.serve.settings import Settings

ROOT = Path(__file__).parent.parent
SHUTDOWN_AFTER = 5  # seconds for answers to get out, in serve.running


def instructions():
    """(word, rest) of the Containerfile, lines joined."""
    text = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [line.split(None, 1) for line in lines if line and not line.startswith("#")]


def unit():
    """Every value of each name of the unit."""
    found = {}
    text = (ROOT / "deploy" / "minillm.service").read_text(encoding="utf-8")
    for line in text.splitlines():
        name, equal, value = line.partition("=")
        if equal and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def parsed(words):
    return build_parser().parse_args(words)


def test_the_container_runs_a_command_that_there_is():
    said = dict(instructions())  # the last of each
    words = [*json.loads(said["ENTRYPOINT"]), *json.loads(said["CMD"])]
    assert words[0] == "minillm"
    arguments = parsed(words[1:])
    assert arguments.api_key_file and arguments.models == ["/model"]
    port = Settings().port if arguments.port is None else arguments.port
    assert said["EXPOSE"] == str(port)
    assert said["USER"].split(":")[0] not in ("0", "root")


def test_the_container_copies_what_there_is_and_builds_what_it_says():
    for word, rest in instructions():
        if word == "COPY":
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
    stages = [rest.split() for word, rest in instructions() if word == "FROM"]
    assert [stage[1:] for stage in stages] == [["AS", "build"], []]
    assert all(re.fullmatch(r"docker\.io/library/python:3\.\d+-slim", one[0]) for one in stages)


def test_the_health_of_the_container_is_asked_where_it_answers():
    check = dict(instructions())["HEALTHCHECK"]
    command = json.loads(check.partition("CMD")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    assert f"127.0.0.1:{Settings().port}/health" in command[2]
    pytest.importorskip("starlette", reason="starlette, the extra `serve`, is not installed")
    from minillm.serve.security import OPEN

    assert "/health" in OPEN  # without a key


def test_the_unit_starts_a_command_that_there_is():
    found = unit()
    (start,) = found["ExecStart"]
    words = shlex.split(start)
    assert Path(words[0]).name == "minillm" and Path(words[0]).is_absolute()
    arguments = parsed(words[1:])
    given = {one.partition(":")[0] for one in found["LoadCredential"]}
    for path in (arguments.api_key_file, arguments.admin_key_file):
        directory, _, name = path.partition("/")
        assert directory == "${CREDENTIALS_DIRECTORY}" and name in given
    assert arguments.metrics and arguments.log == "json"
    assert int(found["TimeoutStopSec"][0]) > Settings().shutdown_seconds + SHUTDOWN_AFTER


def test_the_unit_gives_no_rights():
    found = unit()
    for name in ("NoNewPrivileges", "DynamicUser", "ProtectHome", "PrivateTmp", "PrivateDevices"):
        assert found[name] == ["yes"]
    assert found["ProtectSystem"] == ["strict"] and found["CapabilityBoundingSet"] == [""]
    assert "AF_UNIX" in found["RestrictAddressFamilies"][0]  # of which the event loop has a pair
    assert "ProcSubset" not in found  # the memory that is free is read in /proc/meminfo
