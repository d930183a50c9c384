"""Reading back: what counts as a difference, and who made it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zimage_operator.observed import Drift, differences, drift, owner_uid, read_pod

plain = st.recursive(
    st.integers() | st.text(max_size=5) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_nothing_differs_from_itself(value: object) -> None:
    assert list(differences(value, value)) == []


@given(st.dictionaries(st.text(min_size=1, max_size=4), plain, max_size=3))
def test_fields_of_others_are_no_difference(wanted: dict[str, object]) -> None:
    assert list(differences(wanted, {**wanted, "someone else's": 1})) == []


def test_an_entry_more_in_a_list_of_peers_is_a_difference() -> None:
    wanted = {"from": [{"a": 1}]}
    assert list(differences(wanted, {"from": [{"a": 1}, {}]})) == [("from",)]


def test_what_is_empty_may_be_absent_but_not_filled() -> None:
    assert list(differences({"egress": []}, {})) == []
    assert list(differences({"egress": []}, {"egress": [{}]})) == [("egress",)]


def test_quantities_are_compared_as_amounts_only_where_they_are_amounts() -> None:
    path = {"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}}}
    assert list(differences(path, {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}})) == []
    assert list(differences({"env": "1000m"}, {"env": "1"})) == [("env",)]


def test_named_items_are_found_by_name() -> None:
    wanted = {"volumes": [{"name": "a", "x": 1}]}
    injected = {"volumes": [{"name": "sidecar"}, {"name": "a", "x": 1}]}
    assert list(differences(wanted, injected)) == []


def test_the_manager_of_the_changed_field_is_named() -> None:
    live = {
        "metadata": {
            "managedFields": [
                {"manager": "zimage-operator", "fieldsV1": {"f:spec": {"f:type": {}}}},
                {"manager": "kubectl-edit", "time": "2", "fieldsV1": {"f:spec": {"f:egress": {}}}},
                {
                    "manager": "controller",
                    "time": "3",
                    "subresource": "status",
                    "fieldsV1": {"f:spec": {"f:egress": {}}},
                },
            ]
        },
        "spec": {"type": "x", "egress": [{}]},
    }
    wanted = {"spec": {"type": "x", "egress": []}}
    assert drift(wanted, live) == [Drift(("spec", "egress"), "kubectl-edit")]


def test_only_a_controller_owner_counts() -> None:
    owner = {"kind": "ZImageService", "uid": "u"}
    assert owner_uid({"metadata": {"ownerReferences": [owner]}}) == ""
    assert owner_uid({"metadata": {"ownerReferences": [{**owner, "controller": True}]}}) == "u"


def test_a_pod_without_a_status_can_be_read() -> None:
    pod = read_pod({"metadata": {"namespace": "a", "name": "b", "uid": "c"}, "spec": {}})
    assert (pod.ready, pod.waiting, pod.ip) == (False, "", "")
