"""Some of the plans of `make campaign`: whatever is lost, refused or killed, each service ends as if it had not been.

docs/campaign.md has the table of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.campaign import Campaign
from faults.plans import some
from faults.proxy import operator_behind
from support import Operator

pytestmark = pytest.mark.control_plane

# Writes of the workload; `make campaign` learns the number anew, here it decides which plans there are.
WRITES = 23


@pytest.fixture(scope="module")
def campaign(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """An operator behind a proxy in place of the one of all other tests."""
    with operator_behind(operator, tmp_path_factory.mktemp("campaign")) as (proxy, harmed):
        yield Campaign(operator.cluster, proxy, harmed)


def test_whatever_is_lost_or_refused_or_killed_the_end_is_the_same_and_nothing_was_open(campaign: Campaign) -> None:
    found = campaign.run(some(WRITES))
    assert {plan: problems for plan, problems in found.items() if problems} == {}
    assert campaign.kills >= 3
    log = campaign.operator.log.read_text()
    assert "Traceback" not in log
    assert "Bearer" not in log
