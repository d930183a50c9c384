"""Every line says which resource it is about: as fields of its own, or before the text."""

from __future__ import annotations

import json
import logging

from zimage_operator.logs import Json, Text, about, named


def record(extra: dict[str, object] | None = None) -> logging.LogRecord:
    made = logging.LogRecord("zimage", logging.WARNING, "file", 1, "%s happened", ("it",), None)
    made.__dict__.update(extra or {})
    return made


def test_a_line_has_the_objects_key_as_fields() -> None:
    line = json.loads(Json().format(record(named(("team-a", "studio")))))
    assert (line["namespace"], line["name"], line["message"]) == ("team-a", "studio", "it happened")


def test_whatever_is_logged_while_a_resource_is_worked_on_names_it() -> None:
    with about(("team-a", "studio")):
        assert json.loads(Json().format(record()))["name"] == "studio"
    assert "name" not in json.loads(Json().format(record()))


def test_a_person_reads_the_key_before_the_text() -> None:
    assert Text("%(levelname)s %(message)s").format(record(named(("a", "b")))) == "WARNING a/b: it happened"
