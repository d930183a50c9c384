"""Reading back: what counts as a difference, and who made it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zimage_operator.observed import Drift, at, differences, drift, held_replicas, owner_uid, read_pod, reclaimed

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


def test_every_difference_can_be_looked_up() -> None:
    wanted = {"a": [{"name": "x", "v": 1}], "b": [1, 2], "c": {"d": 3}}
    live = {"a": [{"name": "y"}, {"name": "x", "v": 2}], "b": [1, 3], "c": {}}
    assert [(path, at(live, path)) for path in differences(wanted, live)] == [
        (("a", "x", "v"), 2),
        (("b", "1"), 3),
        (("c", "d"), None),
    ]


def entry(manager: str, fields: dict[str, object], operation: str = "Update", **more: str) -> dict[str, object]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **more}


def test_what_others_hold_of_a_spec_is_reclaimed_but_for_metadata_replicas_and_status() -> None:
    ours = entry("zimage-operator", {"f:spec": {"f:a": {}}}, "Apply")
    mesh = entry("mesh", {"f:metadata": {"f:labels": {}}, "f:spec": {"f:a": {"f:b": {}}, "f:replicas": {}}})
    status = entry("controller", {"f:status": {}}, subresource="status")
    live = {"metadata": {"managedFields": [ours, mesh, status]}}
    assert reclaimed(live) == [
        {**ours, "fieldsV1": {"f:spec": {"f:a": {"f:b": {}}}}},
        {**mesh, "fieldsV1": {"f:metadata": {"f:labels": {}}}},
        status,
    ]
    assert reclaimed({"metadata": {"managedFields": [ours, status]}}) is None


def test_replicas_are_handed_over_only_where_they_are_ours() -> None:
    held = {"metadata": {"managedFields": [entry("zimage-operator", {"f:spec": {"f:replicas": {}}})]}}
    free = {"metadata": {"managedFields": [entry("autoscaler", {"f:spec": {"f:replicas": {}}})]}}
    assert held_replicas({**held, "spec": {"replicas": 3}}) == 3
    assert held_replicas({**free, "spec": {"replicas": 3}}) is None
