import json

from quantmux.capability import Rejection, RejectionCode
from quantmux.capability.evidence import DECLARED, Evidence, EvidenceLevel

ONE = Rejection(code="align_k", field="in_features", required="a multiple of 16", actual="1368")


def test_equal_reasons_are_equal_and_one_key():
    again = Rejection(
        code=RejectionCode.ALIGN_K, field="in_features", required="a multiple of 16", actual="1368"
    )
    assert again == ONE
    assert len({ONE, again}) == 1


def test_another_range_or_value_is_another_reason():
    others = [ONE.replace(actual="1376"), ONE.replace(m_min=2), ONE.replace(hint="pad")]
    assert len({ONE, *others}) == 4


def test_gives_json_with_every_key_of_the_interface():
    shown = ONE.to_dict()
    assert set(shown) == {"code", "field", "required", "actual", "hint", "m_min", "m_max"}
    assert json.loads(json.dumps(shown)) == shown
    assert shown["code"] == "align_k"
    assert (shown["m_min"], shown["m_max"]) == (1, None)


def test_prints_need_against_value():
    assert str(ONE.replace(hint="pad to 1376")) == (
        "align_k: in_features needs a multiple of 16, found 1368 (pad to 1376)"
    )


def test_evidence_levels_include_the_ones_before():
    levels = list(EvidenceLevel)
    assert [str(level) for level in levels] == ["declared", "compiled", "verified", "measured"]
    for i, level in enumerate(levels):
        assert [level.reaches(other) for other in levels] == [j <= i for j in range(4)]


def test_evidence_gives_the_keys_of_the_matrix():
    assert DECLARED.to_dict() == {
        "level": "declared",
        "stale": False,
        "cases": 0,
        "worst_error": None,
        "date": None,
        "why_stale": "",
        "driver": None,
        "versions": {},
        "refused": 0,
        "failed": 0,
        "archs": [],
        "note": "",
    }
    assert Evidence(EvidenceLevel.MEASURED, cases=3).to_dict()["level"] == "measured"
