from itertools import combinations

from pydicom.uid import UID

from triage.dicom.uids import device_uid, result_uid

BASE = ("1.2.3", "1.2.4", "ab" * 32, 1, "sr")


def test_uids_never_change() -> None:
    """These very values are in archives; a new algorithm would send every result a second time."""
    assert result_uid(*BASE) == "2.25.321740705308306773587335937262839681937"
    assert device_uid("ab" * 32) == "2.25.73255494975723663193964343068310028303"


def test_every_part_makes_another_uid() -> None:
    study, series, model, run, role = BASE
    uids = [
        result_uid(*BASE), result_uid("1.2.5", series, model, run, role), result_uid(study, "1.2.5", model, run, role),
        result_uid(study, series, "cd" * 32, run, role), result_uid(study, series, model, 2, role),
        result_uid(study, series, model, run, "capture-1"), result_uid(study, "", model, run, role),
        device_uid(model), device_uid("cd" * 32),
    ]  # fmt: skip
    assert all(a != b for a, b in combinations(uids, 2))
    assert all(UID(uid).is_valid and len(uid) <= 44 for uid in uids)
