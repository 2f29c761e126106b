"""What other machines tell of a dataflow becomes figures, as if it were seen here."""

from __future__ import annotations

from dora.dashboard.elsewhere import Elsewhere
from dora.wire.survey import LinkSurvey, NodeSurvey, OutputSurvey, Survey


def survey(sent: int, received: int, cpu: float) -> Survey:
    return Survey(
        "id",
        "robot",
        [NodeSurvey("camera", "running", 1, cpu, 1000), NodeSurvey("plan", "running", 0, 0.0, 0)],
        [OutputSurvey("camera", "image", sent, sent * 10)],
        [LinkSurvey("camera/image", "plan/image", received, 5, 2)],
    )


def test_each_machine_tells_of_its_own_nodes() -> None:
    elsewhere = Elsewhere({"camera": "arm", "plan": "base"})
    surveys = {"arm": survey(100, 0, 1.0), "base": survey(0, 90, 0.0)}
    first = elsewhere.figures(surveys, 10.0)
    assert [(node["id"], node["machine"], node["sent_hz"]) for node in first["nodes"]] == [
        ("camera", "arm", 0),
        ("plan", "base", 0),
    ]
    then = elsewhere.figures({"arm": survey(140, 0, 1.5), "base": survey(0, 110, 0.0)}, 12.0)
    camera, plan = then["nodes"]
    assert (camera["sent_hz"], camera["cpu"], camera["memory"], camera["restarts"]) == (20, 25, 1000, 1)
    assert (plan["cpu"], plan["memory"], plan["dropped"], plan["waiting"]) == (None, None, 5, 2)
    (link,) = then["links"]
    assert (link["source"], link["target"], link["hz"], link["dropping_hz"]) == (
        "camera/image",
        "plan/image",
        10,
        0,
    )


def test_what_began_anew_and_who_is_silent() -> None:
    elsewhere = Elsewhere({})
    elsewhere.figures({"arm": survey(100, 50, 1.0)}, 10.0)
    (camera, _) = elsewhere.figures({"arm": survey(3, 60, 0.1)}, 11.0)["nodes"]
    assert (camera["sent_hz"], camera["cpu"]) == (0, 0)
    assert elsewhere.figures({}, 12.0) == {"nodes": [], "links": []}
