"""Which sources let whom in, and that half a file counts for nothing."""

from __future__ import annotations

from pathlib import Path

import bcrypt
import pytest

from issuer import AUDIENCE, ISSUER, Issuer
from zimage_worker.files import SecretFiles, Source
from zimage_worker.settings import parse

ME = Issuer(ed="EdDSA")
USERS = f"alice:{bcrypt.hashpw(b'x', bcrypt.gensalt(4)).decode()}\n"
KEY = "0123456789abcdef0123456789abcdef"


def files(folder: Path, mode: str, *there: str, jwks: bool = True, token: bool = True) -> SecretFiles:
    """The sources of a mode, of which only some exist."""
    contents = {"auth": USERS.encode(), "jwks": ME.jwks(), "key": KEY.encode()}
    for name in there:
        (folder / name).write_bytes(contents[name])
    environ = {
        "ZIMAGE_MODEL_PATH": "/m", "ZIMAGE_ALLOWED_HOSTS": "*", "ZIMAGE_AUTH_MODE": mode,
        "ZIMAGE_BASIC_FILE": f"{folder}/auth",
    }  # fmt: skip
    if jwks:
        environ |= {"ZIMAGE_JWT_ISSUER": ISSUER, "ZIMAGE_JWT_AUDIENCES": AUDIENCE}
        environ["ZIMAGE_JWT_JWKS_FILE"] = f"{folder}/jwks"
    if token:
        environ["ZIMAGE_TOKEN_SIGNING_KEY_FILE"] = f"{folder}/key"
    return SecretFiles(parse(environ))


@pytest.mark.parametrize(
    ("mode", "there", "loaded", "problems"),
    [
        ("Basic", ("auth", "key"), True, 0), ("Basic", ("auth",), True, 1), ("Basic", ("key",), False, 1),
        ("Any", ("auth", "jwks", "key"), True, 0), ("Any", ("auth",), True, 2), ("Any", ("jwks",), True, 2),
        ("Any", ("key",), False, 2), ("Any", (), False, 3),
        ("JWT", ("jwks",), True, 2), ("JWT", ("auth", "key"), True, 1), ("JWT", ("auth",), False, 2),
        ("JWT", ("key",), False, 2),
    ],
)  # fmt: skip
def test_a_worker_is_ready_when_somebody_can_sign_in(
    tmp_path: Path, mode: str, there: tuple[str, ...], loaded: bool, problems: int
) -> None:
    found = files(tmp_path, mode, *there)
    assert found.loaded is loaded
    assert [each.reason for each in found.problems] == ["SecretMissing"] * problems


def test_what_a_mode_does_not_need_is_not_missed(tmp_path: Path) -> None:
    assert files(tmp_path, "None", token=False).problems == ()
    assert files(tmp_path, "JWT", "jwks", token=False).problems == ()
    assert files(tmp_path, "Basic", "auth", token=False).problems == ()


def test_files_that_come_later_are_found_and_only_changes_are_told(tmp_path: Path, caplog) -> None:
    found = files(tmp_path, "Any")
    assert not found.loaded
    (tmp_path / "auth").write_text(USERS)
    (tmp_path / "jwks").write_bytes(ME.jwks())
    (tmp_path / "key").write_text(KEY)
    found.read()
    assert found.loaded
    assert found.key_ids[0] == "ed"
    caplog.clear()
    found.read()
    assert not caplog.records


@pytest.mark.parametrize(
    ("first", "later", "seen"),
    [
        (b"n", [b"ne", b"new", b"new"], [b"old", b"new"]),
        (None, [b"old"], [b"old"]),
        (b"", [b"old"], [b"old"]),
        (None, [None, None], [b"old", None]),
    ],
)
def test_a_file_counts_when_it_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bytes | None, later: list[bytes | None], seen: list[object]
) -> None:
    """Written in place, or away for a moment: each sleep of the reader is the writer's next step."""
    path, steps, taken = tmp_path / "file", iter(later), []

    def write(content: bytes | None) -> None:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)

    write(b"old")
    source = Source(path, taken.append, None)
    write(first)
    monkeypatch.setattr("zimage_worker.files.time.sleep", lambda _seconds: write(next(steps, later[-1])))
    assert source.read() is (len(seen) == 2)
    assert taken == seen
