"""What the operator says of a fetch is what the fetch does: exit codes, reasons, the forms of its arguments."""

from __future__ import annotations

import argparse

from zimage_operator.children.download import HOPELESS, arguments
from zimage_operator.model_status import EXITS
from zimage_operator.models import Choice, Weights
from zimage_operator.spec import REPO
from zimage_worker.fetch import command
from zimage_worker.fetch.command import INTERRUPTED, source_of
from zimage_worker.fetch.errors import FetchError

# Raised by `--verify` alone, which no Job runs.
ELSEWHERE = {"Damaged"}


def test_exit_codes_and_reasons_are_the_fetch_s() -> None:
    kinds = {kind.exit_code: kind.__name__ for kind in FetchError.__subclasses__()}
    known = {code: name for code, name in kinds.items() if name not in ELSEWHERE}
    assert {1: "Fault", INTERRUPTED: "Interrupted", **known} == EXITS


def test_what_fails_again_is_not_tried_again() -> None:
    again = {kind.exit_code for kind in FetchError.__subclasses__() if kind.again}
    assert set(HOPELESS) == set(EXITS) - again - {INTERRUPTED}


def test_the_fetch_takes_the_job_s_command_line() -> None:
    wanted, other = Weights("Tongyi-MAI/Z-Image-Turbo", "1" * 40), Weights("a/b", "2" * 40)
    given = arguments(Choice(wanted=wanted), (other.folder,))
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    taken = parser.parse_args(given)
    source = source_of(taken, {})
    assert (source.repo, source.revision) == (wanted.repo, wanted.revision)
    assert (str(taken.to), taken.clear, taken.keep) == (f"/models/{wanted.folder}", True, [other.folder])
    assert (str(taken.report), taken.progress_port) == ("/dev/termination-log", 9090)


def test_the_forms_of_a_repository_are_the_same() -> None:
    assert command.REPO.pattern == REPO
