"""The operator's own settings: one line per mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zimage_operator.errors import BadSettings
from zimage_operator.settings import read


def test_defaults() -> None:
    inside, outside = read({}), read({"KUBECONFIG": "/some/where"})
    assert inside.probe_interval_seconds == 300
    assert outside.probe_interval_seconds == 0
    assert outside.namespace == "zimage-system"


def test_the_update_policy_is_careful_unless_told_otherwise() -> None:
    assert read({}).update_policy == "OnSpecChange"
    assert read({"ZIMAGE_OPERATOR_UPDATE_POLICY": "Auto"}).update_policy == "Auto"
    with pytest.raises(BadSettings, match="write one of OnSpecChange, Auto"):
        read({"ZIMAGE_OPERATOR_UPDATE_POLICY": "Never"})


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(BadSettings) as error:
        read({"ZIMAGE_OPERATOR_PORT": "http", "ZIMAGE_OPERATOR_LOG_LEVEL": "loud", "ZIMAGE_OPERATOR_WORKER_IMAGE": "w"})
    assert len(error.value.problems) == 3
    assert "ZIMAGE_OPERATOR_PORT: 'http' will not do: write a port, 1 to 65535" in error.value.problems


def test_the_process_ends_with_2() -> None:
    environment = {"ZIMAGE_OPERATOR_PORT": "0", "PATH": ""}
    command = [sys.executable, "-m", "zimage_operator", "run"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.strip() == "ZIMAGE_OPERATOR_PORT: '0' will not do: write a port, 1 to 65535"
